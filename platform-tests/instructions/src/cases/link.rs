//! The header before each frame.

use std::hint::black_box;

use adit_link::{Checksum, Gso, GsoKind, VnetHeader};

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "link: read four vnet headers",
        calls: 10_000,
        prepare: || {
            let headers = headers().map(|header| header.emit());
            Box::new(move || {
                for header in black_box(&headers) {
                    let _ = black_box(VnetHeader::parse(header));
                }
            })
        },
    },
    Case {
        name: "link: write four vnet headers",
        calls: 10_000,
        prepare: || {
            let headers = headers();
            Box::new(move || {
                for header in black_box(&headers) {
                    black_box(header.emit());
                }
            })
        },
    },
];

/// One of each kind that pods send.
fn headers() -> [VnetHeader; 4] {
    let long = |kind, start, offset| VnetHeader {
        checksum: Checksum::Partial { start, offset },
        gso: Some(Gso {
            kind,
            ecn: false,
            segment: 1400,
        }),
        header_len: start + 32,
    };
    [
        VnetHeader::default(),
        VnetHeader::partial_checksum(20, 16),
        long(GsoKind::TcpV4, 20, 16),
        long(GsoKind::UdpSegment, 40, 6),
    ]
}
