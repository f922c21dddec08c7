//! Any environment and any standard input of the CNI plugin. The first six lines are the variables and whether the helper is
//! up; the rest is the configuration.

#![no_main]

use adit_node::cluster::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(7, |byte| *byte == b'\n');
    let variables = [(); 5].map(|()| String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned());
    let is_up = parts.next().is_some_and(|word| word == b"up");
    fuzzing::plugin_call(variables, parts.next().unwrap_or_default(), is_up);
});
