//! smoltcp as the TCP engine: one interface for the whole stack, one socket set of one socket for each flow.
//!
//! An [`Interface`] and a [`SocketSet`] know nothing of each other between calls, so a single interface serves
//! every flow: it's only asked about the set that a packet belongs to. It has no address; it takes every one for
//! its own (`any_ip`), because the stack plays every remote end. Frames are handed over by reference and written
//! straight into the caller's buffer.
//!
//! How the engine is set up, and why:
//! - **No Nagle.** The link is memory; holding bytes back saves nothing and delays the app by a round trip.
//! - **No delayed ACK.** Answers leave when the driver drains [`poll_transmit`](crate::Netstack::poll_transmit),
//!   after a batch of frames: a flow's ACKs of one batch are one already, without a timer.
//! - **No congestion control.** The link has one hop, whose queue is the pod's own device; it loses packets only
//!   if that overflows, and then the window is what bounds the loss. Loss is repaired by fast retransmit and RTO.
//! - **No timestamps** (RFC 7323): 12 bytes a segment for a round-trip time that's never in doubt here.

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::wire::HardwareAddress;

use crate::clock::Tick;

/// What all flows share of smoltcp.
pub(crate) struct Engine {
    interface: Interface,
    mtu: usize,
}

impl Engine {
    pub(crate) fn new(mtu: usize) -> Self {
        Self {
            interface: interface(mtu, 0),
            mtu,
        }
    }

    /// Longest IP packet, in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Hands `frame` to the socket in `sockets`. If it's answered at once, `answer` holds the answer after.
    pub(crate) fn ingress(
        &mut self,
        now: Tick,
        sockets: &mut SocketSet<'static>,
        frame: &[u8],
        answer: &mut Vec<u8>,
    ) -> bool {
        let mut port = Port {
            mtu: self.mtu,
            frame: Some(frame),
            out: answer,
            written: false,
        };
        let result = self.interface.poll_ingress_single(now, &mut port, sockets);
        debug_assert_ne!(result, PollIngressSingleResult::None, "the port has a frame");
        port.written
    }

    /// Lets the socket in `sockets` run its timers and send one segment; if it did, `out` holds it after.
    pub(crate) fn egress(&mut self, now: Tick, sockets: &mut SocketSet<'static>, out: &mut Vec<u8>) -> bool {
        let mut port = Port {
            mtu: self.mtu,
            frame: None,
            out,
            written: false,
        };
        let result = self.interface.poll_egress(now, &mut port, sockets);
        debug_assert_eq!(result == PollResult::SocketStateChanged, port.written);
        port.written
    }

    /// When the socket in `sockets` next has something to do by itself.
    pub(crate) fn poll_at(&mut self, now: Tick, sockets: &SocketSet<'static>) -> Option<Tick> {
        self.interface.poll_at(now, sockets)
    }

    /// An engine of its own whose next initial sequence number is `isn`.
    ///
    /// smoltcp has no way to choose one, but it draws it from a generator that it seeds from its configuration and
    /// whose step can be undone (see [`seed_for`]). Who depends on the number checks it in the SYN that comes out.
    pub(crate) fn with_isn(mtu: usize, isn: u32) -> Self {
        Self {
            interface: interface(mtu, seed_for(isn)),
            mtu,
        }
    }

    /// What a socket needs to open a connection.
    pub(crate) fn context(&mut self) -> &mut smoltcp::iface::Context {
        self.interface.context()
    }
}

fn interface(mtu: usize, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut port = Port {
        mtu,
        frame: None,
        out: &mut Vec::new(),
        written: false,
    };
    let mut interface = Interface::new(config, &mut port, Tick::ZERO);
    interface.set_any_ip(true);
    interface
}

/// The seed with which an interface's next random number is `isn`.
///
/// The generator is sPCG32: `state = state * M + A`, output `state >> (29 - (state >> 61))`. With the three top bits
/// zero the output is bits 29..61, so such a state can be written down; two steps back lies the seed, as the
/// interface draws once when it's made, for the identification of IPv4 fragments, and again while that is 0.
fn seed_for(isn: u32) -> u64 {
    let step_back = |state: u64| state.wrapping_sub(PCG_INCREMENT).wrapping_mul(PCG_INVERSE);
    let output = |state: u64| (state >> (29 - (state >> 61))) as u32;
    let wanted = u64::from(isn) << 29;
    (0..1_u64 << 29)
        .map(|low| step_back(wanted | low))
        .find(|&first| {
            let drawn = output(first);
            (drawn ^ (drawn >> 16)) as u16 != 0
        })
        .map_or(0, step_back)
}

const PCG_MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const PCG_INCREMENT: u64 = 0x7590_ef39;
const PCG_INVERSE: u64 = inverse(PCG_MULTIPLIER);

/// The inverse of an odd number modulo 2^64: Newton's iteration doubles the correct bits, from 3.
const fn inverse(odd: u64) -> u64 {
    let mut result = odd;
    let mut bits = 3;
    while bits < 64 {
        result = result.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(result)));
        bits *= 2;
    }
    result
}

/// The device that the interface sees: at most one frame in, at most one out.
struct Port<'a> {
    mtu: usize,
    frame: Option<&'a [u8]>,
    out: &'a mut Vec<u8>,
    written: bool,
}

impl Device for Port<'_> {
    type RxToken<'b>
        = FrameIn<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = FrameOut<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Tick) -> Option<(FrameIn<'_>, FrameOut<'_>)> {
        let frame = self.frame.take()?;
        Some((
            FrameIn(frame),
            FrameOut {
                out: self.out,
                written: &mut self.written,
            },
        ))
    }

    fn transmit(&mut self, _: Tick) -> Option<FrameOut<'_>> {
        (!self.written).then_some(FrameOut {
            out: self.out,
            written: &mut self.written,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // What comes in was verified; of what goes out the transport checksum is left to the device.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

struct FrameIn<'a>(&'a [u8]);

impl RxToken for FrameIn<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct FrameOut<'a> {
    out: &'a mut Vec<u8>,
    written: &'a mut bool,
}

impl TxToken for FrameOut<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        // What the buffer held before is overwritten whole: only what it's longer by has to be cleared.
        self.out.resize(length, 0);
        *self.written = true;
        f(self.out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::socket::tcp;
    use smoltcp::wire::{IpAddress, IpEndpoint};

    use super::*;
    use crate::packet::ip::IpPacket;
    use crate::packet::tcp::{SYN, Segment};

    proptest! {
        #[test]
        fn the_initial_sequence_number_can_be_chosen(isn: u32) {
            let mut engine = Engine::with_isn(65_520, isn);
            let mut sockets = SocketSet::new(Vec::new());
            let mut socket = tcp::Socket::new(tcp::SocketBuffer::new(vec![0; 64]), tcp::SocketBuffer::new(vec![0; 64]));
            let remote = IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), 80);
            socket.connect(engine.context(), remote, IpEndpoint::new(IpAddress::v4(10, 0, 0, 1), 1000)).unwrap();
            sockets.add(socket);
            let mut out = Vec::new();
            prop_assert!(engine.egress(Tick::ZERO, &mut sockets, &mut out));
            let packet = IpPacket::parse(&out).unwrap();
            let segment = Segment::parse(packet.payload()).unwrap();
            prop_assert_eq!((segment.seq, segment.flags), (isn, SYN));
        }
    }
}
