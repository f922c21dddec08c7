//! What a packet costs by the number of flows, what opening and closing one costs, bytes per second either way, and the memory
//! of an idle flow.
//!
//! The cost per packet at 10,000 flows is to stay within twice that at 10: only the flow that a packet belongs to is
//! touched. A flow is chosen at random for each, so at 10,000 the difference is what the caches can't hold.

mod pod;

use std::cell::RefCell;

use adit_netstack::Config;
use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use pod::Pod;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    report_memory();
    divan::main();
}

const FLOWS: [usize; 3] = [10, 1_000, 10_000];

/// A request of 100 bytes is taken in, read and acknowledged.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 200)]
fn receive_100_bytes(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Pod::new(flows, Config::default()));
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| bench.borrow_mut().receive(100));
}

/// 100 bytes are written, sent and acknowledged by the pod: a packet out and one in.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 200)]
fn send_100_bytes(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Pod::new(flows, Config::default()));
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| bench.borrow_mut().send(&[7; 100]));
}

/// Full segments from the pod.
#[divan::bench(args = [1, 100])]
fn receive_bulk(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Pod::new(flows, Config::default()));
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
    let bench = RefCell::new(Pod::new(flows, Config::default()));
    (0..flows * 200).for_each(|_| bench.borrow_mut().send(&data));
    bencher
        .counter(BytesCount::new(data.len()))
        .bench_local(|| bench.borrow_mut().send(&data));
}

/// The same by reference.
#[divan::bench(args = [1, 100])]
fn send_bulk_by_reference(bencher: Bencher<'_, '_>, flows: usize) {
    let data = Bytes::from(vec![7; 60_000]);
    let bench = RefCell::new(Pod::new(flows, Config::default()));
    (0..flows * 200).for_each(|_| bench.borrow_mut().send_shared(&data));
    bencher
        .counter(BytesCount::new(data.len()))
        .bench_local(|| bench.borrow_mut().send_shared(&data));
}

/// The pod opens a flow and closes it, beside so many that are open.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 50)]
fn open_and_close(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Pod::new(flows, Config::default()));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let bench = &mut *bench.borrow_mut();
        bench.open(flows);
        bench.close_last();
        assert_eq!(bench.flows(), flows);
    });
}

/// A segment comes twice: the flow goes to the engine, which answers the repetition, and comes back.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 200)]
fn receive_100_bytes_twice(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Pod::new(flows, Config::default()));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let bench = &mut *bench.borrow_mut();
        bench.receive(100);
        bench.repeat_last();
    });
}

/// What 10,000 flows take, by what the system counts as resident: at rest, with bytes unread, and at rest again.
fn report_memory() {
    const COUNT: usize = 10_000;
    let Some(before) = resident_bytes() else { return };
    let each = || resident_bytes().unwrap_or(before).saturating_sub(before) / COUNT;
    let mut bench = Pod::new(COUNT, Config::default());
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
    assert_eq!(bench.ring_bytes(), 0);
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
