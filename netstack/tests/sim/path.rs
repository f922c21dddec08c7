//! Two kernels and the forwarder between them, next to the pod's, in virtual time. Their resets are taken as RFC 5961 wants it: only
//! one with exactly the expected number counts, and any other is answered with what would have been right.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_netstack::{Ended, ForwardConfig, Forwarder, NewFlow, Offloads, Passage, Side};
use smoltcp::time::Instant as Tick;

use crate::kernel::{Kernel, Owed};
use crate::world::{Link, Rng};

pub(crate) const WIRE_MTU: usize = 1500;

pub(crate) struct Path {
    pub(crate) forwarder: Forwarder,
    pub(crate) pod: Kernel,
    pub(crate) peer: Kernel,
    /// Between the forwarder and the peer.
    pub(crate) link: Link,
    rng: Rng,
    epoch: Instant,
    pub(crate) now_us: u64,
    /// Packets under way by arrival and order, with the side of the forwarder that they go to or came from.
    under_way: BTreeMap<(u64, u64), (Side, Vec<u8>)>,
    sent: u64,
    /// Of each side's kernel: what it acknowledged last, its last packet without data, and its last FIN.
    heard: [Heard; 2],
    helped_us: u64,
    pub(crate) admitted: Vec<NewFlow>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) resets_refused: usize,
}

#[derive(Default)]
struct Heard {
    last_ack: Option<u32>,
    bare: Option<Vec<u8>>,
    fin: Option<Vec<u8>>,
    challenged_us: u64,
}

impl Path {
    pub(crate) fn new(seed: u64, link: Link, v6: bool) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to have an Instant; only differences count"
        )]
        let epoch = Instant::now();
        let kernel = |side, mtu| Kernel::new(&[address(side, v6)], mtu, 50_000, seed ^ mtu as u64);
        Self {
            forwarder: forwarder(seed, epoch, v6),
            pod: kernel(Side::Pod, 65_520),
            peer: kernel(Side::Wire, 9000),
            link,
            rng: Rng::new(seed),
            epoch,
            now_us: 1_000_000,
            under_way: BTreeMap::new(),
            sent: 0,
            heard: Default::default(),
            helped_us: 0,
            admitted: Vec::new(),
            ended: Vec::new(),
            resets_refused: 0,
        }
    }

    /// Another forwarder takes the first one's place, and knows nothing.
    pub(crate) fn restart(&mut self, seed: u64, v6: bool) {
        self.forwarder = forwarder(seed, self.epoch, v6);
    }

    pub(crate) fn now(&self) -> Instant {
        self.epoch + Duration::from_micros(self.now_us)
    }

    fn tick(&self) -> Tick {
        Tick::from_micros(self.now_us as i64)
    }

    pub(crate) fn kernel(&mut self, side: Side) -> &mut Kernel {
        match side {
            Side::Pod => &mut self.pod,
            Side::Wire => &mut self.peer,
        }
    }

    /// Everything that happens at this instant, without moving time.
    pub(crate) fn settle(&mut self) {
        while let Some(entry) = self.under_way.first_entry()
            && entry.key().0 <= self.now_us
        {
            match entry.remove() {
                (Side::Wire, packet) => self.forward(Side::Wire, packet),
                (Side::Pod, packet) => self.deliver(Side::Wire, packet),
            }
        }
        self.forwarder.handle_timeout(self.now());
        let tick = self.tick();
        for side in [Side::Pod, Side::Wire] {
            self.kernel(side).poll(tick);
            while let Some(packet) = self.kernel(side).device.outgoing.pop_front() {
                self.hear(side, &packet);
                match side {
                    Side::Pod => self.forward(Side::Pod, packet),
                    Side::Wire => self.carry(Side::Wire, packet),
                }
            }
        }
        let mut reset = Vec::new();
        while let Some(side) = self.forwarder.poll_answer(&mut reset) {
            self.answer(side, reset.clone());
        }
        while let Some(ended) = self.forwarder.poll_ended() {
            self.ended.push(ended);
        }
    }

    /// What the agent does with a packet: everybody is let in.
    fn forward(&mut self, from: Side, mut packet: Vec<u8>) {
        let now = self.now();
        let mut passage = self.forwarder.handle(now, from, &mut packet, Offloads::default());
        if let Passage::New(flow) = passage {
            self.forwarder.admit(now, &flow).expect("there's room");
            self.admitted.push(flow);
            passage = self.forwarder.handle(now, from, &mut packet, Offloads::default());
        }
        match (passage, from) {
            (Passage::Forward(_), Side::Pod) => self.carry(Side::Pod, packet),
            (Passage::Forward(_), Side::Wire) => self.deliver(Side::Pod, packet),
            (Passage::Answer(_), side) => self.answer(side, self.forwarder.answer().to_vec()),
            (Passage::Drop(_) | Passage::New(_) | Passage::ToKernel, _) => {}
        }
    }

    /// A packet of the forwarder's own goes to `side`.
    fn answer(&mut self, side: Side, packet: Vec<u8>) {
        match side {
            Side::Pod => self.deliver(Side::Pod, packet),
            Side::Wire => self.carry(Side::Pod, packet),
        }
    }

    /// Puts a packet from `from` on the link, which loses, repeats and reorders.
    fn carry(&mut self, from: Side, packet: Vec<u8>) {
        assert!(
            packet.len() <= WIRE_MTU,
            "{} bytes don't fit the wire",
            packet.len()
        );
        let copies = if self.rng.chance(self.link.loss_percent) {
            0
        } else {
            1 + u64::from(self.rng.chance(self.link.duplicate_percent))
        };
        for _ in 0..copies {
            let arrival = self.now_us + self.link.delay_us + self.rng.below(self.link.jitter_us + 1);
            self.sent += 1;
            self.under_way
                .insert((arrival, self.sent), (from, packet.clone()));
        }
    }

    fn deliver(&mut self, to: Side, packet: Vec<u8>) {
        let header = Tcp::of(&packet);
        let expected = self.heard[to as usize].last_ack;
        if header.flags & RST != 0 && expected.is_some_and(|expected| header.seq != expected) {
            self.resets_refused += 1;
            let heard = &mut self.heard[to as usize];
            // A challenge ACK (RFC 5961 §3.2), if the last one was some time ago (§7): the last one that it sent will do.
            if heard.challenged_us + 100_000 <= self.now_us
                && let Some(ack) = heard.bare.clone()
            {
                heard.challenged_us = self.now_us;
                match to {
                    Side::Pod => self.forward(Side::Pod, ack),
                    Side::Wire => self.carry(Side::Wire, ack),
                }
            }
            return;
        }
        self.kernel(to).device.incoming.push_back(packet);
    }

    fn hear(&mut self, side: Side, packet: &[u8]) {
        let header = Tcp::of(packet);
        let heard = &mut self.heard[side as usize];
        if header.flags & (ACK | RST) == ACK {
            heard.last_ack = Some(header.ack);
            if header.flags & (SYN | FIN) == 0 && header.data == 0 {
                heard.bare = Some(packet.to_vec());
            }
        }
        if header.flags & FIN != 0 {
            heard.fin = Some(packet.to_vec());
        }
    }

    /// Jumps to the next thing that happens, at most to `limit`; whether there was one.
    pub(crate) fn jump(&mut self, limit_us: u64) -> bool {
        self.help();
        let tick = self.tick();
        let epoch = self.epoch;
        let forwarder_at = self.forwarder.poll_timeout();
        let next = [
            forwarder_at.map(|at| at.saturating_duration_since(epoch).as_micros() as u64),
            self.pod.poll_at(tick).map(|at| at.total_micros() as u64),
            self.peer.poll_at(tick).map(|at| at.total_micros() as u64),
            self.under_way.first_key_value().map(|(key, _)| key.0),
        ];
        let next = next.into_iter().flatten().min().filter(|&at| at <= limit_us);
        self.now_us = match next {
            Some(at) => at.max(self.now_us + 1),
            None => self.now_us.max(limit_us),
        };
        next.is_some()
    }

    /// Lets things happen for `time`, or until `done` says so; whether it did.
    pub(crate) fn run(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let limit = self.now_us + time.as_micros() as u64;
        for step in 0.. {
            assert!(step < STEPS, "things happen without end");
            self.settle();
            if done(self) {
                return true;
            }
            if !self.jump(limit) && self.now_us >= limit {
                return false;
            }
        }
        false
    }

    /// smoltcp can forget its timer with something in flight (see `World::help_kernel`): it's reminded every three seconds.
    fn help(&mut self) {
        if self.now_us <= self.helped_us + 3_000_000 {
            return;
        }
        self.helped_us = self.now_us;
        for side in [Side::Pod, Side::Wire] {
            for (_, owed) in self.kernel(side).owing() {
                let (from, packet) = match owed {
                    Owed::Bytes => (side.other(), self.heard[side.other() as usize].bare.clone()),
                    Owed::OnlyFin => (side, self.heard[side as usize].fin.clone()),
                };
                match (from, packet) {
                    (_, None) => {}
                    (Side::Pod, Some(packet)) => self.forward(Side::Pod, packet),
                    (Side::Wire, Some(packet)) => self.carry(Side::Wire, packet),
                }
            }
        }
    }
}

pub(crate) fn address(side: Side, v6: bool) -> IpAddr {
    let address = match (side, v6) {
        (Side::Pod, false) => "10.0.0.1",
        (Side::Wire, false) => "10.9.9.9",
        (Side::Pod, true) => "fd00::1",
        (Side::Wire, true) => "fd00::9",
    };
    address.parse().expect("an address")
}

fn forwarder(seed: u64, epoch: Instant, v6: bool) -> Forwarder {
    let config = ForwardConfig {
        addresses: vec![address(Side::Pod, v6)],
        wire_mtu: WIRE_MTU as u16,
        ..ForwardConfig::default()
    };
    Forwarder::new(config, seed, epoch)
}

/// What counts of a segment.
struct Tcp {
    seq: u32,
    ack: u32,
    flags: u8,
    data: usize,
}

impl Tcp {
    fn of(packet: &[u8]) -> Self {
        let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
        let word = |at: usize| {
            packet[at..at + 4]
                .try_into()
                .map(u32::from_be_bytes)
                .expect("4 bytes")
        };
        Self {
            seq: word(at + 4),
            ack: word(at + 8),
            flags: packet[at + 13],
            data: packet.len() - at - usize::from(packet[at + 12] >> 4) * 4,
        }
    }
}

/// More than any scenario needs.
const STEPS: usize = 50_000;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
