//! From a flow and a set to a verdict.

mod matching;
mod mesh;
mod network;

use std::cell::OnceCell;
use std::net::IpAddr;

use adit_flow::{Protocol, VerdictKind};

use crate::compile::addresses::Resident;
use crate::compile::members::filter_bit;
use crate::flow::{Direction, Flow, Icmp};
use crate::set::PolicySet;
use crate::verdict::{Decision, Extra, PendingVerdict, Ruling, Step, Trace, Verdict};

/// Judges one side of a flow.
pub(crate) fn judge(set: &PolicySet, flow: &Flow, direction: Direction, trace: Trace) -> Decision {
    let context = Context::new(set, flow);
    let mut steps = Steps::new(trace);
    let subject = match direction {
        Direction::Egress => context.source.pod,
        Direction::Ingress => context.destination.pod,
    };
    let (network, mesh, extra) = match subject {
        None if set.tables.policy_count == 0 => (Ruling::DefaultAllow, None, None),
        None => (Ruling::UnknownWorkload, None, None),
        Some(subject) => judge_pod(&context, subject, flow, direction, &mut steps),
    };
    let mut extra = extra;
    if let Some(steps) = steps.into_steps() {
        extra.get_or_insert_default().steps = Some(steps);
    }
    Decision::new(Verdict::new(set.generation(), direction, network, mesh, extra))
}

type Judged = (Ruling, Option<Ruling>, Option<Box<Extra>>);

fn judge_pod(
    context: &Context<'_>,
    subject: Resident,
    flow: &Flow,
    direction: Direction,
    steps: &mut Steps,
) -> Judged {
    if direction == Direction::Ingress && is_node_local(context, subject) {
        return (Ruling::NodeLocal, None, None);
    }
    let Some(chains) = context.set.tables.classes.get(subject.class) else {
        return (Ruling::DefaultAllow, None, None);
    };
    let network = network::judge(context, &chains.enforced, direction, steps);
    // Istio's layer knows TCP alone, and only at the destination.
    let judged_by_mesh = direction == Direction::Ingress && flow.protocol == Protocol::Tcp;
    let mesh_chain = chains.mesh.as_deref().filter(|_| judged_by_mesh);
    // What the network layer denied never gets to the mesh's.
    let mesh = match (mesh_chain, network.kind()) {
        (Some(chain), VerdictKind::Allow) => Some(mesh::judge(context, chain, mesh::Count::Enforced, steps)),
        (None, VerdictKind::Allow) if judged_by_mesh => Some(Ruling::NoAllowPolicy),
        _ => None,
    };
    let dry_run = mesh_chain.filter(|chain| !chain.dry_run.is_empty());
    let noted = mesh_chain.is_some_and(|chain| !chain.audit.is_empty() || !chain.unenforced.is_empty());
    if chains.pending.is_none() && dry_run.is_none() && !noted {
        return (network, mesh, None);
    }
    let mut extra = Extra::default();
    if chains.pending.is_some() || dry_run.is_some() {
        let unseen = &mut Steps::new(Trace::Off);
        let network = match &chains.pending {
            Some(pending) => network::judge(context, pending, direction, unseen),
            None => network.clone(),
        };
        let decided_by = match mesh_chain {
            Some(chain) if network.kind() == VerdictKind::Allow => {
                let mesh = mesh::judge(context, chain, mesh::Count::DryRunToo, unseen);
                if mesh.kind() == VerdictKind::Deny {
                    mesh
                } else {
                    network
                }
            }
            _ => network,
        };
        extra.pending = Some(PendingVerdict {
            kind: decided_by.kind(),
            decided_by,
        });
    }
    if let Some(chain) = mesh_chain {
        extra.audits = mesh::audits(context, chain);
        extra.unenforced = mesh::unenforced(context, chain);
    }
    (network, mesh, Some(Box::new(extra)))
}

/// Whether the flow comes from the node that the destination runs on.
fn is_node_local(context: &Context<'_>, subject: Resident) -> bool {
    let source = context.source.address;
    // The pod itself is looked at only if its node may have that address.
    subject.node_filter & filter_bit(source) != 0
        && context
            .set
            .tables
            .members
            .resident(context.destination.address, subject)
            .is_some_and(|member| member.node_addresses.contains(&source))
}

/// A flow with whatever the set knows about its ends.
pub(crate) struct Context<'s> {
    pub(crate) set: &'s PolicySet,
    pub(crate) flow: &'s Flow,
    pub(crate) source: Place<'s>,
    pub(crate) destination: Place<'s>,
    pub(crate) protocol: Protocol,
    pub(crate) icmp: Option<Icmp>,
}

/// One end of a flow.
pub(crate) struct Place<'s> {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The pod that owns the address.
    pub(crate) pod: Option<Resident>,
    /// The classes of the network sets that hold the address, once somebody asked.
    sets: OnceCell<&'s [u32]>,
}

impl<'s> Context<'s> {
    fn new(set: &'s PolicySet, flow: &'s Flow) -> Self {
        let place = |address: std::net::SocketAddr| {
            // An IPv4 address in IPv6's clothes is that IPv4 address: a dual-stack socket reports it so.
            let ip = address.ip().to_canonical();
            Place {
                address: ip,
                port: address.port(),
                pod: set.tables.members.find(ip),
                sets: OnceCell::new(),
            }
        };
        Self {
            set,
            flow,
            source: place(flow.tuple.src),
            destination: place(flow.tuple.dst),
            protocol: flow.protocol,
            icmp: flow.icmp,
        }
    }
}

impl<'s> Place<'s> {
    /// The classes of the network sets that hold the address. Most flows are decided without.
    fn sets(&self, set: &'s PolicySet) -> &'s [u32] {
        self.sets.get_or_init(|| set.tables.sets.covering(self.address))
    }
}

/// The trace while it is made; nothing where it is off.
pub(crate) struct Steps(Option<Vec<Step>>);

impl Steps {
    fn new(trace: Trace) -> Self {
        Self((trace == Trace::On).then(Vec::new))
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    #[inline]
    pub(crate) fn push(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &mut self.0 {
            steps.push(step());
        }
    }

    fn into_steps(self) -> Option<Vec<Step>> {
        self.0
    }
}
