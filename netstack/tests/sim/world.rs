//! A kernel and a stack joined by a bad link, in virtual time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_netstack::{Config, Event, Netstack, PacketParts, RxChecksum, Transmit};
use smoltcp::time::Instant as Tick;

use crate::kernel::{Kernel, Owed};

/// Small, seeded, and the same on every machine.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the link does to a frame, either way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) delay_us: u64,
    /// Added at random; beyond the gap between frames it reorders them.
    pub(crate) jitter_us: u64,
    pub(crate) loss_percent: u64,
    pub(crate) duplicate_percent: u64,
}

impl Link {
    pub(crate) const CLEAN: Self = Self {
        delay_us: 10,
        jitter_us: 0,
        loss_percent: 0,
        duplicate_percent: 0,
    };
}

pub(crate) struct World {
    pub(crate) stack: Netstack,
    pub(crate) kernel: Kernel,
    pub(crate) link: Link,
    pub(crate) rng: Rng,
    epoch: Instant,
    pub(crate) now_us: u64,
    /// Frames under way by arrival and order.
    to_stack: BTreeMap<(u64, u64), Vec<u8>>,
    to_kernel: BTreeMap<(u64, u64), Vec<u8>>,
    sent: u64,
    buffer: Vec<u8>,
    parts: PacketParts,
    pub(crate) events: Vec<Event>,
    pub(crate) frames: u64,
    trace: bool,
    /// The last bare ACK of each connection, by its ends, the pod's first, and when they were repeated.
    bare_acks: BTreeMap<(SocketAddr, SocketAddr), Vec<u8>>,
    /// The pod's last FIN of each connection.
    fins: BTreeMap<(SocketAddr, SocketAddr), Vec<u8>>,
    repeated_us: u64,
}

impl World {
    pub(crate) fn new(seed: u64, mut config: Config, link: Link, kernel_rings: usize) -> Self {
        let addresses: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        config.addresses = addresses.clone();
        let kernel = Kernel::new(&addresses, config.mtu, kernel_rings, seed ^ 0xabcd);
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to have an Instant; only differences count"
        )]
        let epoch = Instant::now();
        Self {
            stack: Netstack::new(config, seed, epoch),
            kernel,
            link,
            rng: Rng::new(seed),
            epoch,
            now_us: 1_000_000,
            to_stack: BTreeMap::new(),
            to_kernel: BTreeMap::new(),
            sent: 0,
            buffer: Vec::new(),
            parts: PacketParts::default(),
            events: Vec::new(),
            frames: 0,
            bare_acks: BTreeMap::new(),
            fins: BTreeMap::new(),
            repeated_us: 0,
            trace: std::env::var_os("ADIT_SIM_TRACE").is_some(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.epoch + Duration::from_micros(self.now_us)
    }

    fn tick(&self) -> Tick {
        Tick::from_micros(self.now_us as i64)
    }

    /// Everything that happens at this instant, without moving time.
    pub(crate) fn settle(&mut self) {
        let now = self.now();
        while let Some(entry) = self.to_stack.first_entry()
            && entry.key().0 <= self.now_us
        {
            let frame = entry.remove();
            if self.rng.chance(50) {
                self.stack.handle_frame(now, &frame, RxChecksum::Verify);
            } else {
                self.stack
                    .handle_frame_bytes(now, &frame.into(), RxChecksum::Verify);
            }
        }
        while let Some(entry) = self.to_kernel.first_entry()
            && entry.key().0 <= self.now_us
        {
            self.kernel.device.incoming.push_back(entry.remove());
        }
        self.stack.handle_timeout(now);
        self.collect();
        self.kernel.poll(self.tick());
        while let Some(frame) = self.kernel.device.outgoing.pop_front() {
            self.carry(frame, true);
        }
        while let Some((transmit, mut frame)) = self.next_packet(now) {
            complete_checksum(&mut frame, transmit);
            self.carry(frame, false);
        }
        self.collect();
    }

    fn next_packet(&mut self, now: Instant) -> Option<(Transmit, Vec<u8>)> {
        if self.rng.chance(50) {
            let transmit = self.stack.poll_transmit(now, &mut self.buffer)?;
            return Some((transmit, self.buffer.clone()));
        }
        let transmit = self.stack.poll_transmit_parts(now, &mut self.parts)?;
        Some((transmit, self.parts.slices().flatten().copied().collect()))
    }

    pub(crate) fn collect(&mut self) {
        while let Some(event) = self.stack.poll_event() {
            self.events.push(event);
        }
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn carry(&mut self, frame: Vec<u8>, to_stack: bool) {
        self.frames += 1;
        let (src, dst, flags, is_bare) = ends_and_flags(&frame);
        if to_stack && flags & FIN != 0 {
            self.fins.insert((src, dst), frame.clone());
        } else if !to_stack && flags == ACK && is_bare {
            self.bare_acks.insert((dst, src), frame.clone());
        }
        if self.trace {
            println!(
                "{:>12} {} {}",
                self.now_us,
                if to_stack { "pod ->" } else { "   -> pod" },
                summary(&frame)
            );
        }
        let copies = if self.rng.chance(self.link.loss_percent) {
            0
        } else {
            1 + u64::from(self.rng.chance(self.link.duplicate_percent))
        };
        for _ in 0..copies {
            let arrival = self.now_us + self.link.delay_us + self.rng.below(self.link.jitter_us + 1);
            self.sent += 1;
            let queue = if to_stack {
                &mut self.to_stack
            } else {
                &mut self.to_kernel
            };
            queue.insert((arrival, self.sent), frame.clone());
        }
    }

    /// Jumps to the next thing that happens, at most to `limit`; whether there was one.
    pub(crate) fn jump(&mut self, limit_us: u64) -> bool {
        self.help_kernel();
        let epoch = self.epoch;
        let stack_at = self
            .stack
            .poll_timeout()
            .map(|at| at.saturating_duration_since(epoch).as_micros() as u64);
        let tick = self.tick();
        let kernel_at = self.kernel.poll_at(tick).map(|at| at.total_micros() as u64);
        let arrivals =
            [&self.to_stack, &self.to_kernel].map(|queue| queue.first_key_value().map(|(key, _)| key.0));
        let next = [stack_at, kernel_at, arrivals[0], arrivals[1]]
            .into_iter()
            .flatten()
            .min();
        match next {
            Some(at) if at <= limit_us => {
                self.now_us = at.max(self.now_us + 1);
                true
            }
            _ => {
                self.now_us = self.now_us.max(limit_us);
                false
            }
        }
    }

    /// smoltcp, which plays the kernel here, can forget its timer with bytes in flight:
    ///
    /// 1. after three equal ACKs it sends up to a whole MSS again, whatever the window, and counts all of it as sent;
    /// 2. the next ACK covers what the window had room for, and says that the window is closed: the timer of the
    ///    retransmission becomes that of the probes;
    /// 3. the window opens, if by less than what counts as sent: the timer stops, and nothing is left that could be sent.
    ///
    /// And with nothing but its FIN in flight, three equal ACKs (or updates of the window) stop the timer for a fast
    /// retransmission that sends nothing.
    ///
    /// Any real kernel's timer would run. This one is helped by the link: of a connection of which the kernel has something
    /// unacknowledged it repeats the last ACK, until that makes a fast retransmission, or the pod's FIN if that is all. The
    /// stack gets no such help: whether it loses its own timer is what the scenarios are for.
    fn help_kernel(&mut self) {
        if self.now_us <= self.repeated_us + 3_000_000 {
            return;
        }
        self.repeated_us = self.now_us;
        for (ends, owed) in self.kernel.owing() {
            let (frame, queue) = match owed {
                Owed::Bytes => (self.bare_acks.get(&ends), &mut self.to_kernel),
                Owed::OnlyFin => (self.fins.get(&ends), &mut self.to_stack),
            };
            if let Some(frame) = frame {
                self.sent += 1;
                queue.insert((self.now_us, self.sent), frame.clone());
            }
        }
    }

    /// Lets things happen for `duration` of virtual time.
    pub(crate) fn run(&mut self, duration: Duration) {
        let limit = self.now_us + duration.as_micros() as u64;
        self.settle();
        while self.jump(limit) {
            self.settle();
        }
        self.settle();
    }
}

const FIN: u8 = 0x01;
const ACK: u8 = 0x10;

/// Source, destination and flags of a segment, and whether it has neither options nor data.
fn ends_and_flags(frame: &[u8]) -> (SocketAddr, SocketAddr, u8, bool) {
    let (at, src, dst) = if frame[0] >> 4 == 6 {
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
        (40, address(8), address(24))
    } else {
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
        (20, address(12), address(16))
    };
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (src, dst) = (SocketAddr::new(src, port(at)), SocketAddr::new(dst, port(at + 2)));
    (src, dst, frame[at + 13], frame.len() == at + 20)
}

/// A TCP frame in a line.
fn summary(frame: &[u8]) -> String {
    let at = if frame[0] >> 4 == 6 { 40 } else { 20 };
    let be32 = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let be16 = |at: usize| u16::from_be_bytes(frame[at..at + 2].try_into().unwrap());
    let data = frame.len() - at - usize::from(frame[at + 12] >> 4) * 4;
    let (seq, ack, window) = (be32(at + 4), be32(at + 8), be16(at + 14));
    let flags: String = "FSRPAU"
        .chars()
        .enumerate()
        .filter(|(bit, _)| frame[at + 13] & 1 << bit != 0)
        .map(|(_, name)| name)
        .collect();
    format!(
        "{}>{} {flags} seq {seq} ack {ack} win {window} len {data}",
        be16(at),
        be16(at + 2)
    )
}

/// What a device does to a frame with `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the field holds the pseudo-header's sum.
pub(crate) fn complete_checksum(frame: &mut [u8], transmit: Transmit) {
    let Transmit::NeedsChecksum { start, offset } = transmit else {
        return;
    };
    let (start, at) = (usize::from(start), usize::from(start + offset));
    let mut sum = 0_u64;
    for pair in frame[start..].chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
