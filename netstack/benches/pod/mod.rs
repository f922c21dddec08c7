//! A pod's kernel for the benches of the netstack: it opens flows, sends segments and acknowledges.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use adit_netstack::{Config, Event, FlowId, Netstack, PacketParts, RxChecksum};
use bytes::Bytes;

/// One connection as the pod's kernel knows it.
struct Peer {
    flow: FlowId,
    port: u16,
    address: u8,
    seq: u32,
    ack: u32,
}

/// A netstack and the kernel of its pod, with flows open between them.
pub(crate) struct Pod {
    stack: Netstack,
    peers: Vec<Peer>,
    now: Instant,
    packet: Vec<u8>,
    parts: PacketParts,
    frame: Vec<u8>,
    turn: u64,
}

impl Pod {
    /// With so many flows open.
    pub(crate) fn new(flows: usize, config: Config) -> Self {
        let addresses: Vec<IpAddr> = (1..=4).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let config = Config {
            addresses,
            max_half_open: 10_000,
            buffer_budget: config.buffer_budget.max(1 << 28),
            ..config
        };
        #[allow(
            clippy::disallowed_methods,
            reason = "there is no other way to have an Instant; only differences count"
        )]
        let now = Instant::now();
        let stack = Netstack::new(config, 7, now);
        let mut pod = Self {
            stack,
            peers: Vec::new(),
            now,
            packet: Vec::new(),
            parts: PacketParts::default(),
            frame: Vec::new(),
            turn: 1,
        };
        (0..flows).for_each(|index| pod.open(index));
        pod
    }

    /// The pod opens the flow of this number.
    pub(crate) fn open(&mut self, index: usize) {
        let (address, port) = ((index / 20_000) as u8 + 1, 10_000 + (index % 20_000) as u16);
        // MSS 65480, window scale 7, SACK.
        let options = [2, 4, 0xff, 0xc8, 1, 3, 3, 7, 1, 1, 4, 2];
        self.segment((address, port), 100, 0, SYN, &options, 0);
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        let Some(Event::Syn { flow, .. }) = self.stack.poll_event() else {
            panic!("a SYN is announced")
        };
        self.stack.accept(self.now, flow).expect("it's held");
        self.stack
            .poll_transmit(self.now, &mut self.packet)
            .expect("a SYN-ACK");
        let ack = u32::from_be_bytes(self.packet[24..28].try_into().expect("4 bytes")).wrapping_add(1);
        self.segment((address, port), 101, ack, ACK, &[], 0);
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        self.drain();
        self.peers.push(Peer {
            flow,
            port,
            address,
            seq: 101,
            ack,
        });
    }

    /// The last peer's app closes, then the agent does: nothing of the flow is left.
    pub(crate) fn close_last(&mut self) {
        let peer = self.peers.pop().expect("one is open");
        let Peer {
            flow, port, address, ..
        } = peer;
        self.segment((address, port), peer.seq, peer.ack, FIN | ACK, &[], 0);
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        self.drain();
        self.stack.shutdown(self.now, flow);
        self.drain();
        let (seq, ack) = (peer.seq.wrapping_add(1), peer.ack.wrapping_add(1));
        self.segment((address, port), seq, ack, ACK, &[], 0);
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        self.drain();
        self.stack.release(flow);
    }

    fn segment(&mut self, pod: (u8, u16), seq: u32, ack: u32, flags: u8, options: &[u8], data: usize) {
        let frame = &mut self.frame;
        let length = 40 + options.len() + data;
        frame.resize(length, 0);
        frame[..2].copy_from_slice(&[0x45, 0]);
        frame[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        frame[4..12].copy_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame[12..20].copy_from_slice(&[10, 0, 0, pod.0, 10, 9, 9, 9]);
        let sum: u32 = frame[..20]
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        frame[20..22].copy_from_slice(&pod.1.to_be_bytes());
        frame[22..24].copy_from_slice(&REMOTE.1.to_be_bytes());
        frame[24..28].copy_from_slice(&seq.to_be_bytes());
        frame[28..32].copy_from_slice(&ack.to_be_bytes());
        frame[32..40].copy_from_slice(&[((20 + options.len()) as u8 / 4) << 4, flags, 0x40, 0, 0, 0, 0, 0]);
        frame[40..40 + options.len()].copy_from_slice(options);
    }

    /// Everything is sent that can be; says how many packets that were.
    pub(crate) fn drain(&mut self) -> usize {
        while self.stack.poll_event().is_some() {}
        let mut sent = 0;
        while self.stack.poll_transmit(self.now, &mut self.packet).is_some() {
            sent += 1;
        }
        sent
    }

    fn any_peer(&mut self) -> usize {
        self.turn ^= self.turn << 13;
        self.turn ^= self.turn >> 7;
        self.turn ^= self.turn << 17;
        (self.turn % self.peers.len() as u64) as usize
    }

    /// A segment of the pod is taken in, read and acknowledged.
    pub(crate) fn receive(&mut self, size: usize) {
        let index = self.any_peer();
        self.take_in(index, size);
        assert_eq!(self.read(index), size);
        self.drain();
    }

    /// A segment of the pod is taken in.
    pub(crate) fn take_in(&mut self, index: usize, size: usize) {
        let Peer {
            port,
            address,
            seq,
            ack,
            ..
        } = self.peers[index];
        self.segment((address, port), seq, ack, ACK, &[], size);
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        self.peers[index].seq = seq.wrapping_add(size as u32);
    }

    /// Everything that came is read.
    pub(crate) fn read(&mut self, index: usize) -> usize {
        let flow = self.peers[index].flow;
        let mut read = 0;
        while let Ok(bytes) = self.stack.recv_bytes(self.now, flow, usize::MAX)
            && !bytes.is_empty()
        {
            read += black_box(bytes).len();
        }
        read
    }

    /// The last frame comes again.
    pub(crate) fn repeat_last(&mut self) {
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        assert_eq!(self.drain(), 1);
    }

    /// The same by reference: nothing of `data` is copied.
    pub(crate) fn send_shared(&mut self, data: &Bytes) {
        let index = self.any_peer();
        let flow = self.peers[index].flow;
        let taken = self.stack.send_bytes(self.now, flow, &mut data.clone());
        let taken = taken.expect("the flow is open");
        while self
            .stack
            .poll_transmit_parts(self.now, &mut self.parts)
            .is_some()
        {
            black_box(self.parts.slices().count());
        }
        self.acknowledge(index, taken);
    }

    /// Bytes are written, sent and acknowledged by the pod.
    pub(crate) fn send(&mut self, data: &[u8]) {
        let index = self.any_peer();
        let flow = self.peers[index].flow;
        let taken = self.stack.send(self.now, flow, data).expect("the flow is open");
        assert!(self.drain() > 0);
        self.acknowledge(index, taken);
    }

    /// The pod has all that was sent to it.
    fn acknowledge(&mut self, index: usize, taken: usize) {
        let peer = &mut self.peers[index];
        peer.ack = peer.ack.wrapping_add(taken as u32);
        let Peer {
            port,
            address,
            seq,
            ack,
            ..
        } = *peer;
        self.segment((address, port), seq, ack, ACK, &[], 0);
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        self.drain();
    }

    pub(crate) fn flows(&self) -> usize {
        self.stack.flow_count()
    }

    /// What unread and unacknowledged bytes take.
    pub(crate) fn ring_bytes(&self) -> usize {
        self.stack.ring_bytes()
    }
}

const REMOTE: ([u8; 4], u16) = ([10, 9, 9, 9], 443);
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
