//! Any lines of watches of the Kubernetes API, each after a byte that chooses its kind: none stops the model, and what comes
//! twice is one change.

#![no_main]

use adit_control::kubernetes::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::watch_lines(bytes));
