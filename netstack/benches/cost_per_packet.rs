//! What a packet costs by the number of flows, what opening and closing one costs, bytes per second either way, and the memory
//! of an idle flow.
//!
//! The cost per packet at 10,000 flows is to stay within twice that at 10: only the flow that a packet belongs to is
//! touched. A flow is chosen at random for each, so at 10,000 the difference is what the caches can't hold.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Instant;

use adit_netstack::{Config, Event, FlowId, Netstack, PacketParts, RxChecksum};
use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    report_memory();
    divan::main();
}

const FLOWS: [usize; 3] = [10, 1_000, 10_000];
const REMOTE: ([u8; 4], u16) = ([10, 9, 9, 9], 443);

/// One connection as the pod's kernel knows it.
struct Peer {
    flow: FlowId,
    port: u16,
    address: u8,
    seq: u32,
    ack: u32,
}

struct Bench {
    stack: Netstack,
    peers: Vec<Peer>,
    now: Instant,
    packet: Vec<u8>,
    parts: PacketParts,
    frame: Vec<u8>,
    turn: u64,
}

impl Bench {
    fn new(flows: usize, config: Config) -> Self {
        let addresses: Vec<IpAddr> = (1..=4).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let config = Config {
            addresses,
            max_half_open: 10_000,
            buffer_budget: config.buffer_budget.max(1 << 28),
            ..config
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to have an Instant; only differences count"
        )]
        let now = Instant::now();
        let stack = Netstack::new(config, 7, now);
        let mut bench = Self {
            stack,
            peers: Vec::new(),
            now,
            packet: Vec::new(),
            parts: PacketParts::default(),
            frame: Vec::new(),
            turn: 1,
        };
        (0..flows).for_each(|index| bench.open(index));
        bench
    }

    fn open(&mut self, index: usize) {
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
    fn close_last(&mut self) {
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

    fn drain(&mut self) -> usize {
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
    fn receive(&mut self, size: usize) {
        let index = self.any_peer();
        self.take_in(index, size);
        assert_eq!(self.read(index), size);
        self.drain();
    }

    fn take_in(&mut self, index: usize, size: usize) {
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

    fn read(&mut self, index: usize) -> usize {
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
    fn repeat_last(&mut self) {
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        assert_eq!(self.drain(), 1);
    }

    /// The same by reference: nothing of `data` is copied.
    fn send_shared(&mut self, data: &Bytes) {
        let index = self.any_peer();
        let Peer {
            flow,
            port,
            address,
            seq,
            ack,
        } = self.peers[index];
        let taken = self.stack.send_bytes(self.now, flow, &mut data.clone());
        let taken = taken.expect("the flow is open");
        while self
            .stack
            .poll_transmit_parts(self.now, &mut self.parts)
            .is_some()
        {
            black_box(self.parts.slices().count());
        }
        let ack = ack.wrapping_add(taken as u32);
        self.peers[index].ack = ack;
        self.segment((address, port), seq, ack, ACK, &[], 0);
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        self.drain();
    }

    /// Bytes are written, sent and acknowledged by the pod.
    fn send(&mut self, data: &[u8]) {
        let index = self.any_peer();
        let Peer {
            flow,
            port,
            address,
            seq,
            ack,
        } = self.peers[index];
        let taken = self.stack.send(self.now, flow, data).expect("the flow is open");
        assert!(self.drain() > 0);
        let ack = ack.wrapping_add(taken as u32);
        self.peers[index].ack = ack;
        self.segment((address, port), seq, ack, ACK, &[], 0);
        self.stack
            .handle_frame(self.now, &self.frame, RxChecksum::Partial);
        self.drain();
    }
}

/// A request of 100 bytes is taken in, read and acknowledged.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 200)]
fn receive_100_bytes(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Bench::new(flows, Config::default()));
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| bench.borrow_mut().receive(100));
}

/// 100 bytes are written, sent and acknowledged by the pod: a packet out and one in.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 200)]
fn send_100_bytes(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Bench::new(flows, Config::default()));
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| bench.borrow_mut().send(&[7; 100]));
}

/// Full segments from the pod.
#[divan::bench(args = [1, 100])]
fn receive_bulk(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Bench::new(flows, Config::default()));
    // The window is what bounds a segment, and it grows with use.
    for size in [4_000, 30_000, 60_000] {
        (0..flows * 200).for_each(|_| bench.borrow_mut().receive(size));
    }
    bencher
        .counter(BytesCount::new(60_000_usize))
        .bench_local(|| bench.borrow_mut().receive(60_000));
}

/// Full segments to the pod.
#[divan::bench(args = [1, 100])]
fn send_bulk(bencher: Bencher<'_, '_>, flows: usize) {
    let data = vec![7; 60_000];
    let bench = RefCell::new(Bench::new(flows, Config::default()));
    (0..flows * 200).for_each(|_| bench.borrow_mut().send(&data));
    bencher
        .counter(BytesCount::new(data.len()))
        .bench_local(|| bench.borrow_mut().send(&data));
}

/// The same by reference.
#[divan::bench(args = [1, 100])]
fn send_bulk_by_reference(bencher: Bencher<'_, '_>, flows: usize) {
    let data = Bytes::from(vec![7; 60_000]);
    let bench = RefCell::new(Bench::new(flows, Config::default()));
    (0..flows * 200).for_each(|_| bench.borrow_mut().send_shared(&data));
    bencher
        .counter(BytesCount::new(data.len()))
        .bench_local(|| bench.borrow_mut().send_shared(&data));
}

/// The pod opens a flow and closes it, beside so many that are open.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 50)]
fn open_and_close(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Bench::new(flows, Config::default()));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let bench = &mut *bench.borrow_mut();
        bench.open(flows);
        bench.close_last();
        assert_eq!(bench.stack.flow_count(), flows);
    });
}

/// A segment comes twice: the flow goes to the engine, which answers the repetition, and comes back.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 200)]
fn receive_100_bytes_twice(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Bench::new(flows, Config::default()));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let bench = &mut *bench.borrow_mut();
        bench.receive(100);
        bench.repeat_last();
    });
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What 10,000 flows take, by what the system counts as resident: at rest, with bytes unread, and at rest again.
fn report_memory() {
    const COUNT: usize = 10_000;
    let Some(before) = resident_bytes() else { return };
    let each = || resident_bytes().unwrap_or(before).saturating_sub(before) / COUNT;
    let mut bench = Bench::new(COUNT, Config::default());
    println!("{COUNT} flows at rest: {} resident bytes a flow", each());
    for index in 0..COUNT {
        bench.take_in(index, 100);
    }
    bench.drain();
    println!(
        "{COUNT} flows with 100 bytes unread: {} resident bytes a flow",
        each()
    );
    for index in 0..COUNT {
        assert_eq!(bench.read(index), 100);
    }
    println!(
        "{COUNT} flows at rest after that: {} resident bytes a flow",
        each()
    );
    assert_eq!(bench.stack.ring_bytes(), 0);
}

fn resident_bytes() -> Option<usize> {
    let pages: usize = std::fs::read_to_string("/proc/self/statm")
        .ok()?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    Some(pages * 4096)
}
