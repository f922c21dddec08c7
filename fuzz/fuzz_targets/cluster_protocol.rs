//! Any bytes on the two sockets of a node's helper, in both directions, and as an entry of its journal: read or refused, and
//! what is read is written back the same, so that there is one way to say each thing.

#![no_main]

use adit_node::cluster::fuzzing;
use adit_node::cluster::protocol::{Reply, Request};
use adit_node::protocol::MAX_MESSAGE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Request::decode(bytes) {
        Ok(request) => {
            assert_eq!(request.encode().as_deref(), Ok(bytes));
            assert!(
                bytes.len() <= MAX_MESSAGE,
                "a request within its bounds fits a message"
            );
        }
        Err(error) => assert!(
            error.to_string().len() < 256,
            "what a client sends must not fill the log"
        ),
    }
    if let Ok(reply) = Reply::decode(bytes) {
        assert_eq!(reply.encode(), bytes);
    }
    fuzzing::plugin_message(bytes);
    fuzzing::journal_entry(bytes);
});
