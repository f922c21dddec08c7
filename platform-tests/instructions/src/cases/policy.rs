//! The verdict on a flow, of both its ends: a thousand workloads with five policies each.

use std::hint::black_box;

use adit_policy::{Compiler, Options, Trace};

use super::Case;

#[allow(dead_code, reason = "the benches of the crate use all of it")]
#[path = "../../../../policy/benches/cluster/mod.rs"]
mod cluster;

use cluster::Cluster;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "policy: verdict of both ends, trace off",
        calls: 2_000,
        prepare: || verdicts(Trace::Off),
    },
    Case {
        name: "policy: verdict of both ends, trace on",
        calls: 500,
        prepare: || verdicts(Trace::On),
    },
];

fn verdicts(trace: Trace) -> Box<dyn FnMut()> {
    let cluster = Cluster::even(1_000, 1_000);
    let mut compiler = Compiler::new(Options::default());
    compiler.sync(cluster.objects());
    let set = compiler.publish();
    let flows = cluster.flows(500);
    let mut next = 0;
    Box::new(move || {
        let flow = black_box(&flows[next % flows.len()]);
        next += 1;
        drop(black_box((set.egress(flow, trace), set.ingress(flow, trace))));
    })
}
