//! Whether a flow of a captured pod ends in the agent, to travel in HBONE, or passes through it.
//!
//! Chosen once for each flow, when its first packet arrives:
//!
//! | from | flow | way |
//! | --- | --- | --- |
//! | pod | new TCP to a workload that takes HBONE, or to a service with one | the netstack ends it, [`outbound`](super::outbound) dials |
//! | wire | new TCP from another agent's port, from a workload that speaks HBONE; and any to Istio's port | a door, then [`inbound`](super::inbound) |
//! | wire | new TCP from an agent's port, from a workload that joins the mesh | held back for a while: [`Newcomers`](crate::worker::Newcomers) |
//! | either | everything else: plain TCP, what was open before the pod was captured, UDP, ping, SCTP | through, judged |

use std::net::SocketAddr;
use std::time::Instant;

use adit_control::kubernetes::is_joining;
use adit_control::{Location, Owner, Reach, Service, Snapshot, Workload};
use adit_flow::{Direction, DropReason, FourTuple, Protocol, WorkloadName};
use adit_netstack::{NewFlow, Side};
use adit_policy::Icmp;

use crate::worker::{AGENT_PORTS, Course, Crossed, HBONE_PORT, Pod, Worker};

/// Ports below are servers', for telling which end opened a connection that is older than the capture (RFC 6056 §3.2
/// counts these as ephemeral; Linux begins there).
const EPHEMERAL_FLOOR: u16 = 32_768;

/// Chooses the way of a flow that isn't known yet.
pub(crate) fn course(worker: &Worker, pod: &Pod, new: &NewFlow) -> Course {
    let snapshot = worker.shared.snapshot.load();
    let Some(own) = snapshot.workloads.get(pod.name()) else {
        // Captured before the API told us about it: its policies aren't known either.
        worker.counters.dropped(DropReason::Unroutable);
        return Course::Later;
    };
    let choice = Choice {
        snapshot: &snapshot,
        is_served: &|name| worker.shared.serves(name),
        is_awaited: &|name| worker.newcomers.await_word(Instant::now(), name),
        takes_tunnels: own.in_mesh,
        lets_pass: pod.lets_pass(),
    };
    let (direction, tuple, judged) = match choice.way(new) {
        Way::Stack | Way::Door if worker.is_holding() => {
            worker.counters.dropped(DropReason::Draining);
            return Course::Later;
        }
        Way::Stack => return Course::Stack,
        Way::Door => return Course::Door,
        Way::HeldBack => {
            worker.counters.dropped(DropReason::Joining);
            return Course::Later;
        }
        Way::Across {
            direction,
            tuple,
            judged,
        } => (direction, tuple, judged),
    };
    let recorder = worker.recorder(direction, new.key.protocol, tuple, &snapshot);
    match Crossed::judged(direction, judged, &worker.shared.policy.load(), recorder) {
        Ok(crossed) => Course::Across(Box::new(crossed)),
        Err(_denied) => Course::Denied,
    }
}

/// What the choice depends on.
struct Choice<'a> {
    snapshot: &'a Snapshot,
    /// Whether this agent serves a local workload.
    is_served: &'a dyn Fn(&WorkloadName) -> bool,
    /// Whether word may still come that a workload which joins the mesh is in it.
    is_awaited: &'a dyn Fn(&WorkloadName) -> bool,
    /// Whether the pod's flows may travel in HBONE now.
    takes_tunnels: bool,
    /// Whether those that it opens pass through all the same: it's leaving the mesh, or its peers don't know
    /// yet that it's in it.
    lets_pass: bool,
}

/// The way, before it's judged.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Across {
        direction: Direction,
        /// From the opener.
        tuple: FourTuple,
        /// What to ask the engine: it passes if all may.
        judged: Vec<adit_policy::Flow>,
    },
    Door,
    /// Until it's known whether it's a tunnel's.
    HeldBack,
    Stack,
}

impl Choice<'_> {
    fn way(&self, new: &NewFlow) -> Way {
        let tuple = new.key.tuple;
        if self.takes_tunnels && new.key.protocol == Protocol::Tcp && !new.established {
            match new.key.from {
                Side::Pod if !self.lets_pass && self.leads_to_hbone(tuple.dst) => return Way::Stack,
                // Its listener is a step away. Others than our agents have any source port.
                Side::Wire if tuple.dst.port() == HBONE_PORT => return Way::Door,
                Side::Wire if tuple.src.port() >= AGENT_PORTS && speaks_hbone(self.snapshot, tuple.src) => {
                    return Way::Door;
                }
                Side::Wire
                    if tuple.src.port() >= AGENT_PORTS
                        && may_come_to_speak_hbone(self.snapshot, tuple.src, self.is_awaited) =>
                {
                    return Way::HeldBack;
                }
                Side::Pod | Side::Wire => {}
            }
        }
        let (direction, tuple) = opened(new);
        Way::Across {
            direction,
            tuple,
            judged: self.judged(direction, new.key.protocol, tuple),
        }
    }

    /// Whether what a pod dials is a workload that takes HBONE, or a service with at least one that does.
    fn leads_to_hbone(&self, dialled: SocketAddr) -> bool {
        match self.snapshot.owner(dialled.ip()) {
            Some(Owner::Workload(workload)) => takes_hbone(workload, self.is_served),
            // Endpoints that are no workloads are the node's proxy's to choose among, and the others with them.
            Some(Owner::Service(service)) if leads_outside(service, dialled, Protocol::Tcp) => false,
            Some(Owner::Service(service)) => service
                .ready_endpoints(self.snapshot, dialled, Protocol::Tcp)
                .is_some_and(|mut ready| ready.any(|(workload, _)| takes_hbone(workload, self.is_served))),
            Some(Owner::Dns | Owner::Unassigned) | None => false,
        }
    }

    /// The flow; or, where a service's address was dialled and the node's proxy chooses among its endpoints, one flow for
    /// each.
    fn judged(&self, direction: Direction, protocol: Protocol, tuple: FourTuple) -> Vec<adit_policy::Flow> {
        if direction == Direction::Outbound
            && let Some(Owner::Service(service)) = self.snapshot.owner(tuple.dst.ip())
            && let Some(ready) = service.ready_endpoints(self.snapshot, tuple.dst, protocol)
        {
            let outside = service.port(tuple.dst.port(), protocol).map(|port| &port.outside);
            let each: Vec<_> = ready
                .map(|(_, address)| address)
                .chain(outside.into_iter().flatten().copied())
                .map(|address| flow(protocol, FourTuple::new(tuple.src, address)))
                .collect();
            if !each.is_empty() {
                return each;
            }
        }
        vec![flow(protocol, tuple)]
    }
}

/// Whether what `source` sends from an agent's port is HBONE: known from whose address it is, never guessed.
pub(crate) fn speaks_hbone(snapshot: &Snapshot, source: SocketAddr) -> bool {
    snapshot
        .workload_at(source.ip())
        .is_some_and(|workload| workload.in_mesh)
}

/// Whether who dials from `source` joins the mesh, and word that it's in it `is_awaited`.
pub(crate) fn may_come_to_speak_hbone(
    snapshot: &Snapshot,
    source: SocketAddr,
    is_awaited: impl Fn(&WorkloadName) -> bool,
) -> bool {
    snapshot
        .workload_at(source.ip())
        .is_some_and(|workload| is_joining(snapshot, workload) && is_awaited(&workload.name))
}

/// Whether flows to `workload` travel in HBONE; `is_served` tells whether this agent serves a local one.
pub(super) fn takes_hbone(workload: &Workload, is_served: impl Fn(&WorkloadName) -> bool) -> bool {
    let reached = match &workload.location {
        Location::Local => is_served(&workload.name),
        Location::Remote { reach, .. } => *reach != Reach::Plain,
    };
    workload.in_mesh && reached
}

fn leads_outside(service: &Service, dialled: SocketAddr, protocol: Protocol) -> bool {
    service
        .port(dialled.port(), protocol)
        .is_some_and(|port| !port.outside.is_empty())
}

/// Which end opened the flow, and its addresses from there.
fn opened(new: &NewFlow) -> (Direction, FourTuple) {
    let (from, tuple) = (new.key.from, new.key.tuple);
    // The packet of an older connection may be either end's: the one with a server's port didn't open it.
    let answers = new.established
        && tuple.src.port() < EPHEMERAL_FLOOR
        && (tuple.dst.port() >= EPHEMERAL_FLOOR || tuple.src.port() < tuple.dst.port());
    let (from, tuple) = match answers {
        true => (from.other(), tuple.reversed()),
        false => (from, tuple),
    };
    let direction = match from {
        Side::Pod => Direction::Outbound,
        Side::Wire => Direction::Inbound,
    };
    (direction, tuple)
}

fn flow(protocol: Protocol, mut tuple: FourTuple) -> adit_policy::Flow {
    let icmp = (protocol == Protocol::Icmp).then(|| {
        tuple.src.set_port(0);
        tuple.dst.set_port(0);
        let kind = if tuple.dst.is_ipv4() { 8 } else { 128 };
        Icmp { kind, code: 0 }
    });
    adit_policy::Flow {
        icmp,
        ..adit_policy::Flow::plain(tuple, protocol)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use adit_control::{Endpoint, ServicePort, SnapshotParts, TargetPort};
    use adit_identity::{SpiffeId, TrustDomain};
    use adit_netstack::Key;

    use super::*;

    const POD: &str = "10.244.0.5:40000";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn workload(name: &str, ip: &str, reach: Option<Reach>) -> Arc<Workload> {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        Arc::new(Workload {
            name: WorkloadName::new("shop", name),
            labels: Arc::default(),
            identity: SpiffeId::new(domain, "shop", "default").unwrap(),
            addresses: vec![ip.parse().unwrap()],
            ports: Vec::new(),
            location: match reach {
                None => Location::Local,
                Some(reach) => Location::Remote {
                    node: "far".into(),
                    reach,
                },
            },
            ready: true,
            in_mesh: reach != Some(Reach::Plain),
            node_addresses: Arc::default(),
        })
    }

    /// One that is labelled into the mesh, and not said to be in it.
    fn newcomer() -> Arc<Workload> {
        let mut newcomer = workload("newcomer", "10.244.1.9", Some(Reach::Plain));
        let labels = [("istio.io/dataplane-mode".to_owned(), "ambient".to_owned())];
        Arc::make_mut(&mut newcomer).labels = Arc::new(labels.into());
        newcomer
    }

    fn service(name: &str, ip: &str, endpoints: &[&str]) -> Arc<Service> {
        let endpoint = |name: &&str| Endpoint {
            workload: WorkloadName::new("shop", *name),
            ready: true,
        };
        Arc::new(Service {
            name: WorkloadName::new("shop", name),
            addresses: vec![ip.parse().unwrap()],
            ports: vec![ServicePort {
                name: None,
                port: 80,
                protocol: Protocol::Tcp,
                target: TargetPort::Number(8080),
                outside: Vec::new(),
            }],
            endpoints: endpoints.iter().map(endpoint).collect(),
        })
    }

    fn snapshot() -> Snapshot {
        Snapshot::new(SnapshotParts {
            generation: 1,
            mesh: "cluster".to_owned(),
            trust_domain: "cluster.local".parse().unwrap(),
            namespaces: Arc::default(),
            workloads: vec![
                workload("own", "10.244.0.5", None),
                workload("unserved", "10.244.0.6", None),
                workload("hbone", "10.244.1.7", Some(Reach::OriginalPort)),
                workload("plain", "10.244.1.8", Some(Reach::Plain)),
                newcomer(),
            ],
            services: vec![
                service("mixed", "10.96.0.1", &["hbone", "plain"]),
                service("outside", "10.96.0.2", &["plain"]),
            ],
            dns: Vec::new(),
            ranges: None,
        })
    }

    fn new(from: Side, protocol: Protocol, src: &str, dst: &str, established: bool) -> NewFlow {
        let tuple = FourTuple::new(address(src), address(dst));
        NewFlow {
            key: Key {
                protocol,
                tuple,
                from,
            },
            established,
        }
    }

    fn way(new: &NewFlow, takes_tunnels: bool, lets_pass: bool) -> Way {
        way_awaiting(true, new, takes_tunnels, lets_pass)
    }

    fn way_awaiting(word: bool, new: &NewFlow, takes_tunnels: bool, lets_pass: bool) -> Way {
        let snapshot = snapshot();
        let choice = Choice {
            snapshot: &snapshot,
            is_served: &|name| name.name == "own",
            is_awaited: &|_| word,
            takes_tunnels,
            lets_pass,
        };
        choice.way(new)
    }

    fn asked(way: Way) -> (Direction, Vec<(SocketAddr, SocketAddr)>) {
        let Way::Across {
            direction, judged, ..
        } = way
        else {
            panic!("it doesn't pass: {way:?}")
        };
        let ends = judged.iter().map(|flow| (flow.tuple.src, flow.tuple.dst));
        (direction, ends.collect())
    }

    fn dials(dst: &str) -> NewFlow {
        new(Side::Pod, Protocol::Tcp, POD, dst, false)
    }

    #[test]
    fn only_new_tcp_to_those_that_take_it_travels_in_hbone() {
        for dst in ["10.244.1.7:8080", "10.96.0.1:80"] {
            assert_eq!(way(&dials(dst), true, false), Way::Stack, "{dst}");
            assert_ne!(
                way(&dials(dst), false, false),
                Way::Stack,
                "outside the mesh: {dst}"
            );
            assert_ne!(way(&dials(dst), true, true), Way::Stack, "leaving: {dst}");
        }
        for dst in ["10.244.1.8:80", "10.96.0.2:80", "10.244.0.6:80", "192.0.2.1:443"] {
            assert_ne!(way(&dials(dst), true, false), Way::Stack, "{dst}");
        }
        let older = new(Side::Pod, Protocol::Tcp, POD, "10.244.1.7:8080", true);
        let udp = new(Side::Pod, Protocol::Udp, POD, "10.244.1.7:8080", false);
        for flow in [older, udp] {
            assert_ne!(way(&flow, true, false), Way::Stack, "{flow:?}");
        }
    }

    #[test]
    fn a_door_is_for_agents_of_workloads_in_the_mesh() {
        let from = |src, established| new(Side::Wire, Protocol::Tcp, src, "10.244.0.5:8080", established);
        assert_eq!(way(&from("10.244.1.7:61440", false), true, false), Way::Door);
        // Even while the pod leaves: its peers may not have heard of it yet.
        assert_eq!(way(&from("10.244.1.7:61440", false), true, true), Way::Door);
        let istios = new(
            Side::Wire,
            Protocol::Tcp,
            "192.0.2.1:40000",
            "10.244.0.5:15008",
            false,
        );
        assert_eq!(
            way(&istios, true, false),
            Way::Door,
            "ztunnel has any source port"
        );
        assert_ne!(way(&istios, false, false), Way::Door, "outside the mesh");
        for (src, established) in [
            ("10.244.1.7:40000", false),
            ("10.244.1.7:61440", true),
            ("10.244.1.8:61440", false),
            ("192.0.2.1:61440", false),
        ] {
            assert_ne!(way(&from(src, established), true, false), Way::Door, "{src}");
        }
    }

    #[test]
    fn an_agents_port_of_who_joins_the_mesh_is_held_back_until_word_of_it_comes_or_is_given_up() {
        let from = |src| new(Side::Wire, Protocol::Tcp, src, "10.244.0.5:8080", false);
        let newcomer = from("10.244.1.9:61440");
        assert_eq!(way(&newcomer, true, false), Way::HeldBack);
        let passes = [
            way_awaiting(false, &newcomer, true, false),
            way(&newcomer, false, false),
            way(&from("10.244.1.9:40000"), true, false),
            way(&from("10.244.1.8:61440"), true, false),
        ];
        for way in passes {
            let (direction, _) = asked(way);
            assert_eq!(direction, Direction::Inbound);
        }
    }

    #[test]
    fn a_service_is_judged_by_each_of_its_endpoints() {
        let (direction, judged) = asked(way(&dials("10.96.0.1:80"), true, true));
        assert_eq!(direction, Direction::Outbound);
        let to = |dst: &str| (address(POD), address(dst));
        assert_eq!(judged, [to("10.244.1.7:8080"), to("10.244.1.8:8080")]);
        let (_, judged) = asked(way(&dials("10.96.0.1:81"), true, true));
        assert_eq!(judged, [to("10.96.0.1:81")], "no such port: what was dialled");
    }

    #[test]
    fn an_older_connection_was_opened_by_the_end_without_a_servers_port() {
        let cases = [
            (Side::Pod, POD, "10.244.1.8:80", Direction::Outbound),
            (Side::Wire, "10.244.1.8:80", POD, Direction::Outbound),
            (
                Side::Wire,
                "10.244.1.8:40000",
                "10.244.0.5:80",
                Direction::Inbound,
            ),
            (Side::Pod, "10.244.0.5:80", "10.244.1.8:40000", Direction::Inbound),
            // Two servers' ports: the lower one, which more likely listens.
            (
                Side::Pod,
                "10.244.0.5:5432",
                "10.244.1.8:9000",
                Direction::Inbound,
            ),
        ];
        for (from, src, dst, expected) in cases {
            let (direction, judged) = asked(way(&new(from, Protocol::Tcp, src, dst, true), true, false));
            assert_eq!(direction, expected, "{src} to {dst}");
            let own: IpAddr = address(POD).ip();
            let opener = judged[0].0.ip();
            assert_eq!(opener == own, expected == Direction::Outbound, "{src} to {dst}");
        }
    }

    #[test]
    fn a_ping_is_asked_about_by_its_type() {
        let ping = new(Side::Pod, Protocol::Icmp, "10.244.0.5:77", "10.244.1.8:0", false);
        let Way::Across { judged, .. } = way(&ping, true, false) else {
            panic!()
        };
        assert_eq!(judged[0].icmp, Some(Icmp { kind: 8, code: 0 }));
        assert_eq!(judged[0].tuple.src.port(), 0);
    }
}
