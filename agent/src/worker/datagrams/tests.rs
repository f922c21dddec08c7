//! SCTP between two pods of one worker, whose kernels are written by hand.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_control::Snapshot;
use adit_flow::{CloseReason, FlowRecord, Protocol, RefuseReason, VerdictKind, WorkloadName};
use adit_netstack::{Config, Event, Netstack, RxChecksum, SctpPacket};
use adit_policy::objects::{Object, Reader, Reading};
use adit_policy::{Compiler, Options};
use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::admin::{FlowHub, FlowReader, Next};
use crate::cluster::OuterSockets;
use crate::identities::Identities;
use crate::telemetry::Counters;
use crate::worker::{BusyPoll, Command, Mailbox, Pod, PodArrivals, Shared, Worker};

const MESH: &str = "
apiVersion: adit.dev/v1alpha1
kind: Mesh
name: demo
namespaces: [{name: shop}]
workloads:
- {name: web, namespace: shop, labels: {app: web}, command: [sleep, '9']}
- name: api
  namespace: shop
  labels: {app: api}
  command: [sleep, '9']
  ports: [{name: signals, containerPort: 7, protocol: SCTP}]
services:
- name: api
  namespace: shop
  selector: {app: api}
  ports: [{port: 7777, targetPort: signals, protocol: SCTP}]
";

/// Nothing but SCTP to port 7 leaves `web`.
const SIGNALS_ONLY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: signals-only, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{ports: [{port: 7, protocol: SCTP}]}]
";

/// Nothing but SCTP to port 70 leaves `web`.
const OTHER_SIGNALS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: other-signals, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{ports: [{port: 70, protocol: SCTP}]}]
";

/// Nothing leaves `web`.
const NOTHING: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}
";

const OUTSIDE: &str = "192.0.2.9:7";
const INIT: [u8; 20] = [1, 0, 0, 20, 9, 8, 7, 6, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
const HEARTBEAT: [u8; 8] = [4, 0, 0, 8, 0, 1, 0, 4];
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;

struct World {
    worker: Rc<Worker>,
    mailbox: mpsc::Receiver<Command>,
    web: Rc<Pod>,
    api: Rc<Pod>,
    records: FlowReader,
    compiler: RefCell<Compiler>,
}

/// An SCTP packet as a pod's kernel gets it.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    src: SocketAddr,
    dst: SocketAddr,
    tag: [u8; 4],
    chunk: u8,
}

impl World {
    fn new(policy: &str) -> Self {
        let loaded =
            adit_control::parse("demo.yaml".as_ref(), MESH).unwrap_or_else(|report| panic!("{report:?}"));
        let view = adit_control::View {
            node: None,
            ready: &|_| true,
            joined: &[],
            generation: 1,
        };
        let snapshot = adit_control::build(&loaded.mesh, view);
        let names = ["web", "api"].map(|name| WorkloadName::new("shop", name));
        let pods = names.each_ref().map(|name| {
            let config = Config {
                addresses: snapshot.workloads[name].addresses.clone(),
                ..Config::default()
            };
            Rc::new(Pod::new(
                name.clone(),
                Netstack::new(config, 1, std::time::Instant::now()),
                std::rc::Weak::new(),
                None,
                Arc::new(BusyPoll::new(Duration::ZERO, Arc::default())),
            ))
        });
        let mut compiler = Compiler::new(Options::default());
        compiler.sync(objects(&snapshot, policy));
        let (sender, mailbox) = Mailbox::new();
        let flows = FlowHub::new(64);
        let records = flows.reader();
        let shared = Arc::new(Shared {
            policy: ArcSwap::new(compiler.publish()),
            snapshot: ArcSwap::from_pointee(snapshot),
            identities: Arc::new(Identities::default()),
            outer: OuterSockets::default(),
            places: ArcSwap::from_pointee(
                names
                    .iter()
                    .cloned()
                    .map(|name| (name, 0))
                    .collect::<HashMap<_, _>>(),
            ),
            workers: vec![sender],
            flows,
        });
        let worker = Rc::new(Worker::new(
            shared,
            Arc::new(Counters::default()),
            Arc::new(BusyPoll::new(Duration::ZERO, Arc::default())),
            1,
        ));
        let [web, api] = pods;
        for pod in [&web, &api] {
            worker
                .pods
                .borrow_mut()
                .insert(pod.name().clone(), Rc::clone(pod));
        }
        Self {
            worker,
            mailbox,
            web,
            api,
            records,
            compiler: RefCell::new(compiler),
        }
    }

    /// The pod's IPv4 address with `port`.
    fn at(&self, pod: &Pod, port: u16) -> SocketAddr {
        let snapshot = self.worker.shared.snapshot.load();
        let like: IpAddr = [0, 0, 0, 0].into();
        SocketAddr::new(snapshot.workloads[pod.name()].address_like(like).unwrap(), port)
    }

    fn service(&self) -> SocketAddr {
        let snapshot = self.worker.shared.snapshot.load();
        let addresses = &snapshot.services[&WorkloadName::new("shop", "api")].addresses;
        let v4 = addresses.iter().find(|address| address.is_ipv4()).unwrap();
        SocketAddr::new(*v4, 7777)
    }

    /// A pod's kernel sends an SCTP packet, and it goes as far as it does.
    fn send(&mut self, pod: &Rc<Pod>, from: SocketAddr, to: SocketAddr, chunk: &[u8]) {
        let frame = frame(from, to, chunk);
        // The checksum isn't there yet, as on a device that makes it.
        pod.with_stack(|stack, now| stack.handle_frame(now, &frame, RxChecksum::Partial));
        pod.dispatch(&PodArrivals {
            worker: Rc::clone(&self.worker),
            pod: Rc::clone(pod),
        });
        while let Ok(command) = self.mailbox.try_recv() {
            self.worker.handle(command);
        }
    }

    fn set_policy(&self, policy: &str) {
        let snapshot = self.worker.shared.snapshot.load();
        let mut compiler = self.compiler.borrow_mut();
        compiler.sync(objects(&snapshot, policy));
        self.worker.shared.policy.store(compiler.publish());
        self.worker.judge();
    }

    fn record(&mut self) -> Arc<FlowRecord> {
        match self.records.try_next() {
            Some(Next::Record(record)) => record,
            other => panic!("a record is written, not {other:?}"),
        }
    }

    fn dropped(&self, reason: &str) -> u64 {
        let mut counts = BTreeMap::new();
        self.worker.counters.collect(&mut counts);
        counts[&format!("packets_dropped_total{{reason={reason}}}")]
    }
}

fn objects(snapshot: &Snapshot, policy: &str) -> Vec<Object> {
    let mut text = policy.to_owned();
    for (name, workload) in &snapshot.workloads {
        let ips: Vec<String> = workload
            .addresses
            .iter()
            .map(|ip| format!("{{ip: '{ip}'}}"))
            .collect();
        text += &format!(
            "\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {0}, namespace: shop, labels: {{app: {0}}}}}\n\
             spec: {{containers: []}}\nstatus: {{podIPs: [{1}]}}\n",
            name.name,
            ips.join(", ")
        );
    }
    let mut reading = Reading::default();
    Reader::default().read_into("policy.yaml", &text, &mut reading);
    assert!(reading.diagnostics.is_empty(), "{:?}", reading.diagnostics);
    reading.objects
}

/// An IPv4 packet (RFC 791) with an SCTP packet of one chunk, without SCTP's checksum.
fn frame(from: SocketAddr, to: SocketAddr, chunk: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (from.ip(), to.ip()) else {
        panic!("these tests speak IPv4");
    };
    let length = (20 + 12 + chunk.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let mut frame = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 132, 0, 0];
    frame.extend(src.octets());
    frame.extend(dst.octets());
    let sum: u32 = frame
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend([1, 2, 3, 4, 0, 0, 0, 0]);
    frame.extend(chunk);
    frame
}

/// What a pod's kernel has got since it was last asked. A checksum that is wrong fails.
fn got(pod: &Pod) -> Vec<Got> {
    let mut all = Vec::new();
    let mut frame = Vec::new();
    while pod
        .with_stack(|stack, now| stack.poll_transmit(now, &mut frame))
        .is_some()
    {
        let (src, dst, _) = read(&frame);
        all.push(Got {
            src,
            dst,
            tag: frame[24..28].try_into().unwrap(),
            chunk: frame[32],
        });
    }
    all
}

/// Has another stack read the packet, as one that its sender sent: it checks what a kernel does.
fn read(frame: &[u8]) -> (SocketAddr, SocketAddr, SctpPacket) {
    let address: [u8; 4] = frame[12..16].try_into().unwrap();
    let config = Config {
        addresses: vec![address.into()],
        ..Config::default()
    };
    let now = std::time::Instant::now();
    let mut stack = Netstack::new(config, 1, now);
    stack.handle_frame(now, frame, RxChecksum::Verify);
    match stack.poll_event() {
        Some(Event::Sctp { src, dst, packet }) => (src, dst, packet),
        other => panic!("an SCTP packet, not {other:?}: {frame:?}"),
    }
}

#[test]
fn an_association_goes_through_a_service_and_back() {
    let mut world = World::new(SIGNALS_ONLY);
    let (web, api) = (Rc::clone(&world.web), Rc::clone(&world.api));
    let (client, server, service) = (world.at(&web, 5000), world.at(&api, 7), world.service());
    world.send(&web, client, service, &INIT);
    assert_eq!(
        got(&api),
        [Got {
            src: client,
            dst: server,
            tag: [1, 2, 3, 4],
            chunk: INIT[0]
        }]
    );
    let mut answer = INIT;
    answer[0] = INIT_ACK;
    world.send(&api, server, client, &answer);
    assert_eq!(
        got(&web),
        [Got {
            src: service,
            dst: client,
            tag: [1, 2, 3, 4],
            chunk: INIT_ACK
        }]
    );
    // The server may speak first from then on, and is still the other end of the same flow.
    world.send(&api, server, client, &HEARTBEAT);
    world.send(&web, client, service, &HEARTBEAT);
    assert_eq!((got(&web).len(), got(&api).len()), (1, 1));
    web.datagrams.end();
    let record = world.record();
    assert_eq!(record.protocol, Protocol::Sctp);
    assert_eq!(
        (record.original_destination, record.destination.addr),
        (service, server)
    );
    assert_eq!((record.bytes_sent, record.bytes_received), (28, 28));
    assert_eq!(
        record.policy.decided_by,
        "default/KubernetesNetworkPolicy/shop/signals-only/0"
    );
    api.datagrams.end();
    assert_eq!(world.record().policy.decided_by, "default-allow");
}

#[test]
fn a_flow_that_loses_its_permission_ends_and_gets_it_back() {
    let mut world = World::new(SIGNALS_ONLY);
    let (web, api) = (Rc::clone(&world.web), Rc::clone(&world.api));
    let (client, server) = (world.at(&web, 5000), world.at(&api, 7));
    world.send(&web, client, SocketAddr::new(server.ip(), 8), &INIT);
    let record = world.record();
    assert_eq!(
        (record.verdict, record.refused),
        (VerdictKind::Deny, Some(RefuseReason::Denied))
    );
    assert_eq!(
        (got(&api), got(&web)),
        (vec![], vec![]),
        "what is denied is dropped"
    );
    world.send(&web, client, server, &INIT);
    assert_eq!(got(&api).len(), 1);
    world.set_policy(NOTHING);
    let record = world.record();
    assert_eq!(record.close, CloseReason::PolicyChanged);
    assert_eq!(
        record.policy.decided_by,
        "default/KubernetesNetworkPolicy/shop/nothing/end"
    );
    // Its other end goes on for a while. That opens no flow to `web` by which `web` could answer.
    for policy in [NOTHING, OTHER_SIGNALS, NOTHING] {
        world.send(&api, server, client, &HEARTBEAT);
        world.send(&web, client, server, &HEARTBEAT);
        assert_eq!((got(&api), got(&web)), (vec![], vec![]), "{policy}");
        world.set_policy(policy);
    }
    assert_eq!(world.dropped("no-flow"), 3);
    world.set_policy(SIGNALS_ONLY);
    world.send(&web, client, server, &HEARTBEAT);
    assert_eq!(got(&api).len(), 1);
}

#[test]
fn what_goes_nowhere_is_answered_with_an_abort_and_recorded() {
    let mut world = World::new("");
    let web = Rc::clone(&world.web);
    let client = world.at(&web, 5000);
    let outside: SocketAddr = OUTSIDE.parse().unwrap();
    let no_port = SocketAddr::new(world.service().ip(), 80);
    let dns = world.worker.shared.snapshot.load().dns.clone();
    let dns = dns.into_iter().find(IpAddr::is_ipv4).unwrap();
    for (to, reason) in [
        (outside, RefuseReason::Unreachable),
        (no_port, RefuseReason::Refused),
        (SocketAddr::new(dns, 53), RefuseReason::Refused),
    ] {
        world.send(&web, client, to, &INIT);
        let abort = Got {
            src: to,
            dst: client,
            tag: [9, 8, 7, 6],
            chunk: ABORT,
        };
        assert_eq!(got(&web), [abort]);
        let record = world.record();
        assert_eq!(
            (record.protocol, record.refused),
            (Protocol::Sctp, Some(reason)),
            "{to}"
        );
        if to == outside {
            assert_eq!(
                record.detail.as_deref(),
                Some("SCTP is carried between workloads of a node, not to hosts outside")
            );
        }
    }
    assert_eq!(world.dropped("unsupported-protocol"), 1);
}
