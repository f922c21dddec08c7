//! Any bytes on the two sockets of a node's helper, in both directions, and as an entry of its journal: read or refused, and
//! what is read is written back the same, so that there is one way to say each thing. A message may have more after its last
//! field, and a reply may end before fields that older builds don't have.

#![no_main]

use adit_node::cluster::fuzzing;
use adit_node::cluster::protocol::{Reply, Request};
use adit_node::protocol::MAX_MESSAGE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Request::decode(bytes) {
        Ok(request) => {
            let written = request.encode().expect("what was read can be written");
            assert!(bytes.starts_with(&written));
            assert!(
                written.len() <= MAX_MESSAGE,
                "a request within its bounds fits a message"
            );
        }
        Err(error) => assert!(
            error.to_string().len() < 256,
            "what a client sends must not fill the log"
        ),
    }
    if let Ok(reply) = Reply::decode(bytes) {
        let written = reply.encode();
        assert!(bytes.starts_with(&written) || written.starts_with(bytes));
        assert_eq!(Reply::decode(&written), Ok(reply));
    }
    fuzzing::plugin_message(bytes);
    fuzzing::journal_entry(bytes);
});
