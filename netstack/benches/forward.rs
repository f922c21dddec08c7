//! What a packet costs that passes the forwarder, by the number of flows; and what a new flow costs.
//!
//! Flows take turns at random, so that with many of them each packet finds its record outside the nearest caches.

mod passing;

use std::cell::RefCell;

use adit_netstack::{Passage, Refusal};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use passing::{Kind, Passing};

fn main() {
    divan::main();
}

const FLOWS: [usize; 2] = [10, 10_000];

fn pass(bencher: Bencher<'_, '_>, kind: Kind, flows: usize) {
    let bench = RefCell::new(Passing::new(kind, flows));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let bench = &mut *bench.borrow_mut();
        black_box(bench.pass_any())
    });
}

/// A segment of 88 bytes over IPv4.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1000)]
fn tcp(bencher: Bencher<'_, '_>, flows: usize) {
    pass(bencher, Kind::Tcp, flows);
}

/// The same over IPv6.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1000)]
fn tcp_over_ipv6(bencher: Bencher<'_, '_>, flows: usize) {
    pass(bencher, Kind::TcpV6, flows);
}

/// A super-packet of 60 kB: its bytes aren't looked at.
#[divan::bench(args = [10, 1000], sample_count = 300, sample_size = 1000)]
fn tcp_super_packet(bencher: Bencher<'_, '_>, flows: usize) {
    pass(bencher, Kind::Long, flows);
}

/// A datagram.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1000)]
fn udp(bencher: Bencher<'_, '_>, flows: usize) {
    pass(bencher, Kind::Udp, flows);
}

/// A packet of an unknown flow, before anybody has judged it: what the forwarder costs flows that are carried otherwise.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1000)]
fn unknown(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Passing::new(Kind::Tcp, flows));
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| black_box(bench.borrow_mut().handle(STRANGER)));
}

/// A packet of a flow that was denied.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1000)]
fn denied(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Passing::new(Kind::Tcp, flows));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let bench = &mut *bench.borrow_mut();
        let passage = bench.handle(STRANGER);
        if let Passage::New(flow) = passage {
            bench.forwarder.deny(bench.now, &flow, Refusal::Silent);
        }
        black_box(passage)
    });
}

/// A flow is admitted, and cut at once, beside so many that are open.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 200)]
fn admit_and_cut(bencher: Bencher<'_, '_>, flows: usize) {
    let bench = RefCell::new(Passing::new(Kind::Udp, flows));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let bench = &mut *bench.borrow_mut();
        let Passage::New(flow) = bench.handle(STRANGER) else {
            panic!("it's unknown")
        };
        let id = bench.forwarder.admit(bench.now, &flow).expect("there's room");
        bench.handle(STRANGER);
        bench
            .forwarder
            .cut(bench.now, id, adit_flow::CloseReason::PolicyChanged);
        bench.forwarder.forget_refusals();
        black_box(bench.forwarder.poll_ended())
    });
}

/// No flow that a bench opens.
const STRANGER: usize = 30_000;
