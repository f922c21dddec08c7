//! Packets that pass a forwarder, for the benches of it.

use std::net::IpAddr;
use std::time::Instant;

use adit_netstack::{ForwardConfig, Forwarder, Offloads, Passage, Side};

/// What packets are like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    /// A super-packet of TCP.
    Long,
    TcpV6,
}

/// A forwarder with flows admitted.
pub(crate) struct Passing {
    pub(crate) forwarder: Forwarder,
    pub(crate) now: Instant,
    /// A packet from the pod, in the buffer that all packets are read into.
    packet: Vec<u8>,
    flows: usize,
    offloads: Offloads,
    turn: u64,
}

impl Passing {
    /// With so many flows admitted.
    pub(crate) fn new(kind: Kind, flows: usize) -> Self {
        let addresses = vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from(pod6())];
        let config = ForwardConfig {
            addresses,
            ..ForwardConfig::default()
        };
        #[allow(
            clippy::disallowed_methods,
            reason = "there is no other way to have an Instant; only differences count"
        )]
        let now = Instant::now();
        let mut passing = Self {
            forwarder: Forwarder::new(config, 7, now),
            now,
            packet: packet(kind),
            flows,
            offloads: match kind {
                Kind::Long => Offloads {
                    segment_size: Some(1400),
                    partial_checksum: true,
                },
                _ => Offloads::default(),
            },
            turn: 1,
        };
        for index in 0..flows {
            passing.admit(index);
        }
        passing
    }

    fn admit(&mut self, index: usize) {
        let Passage::New(flow) = self.handle(index) else {
            panic!("it's unknown")
        };
        self.forwarder.admit(self.now, &flow).expect("there's room");
        assert!(matches!(self.handle(index), Passage::Forward(_)));
    }

    /// A packet of the flow of this number comes from the pod.
    pub(crate) fn handle(&mut self, index: usize) -> Passage {
        set_flow(&mut self.packet, index);
        self.forwarder
            .handle(self.now, Side::Pod, &mut self.packet, self.offloads)
    }

    /// One of any flow that is admitted.
    pub(crate) fn pass_any(&mut self) -> Passage {
        let index = self.any();
        self.handle(index)
    }

    fn any(&mut self) -> usize {
        self.turn ^= self.turn << 13;
        self.turn ^= self.turn >> 7;
        self.turn ^= self.turn << 17;
        (self.turn % self.flows as u64) as usize
    }
}

fn pod6() -> [u16; 8] {
    [0xfd00, 0, 0, 0, 0, 0, 0, 1]
}

/// Makes a packet one of another flow.
fn set_flow(packet: &mut [u8], index: usize) {
    let transport = if packet[0] >> 4 == 4 { 20 } else { 40 };
    packet[transport..transport + 2].copy_from_slice(&(10_000 + index as u16).to_be_bytes());
}

/// A packet from the pod. Transport checksums aren't looked at.
fn packet(kind: Kind) -> Vec<u8> {
    let mut transport = vec![0; if matches!(kind, Kind::Long) { 60_000 } else { 120 }];
    transport[2..4].copy_from_slice(&443_u16.to_be_bytes());
    let protocol = match kind {
        Kind::Udp => 17,
        Kind::Tcp | Kind::Long | Kind::TcpV6 => {
            transport[12..14].copy_from_slice(&[0x80, 0x10]);
            // Timestamps, as kernels send them.
            transport[20..24].copy_from_slice(&[1, 1, 8, 10]);
            6
        }
    };
    let mut packet = match kind {
        Kind::TcpV6 => {
            let mut header = vec![0x60, 0, 0, 0, 0, transport.len() as u8, protocol, 64];
            for [.., last] in [[pod6()[7]], [9]] {
                header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                header.extend(last.to_be_bytes());
            }
            header
        }
        Kind::Tcp | Kind::Udp | Kind::Long => {
            let length = (20 + transport.len()) as u16;
            let mut header = vec![
                0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 9, 9, 9,
            ];
            header[2..4].copy_from_slice(&length.to_be_bytes());
            let sum: u32 = header
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
                .sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            header
        }
    };
    packet.extend(transport);
    packet
}
