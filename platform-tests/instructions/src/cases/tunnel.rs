//! Heads of CONNECT, and streams through a tunnel with both its ends in one thread, a pipe in memory between them.
//!
//! Of a stream TLS is the larger part: valgrind plays a processor with AES instructions and without wider ones.

use std::hint::black_box;

use adit_tunnel::{Baggage, Connect, Stream};
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use super::Case;

#[allow(clippy::unwrap_used, reason = "the tests' own")]
#[path = "../../../../tunnel/tests/support/mod.rs"]
mod support;

use support::{Rig, client_addr, pattern, send_all, web_addr};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "tunnel: write a CONNECT head",
        calls: 2_000,
        prepare: || {
            let connect = connect();
            Box::new(move || {
                black_box(black_box(&connect).to_request());
            })
        },
    },
    Case {
        name: "tunnel: read a CONNECT head",
        calls: 2_000,
        prepare: || {
            let request = connect().to_request();
            Box::new(move || {
                black_box(Connect::parse(black_box(&request))).expect("it was written by us");
            })
        },
    },
    Case {
        name: "tunnel: open and reset a stream, both ends",
        calls: 500,
        prepare: open_and_reset,
    },
    Case {
        name: "tunnel: carry 64 bytes, both ends",
        calls: 1_000,
        prepare: || carry(64),
    },
    Case {
        name: "tunnel: carry 64 KiB, both ends",
        calls: 100,
        prepare: || carry(64 << 10),
    },
];

fn connect() -> Connect {
    let mut connect = Connect::new(web_addr(), client_addr());
    connect.baggage = Some(Baggage {
        cluster: "Kubernetes".to_owned(),
        namespace: "shop".to_owned(),
        pod: "web-5d4f8c7b9-x2x7q".to_owned(),
        deployment: "web".to_owned(),
        service: "web".to_owned(),
        version: "v1".to_owned(),
    });
    connect
}

/// A tunnel that is open, with a stream that keeps it so.
struct Open {
    runtime: Runtime,
    rig: Rig,
    first: (Stream, Stream),
}

fn open() -> Open {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without IO can be made");
    let (rig, first) = runtime.block_on(async {
        let mut rig = Rig::new();
        let first = rig.pair().await;
        (rig, first)
    });
    Open { runtime, rig, first }
}

fn open_and_reset() -> Box<dyn FnMut()> {
    let mut open = open();
    Box::new(move || {
        let Open { runtime, rig, .. } = &mut open;
        runtime.block_on(async { drop(rig.pair().await) });
    })
}

/// Bytes go in at one end and come out at the other.
fn carry(bytes: usize) -> Box<dyn FnMut()> {
    let Open { runtime, rig, first } = open();
    let (client, server) = first;
    let mut ends = (client.split(), server.split());
    let data = pattern(bytes, 7);
    let mut call = move || {
        let _tunnel = &rig;
        let ((send, _), (_, receive)) = &mut ends;
        let take = async {
            let mut left = bytes;
            while left > 0 {
                let got = receive.data().await.expect("the tunnel is open");
                let got = got.expect("the stream is open").len();
                receive.release(got);
                left -= got;
            }
        };
        let (sent, ()) = runtime.block_on(async { tokio::join!(send_all(send, Bytes::clone(&data)), take) });
        sent.expect("the tunnel is open");
    };
    // The first frames find buffers that have yet to grow.
    (0..20).for_each(|_| call());
    Box::new(call)
}
