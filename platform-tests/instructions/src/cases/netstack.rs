//! Segments that end in the netstack, and packets that pass the forwarder: each of a flow chosen at random.

use std::hint::black_box;

use adit_netstack::Config;
use bytes::Bytes;

use super::Case;

#[allow(dead_code, reason = "the benches of the crate use all of it")]
#[path = "../../../../netstack/benches/passing/mod.rs"]
mod passing;
#[allow(dead_code, reason = "the benches of the crate use all of it")]
#[path = "../../../../netstack/benches/pod/mod.rs"]
mod pod;

use passing::{Kind, Passing};
use pod::Pod;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "netstack: receive 100 bytes, 10 flows",
        calls: 2_000,
        prepare: || receive(10, 100),
    },
    Case {
        name: "netstack: receive 100 bytes, 10,000 flows",
        calls: 2_000,
        prepare: || receive(10_000, 100),
    },
    Case {
        name: "netstack: send 100 bytes, 10 flows",
        calls: 2_000,
        prepare: || send(10, 100),
    },
    Case {
        name: "netstack: send 100 bytes, 10,000 flows",
        calls: 2_000,
        prepare: || send(10_000, 100),
    },
    Case {
        name: "netstack: send 60,000 bytes",
        calls: 500,
        prepare: || send(1, 60_000),
    },
    Case {
        name: "netstack: open and close, 10 flows",
        calls: 1_000,
        prepare: || open_and_close(10),
    },
    Case {
        name: "netstack: open and close, 10,000 flows",
        calls: 1_000,
        prepare: || open_and_close(10_000),
    },
    Case {
        name: "netstack: forward a segment, 10 flows",
        calls: 5_000,
        prepare: || forward(Kind::Tcp, 10),
    },
    Case {
        name: "netstack: forward a segment, 10,000 flows",
        calls: 5_000,
        prepare: || forward(Kind::Tcp, 10_000),
    },
    Case {
        name: "netstack: forward a super-packet, 10 flows",
        calls: 5_000,
        prepare: || forward(Kind::Long, 10),
    },
];

/// A segment of the pod is taken in, read and acknowledged.
fn receive(flows: usize, bytes: usize) -> Box<dyn FnMut()> {
    let mut pod = Pod::new(flows, Config::default());
    Box::new(move || pod.receive(bytes))
}

/// Bytes are sent by reference and acknowledged by the pod.
fn send(flows: usize, bytes: usize) -> Box<dyn FnMut()> {
    let mut pod = Pod::new(flows, Config::default());
    let data = Bytes::from(vec![7; bytes]);
    // A window grows with use, and what is sent at once with it.
    (0..200).for_each(|_| pod.send_shared(&data));
    Box::new(move || pod.send_shared(&data))
}

fn open_and_close(flows: usize) -> Box<dyn FnMut()> {
    let mut pod = Pod::new(flows, Config::default());
    Box::new(move || {
        pod.open(flows);
        pod.close_last();
    })
}

fn forward(kind: Kind, flows: usize) -> Box<dyn FnMut()> {
    let mut passing = Passing::new(kind, flows);
    Box::new(move || {
        black_box(passing.pass_any());
    })
}
