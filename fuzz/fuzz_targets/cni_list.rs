//! Any list of plugins: our entry goes in once, and comes out again without a trace.

#![no_main]

use adit_node::cluster::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::plugin_list(bytes));
