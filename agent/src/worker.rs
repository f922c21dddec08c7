//! A worker: one thread, one tokio runtime, the pods that live on it, and their tunnels.
//!
//! A pod belongs to one worker for its whole life, and so do its flows and the streams they travel in: no lock
//! and no hop between threads on the data path. Workers reach each other only through [`Command`]s, of which the
//! data path needs two: the other end of an in-memory tunnel, and a datagram for another pod.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_control::Snapshot;
use adit_flow::{Direction, DropReason, FourTuple, Protocol, WorkloadName};
use adit_link::Queue;
use adit_netstack::{FlowId, Netstack, NewFlow};
use tokio::runtime::{self, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};

use crate::pipeline::course::course;
use crate::pipeline::live::{Live, LiveFlows, Permitted};
use crate::pipeline::{inbound, outbound, plain};
use crate::telemetry::{self, Counters, Recorder};

mod busy_poll;
mod counted;
mod crossing;
mod datagrams;
mod dns_end;
mod doors;
mod ending;
mod flow_end;
mod frames;
mod host_end;
mod newcomers;
mod outer;
mod plain_end;
mod pod;
mod resolver;
mod server_name;
mod shared;
mod tunnel_end;
mod tunnels;
mod turn;

use busy_poll::BusyPoll;
pub(crate) use crossing::{Course, Crossed};
pub(crate) use dns_end::DnsEnd;
pub(crate) use doors::{AGENT_PORTS, HBONE_PORT};
pub(crate) use ending::{Admission, Which};
pub(crate) use flow_end::FlowEnd;
use frames::Frames;
pub(crate) use host_end::HostEnd;
pub(crate) use newcomers::Newcomers;
pub(crate) use outer::WireSide;
pub(crate) use plain_end::PlainEnd;
pub(crate) use pod::{Arrivals, Pod};
pub(crate) use shared::{Mailbox, Places, Shared};
pub(crate) use tunnel_end::TunnelEnd;

/// What a worker is asked to do. The first two are the data path's.
pub(crate) enum Command {
    /// The server's end of an in-memory tunnel to `pod`.
    Tunnel {
        /// Whose tunnel it is.
        pod: WorkloadName,
        /// Bytes of TLS.
        io: tokio::io::DuplexStream,
    },
    /// A datagram for `pod` from another pod.
    Packet {
        /// Whom it's for.
        pod: WorkloadName,
        /// The datagram.
        packet: datagrams::Packet,
    },
    /// A flow for `pod` from another one, of which one is outside the mesh.
    Plain {
        /// Whom it's for.
        pod: WorkloadName,
        /// The flow.
        call: Box<plain::Call>,
    },
    /// A stream for `pod` from a tunnel that another worker serves: the exception, see [`Command::Accepted`].
    Arrived {
        /// Whose address was asked for.
        pod: WorkloadName,
        /// The stream.
        arrived: Box<inbound::Arrived>,
    },
    /// A connection that another agent made to this node's listener, to the worker of the pod that it's for.
    Accepted {
        /// Bytes of TLS.
        socket: std::net::TcpStream,
        /// The listener's port.
        wire_port: u16,
    },
    /// Serve a pod.
    AddPod {
        /// Its name.
        pod: WorkloadName,
        /// Its addresses.
        addresses: Vec<std::net::IpAddr>,
        /// The queue of its device.
        queue: Queue,
        /// Its outer side, on a node.
        wire: Option<WireSide>,
        /// Told when it's served.
        done: oneshot::Sender<()>,
    },
    /// Stop serving a pod.
    RemovePod {
        /// Its name.
        pod: WorkloadName,
        /// Told when its flows have ended.
        done: oneshot::Sender<()>,
    },
    /// Have a captured pod's new flows pass through, or not any more.
    LetPass {
        /// Its name.
        pod: WorkloadName,
        /// Whether they pass.
        passing: bool,
    },
    /// Say when no flow of a pod ends here.
    AwaitQuiet {
        /// Its name.
        pod: WorkloadName,
        /// Told then.
        done: oneshot::Sender<()>,
    },
    /// The policy or the mesh has changed: judge every live flow again.
    Judge,
    /// Take new flows, or have them wait, or refuse them.
    Admit(Admission),
    /// Say when flows have ended.
    AwaitFlows {
        /// Which.
        which: Which,
        /// Told then.
        done: oneshot::Sender<()>,
    },
    /// Reset what still lives.
    Stop,
    /// Count live state into the reply.
    Gauges(oneshot::Sender<Gauges>),
}

/// What a worker holds at one moment, and what its pods' netstacks and its tunnels counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges {
    /// Pods served.
    pub(crate) pods: usize,
    /// Flows relayed.
    pub(crate) flows: usize,
    /// Tunnels to peers.
    pub(crate) tunnels: usize,
    /// The counters of netstacks and forwarders, summed over all pods; their sizes over the pods served now. Those of the
    /// pool of tunnels.
    pub(crate) counts: BTreeMap<String, u64>,
}

/// One worker's state; it never leaves its thread.
pub(crate) struct Worker {
    /// What all workers read.
    pub(crate) shared: Arc<Shared>,
    /// The flows being relayed here.
    pub(crate) live: LiveFlows,
    /// The tunnels that pods of this worker opened.
    pub(crate) tunnels: tunnels::Tunnels,
    /// The DNS resolver.
    pub(crate) resolver: resolver::Resolver,
    /// Those that may be about to come with tunnels.
    pub(crate) newcomers: Newcomers,
    /// What it counted.
    pub(crate) counters: Arc<Counters>,
    pods: RefCell<HashMap<WorkloadName, Rc<Pod>>>,
    /// What pods that are gone have counted: a sum that fell would look like a new start.
    departed: RefCell<BTreeMap<String, u64>>,
    busy_poll: Arc<BusyPoll>,
    frames: Frames,
    admission: watch::Sender<Admission>,
    random: Cell<u64>,
}

impl Worker {
    /// Starts a worker on a thread of its own; it ends when its mailbox is closed. It looks for work for `busy_poll` at most
    /// before it sleeps.
    ///
    /// # Errors
    /// The thread or its runtime could not be made.
    pub(crate) fn start(
        index: usize,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        mailbox: mpsc::Receiver<Command>,
        busy_poll: Duration,
        seed: u64,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        // A local runtime stays on the thread that made it, so that thread says whether there is one.
        let (made, outcome) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("adit-worker-{index}"))
            .spawn(move || {
                let busy_poll = Arc::new(BusyPoll::new(busy_poll, Arc::clone(&counters)));
                let runtime = match runtime(Arc::clone(&busy_poll)) {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(made.send(Err(error))),
                };
                let _ = made.send(Ok(()));
                runtime.block_on(async move {
                    let worker = Rc::new(Self::new(shared, counters, busy_poll, seed));
                    worker.run(mailbox).await;
                });
            })?;
        match outcome.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the thread ended before it had a runtime")),
        }
    }

    fn new(shared: Arc<Shared>, counters: Arc<Counters>, busy_poll: Arc<BusyPoll>, seed: u64) -> Self {
        Self {
            live: LiveFlows::default(),
            tunnels: tunnels::Tunnels::new(Arc::clone(&shared), Arc::clone(&counters)),
            resolver: resolver::Resolver::default(),
            newcomers: Newcomers::default(),
            busy_poll,
            frames: Frames::default(),
            shared,
            counters,
            pods: RefCell::default(),
            departed: RefCell::default(),
            admission: watch::Sender::new(Admission::Open),
            random: Cell::new(seed | 1),
        }
    }

    async fn run(self: Rc<Self>, mut mailbox: mpsc::Receiver<Command>) {
        tokio::task::spawn_local(beat(Arc::clone(&self.counters)));
        let busy_poll = Arc::clone(&self.busy_poll);
        tokio::task::spawn_local(async move { busy_poll.run().await });
        while let Some(command) = mailbox.recv().await {
            self.handle(command);
        }
    }

    fn handle(self: &Rc<Self>, command: Command) {
        match command {
            Command::Tunnel { pod, io } => self.with_pod(&pod, |pod| tunnels::serve_pipe(self, pod, io)),
            Command::Packet { pod, packet } => {
                self.with_pod(&pod, |pod| datagrams::to_pod(self, pod, packet))
            }
            Command::Arrived { pod, arrived } => self.with_pod(&pod, |pod| self.spawn_inbound(pod, *arrived)),
            Command::Plain { pod, call } => self.with_pod(&pod, |pod| {
                tokio::task::spawn_local(plain::inbound(Rc::clone(self), Rc::clone(pod), *call));
            }),
            Command::Accepted { socket, wire_port } => self.accept(socket, wire_port),
            Command::AddPod {
                pod,
                addresses,
                queue,
                wire,
                done,
            } => {
                self.add_pod(pod, addresses, queue, wire);
                let _ = done.send(());
            }
            Command::RemovePod { pod, done } => {
                tokio::task::spawn_local(Rc::clone(self).let_pod_go(pod, done));
            }
            Command::LetPass { pod, passing } => self.with_pod(&pod, |pod| pod.let_pass(passing)),
            Command::AwaitQuiet { pod, done } => self.with_pod(&pod, |pod| {
                let pod = Rc::clone(pod);
                tokio::task::spawn_local(async move {
                    until_quiet(&pod).await;
                    let _ = done.send(());
                });
            }),
            Command::Judge => self.judge(),
            Command::Admit(admission) => self.admit(admission),
            Command::AwaitFlows { which, done } => self.await_flows(which, done),
            Command::Stop => self.live.drain(),
            Command::Gauges(reply) => {
                let _ = reply.send(self.gauges());
            }
        }
    }

    fn add_pod(
        self: &Rc<Self>,
        name: WorkloadName,
        addresses: Vec<std::net::IpAddr>,
        queue: Queue,
        wire: Option<WireSide>,
    ) {
        self.remove_pod(&name);
        let mut config = adit_netstack::Config {
            addresses: addresses.clone(),
            ack_hold: self.busy_poll.is_on().then_some(ACK_HOLD),
            ..adit_netstack::Config::default()
        };
        if let Some(room) = queue.room() {
            // A stream's window fits the queue twice: a pod that sends all that it may loses nothing of it there.
            config.receive_buffer.max = config.receive_buffer.max.min(room / 2);
        }
        let stack = Netstack::new(config, self.draw(), std::time::Instant::now());
        let (wire_queue, outer) = match wire {
            Some(side) => {
                let (queue, outer) = side.open(&addresses, self.draw());
                (Some(queue), Some(outer))
            }
            None => (None, None),
        };
        let queue = Rc::new(queue);
        let busy_poll = Arc::clone(&self.busy_poll);
        let pod = Rc::new(Pod::new(
            name.clone(),
            stack,
            Rc::downgrade(&queue),
            outer,
            busy_poll,
        ));
        if let Some(outer) = pod.outer() {
            outer.doors.open_hbone(self, &pod);
        }
        self.pods.borrow_mut().insert(name, Rc::clone(&pod));
        tokio::task::spawn_local(datagrams::sweep(Rc::clone(self), Rc::clone(&pod)));
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let arrivals = PodArrivals {
                worker: Rc::clone(&worker),
                pod: Rc::clone(&pod),
            };
            // Lent, since what the queues have counted is read when the pod is removed.
            if let Err(error) = pod
                .drive(&queue, wire_queue.as_ref(), worker.frames.clone(), &arrivals)
                .await
            {
                tracing::warn!(pod = %pod.name(), %error, "a pod's device failed; its flows are reset");
                worker.remove_pod(pod.name());
            }
        });
    }

    /// Removes a pod once its flows have ended: the FINs of a program that has just exited are still under way.
    async fn let_pod_go(self: Rc<Self>, name: WorkloadName, done: oneshot::Sender<()>) {
        const GRACE: Duration = Duration::from_millis(500);
        if let Some(pod) = self.pod(&name) {
            let _ = tokio::time::timeout(GRACE, until_quiet(&pod)).await;
        }
        self.remove_pod(&name);
        let _ = done.send(());
    }

    fn remove_pod(&self, name: &WorkloadName) {
        // Taken out before its flows are woken: they look for it.
        let pod = self.pods.borrow_mut().remove(name);
        if let Some(pod) = pod {
            pod.remove();
            pod.datagrams.end();
            let mut counted = BTreeMap::new();
            collect(&pod, &mut counted);
            let mut departed = self.departed.borrow_mut();
            for (name, count) in counted {
                // The rest are sizes, of what is no more.
                if name.contains("_total") {
                    *departed.entry(name).or_default() += count;
                }
            }
        }
    }

    fn judge(&self) {
        let policy = self.shared.policy.load();
        self.live.judge(&policy, &self.shared.snapshot.load());
        for pod in self.pods.borrow().values() {
            pod.datagrams.judge(&policy);
            pod.judge_crossing(&policy);
        }
    }

    fn gauges(&self) -> Gauges {
        let pods = self.pods.borrow();
        let mut counts = self.departed.borrow().clone();
        for pod in pods.values() {
            collect(pod, &mut counts);
        }
        let pool = self.tunnels.stats();
        telemetry::collect_pool(pool, &mut counts);
        Gauges {
            pods: pods.len(),
            flows: self.live.len(),
            tunnels: pool.tunnels,
            counts,
        }
    }

    fn accept(self: &Rc<Self>, socket: std::net::TcpStream, wire_port: u16) {
        match tokio::net::TcpStream::from_std(socket) {
            Ok(socket) => tunnels::serve_socket(self, socket, wire_port),
            Err(error) => tracing::warn!(%error, "a connection from another node could not be taken over"),
        }
    }

    fn spawn_inbound(self: &Rc<Self>, pod: &Rc<Pod>, arrived: inbound::Arrived) {
        tokio::task::spawn_local(inbound::inbound(Rc::clone(self), Rc::clone(pod), arrived));
    }

    fn pod(&self, name: &WorkloadName) -> Option<Rc<Pod>> {
        self.pods.borrow().get(name).cloned()
    }

    /// Runs `serve` if the pod is here. It may have been removed while the command was on its way: then what the
    /// command carries is dropped, which its other end sees as a lost tunnel or a lost packet.
    fn with_pod(&self, name: &WorkloadName, serve: impl FnOnce(&Rc<Pod>)) {
        if let Some(pod) = self.pod(name) {
            serve(&pod);
        }
    }

    /// Sends a datagram to the pod that owns it, on whichever worker that is.
    pub(crate) fn send_packet(self: &Rc<Self>, pod: &WorkloadName, packet: datagrams::Packet) {
        let sent = match self.shared.worker_of(pod) {
            Some(mailbox) => mailbox.try_send(Command::Packet {
                pod: pod.clone(),
                packet,
            }),
            None => return self.counters.dropped(DropReason::Unroutable),
        };
        if sent.is_err() {
            self.counters.dropped(DropReason::QueueFull);
        }
    }

    /// Starts the record of a flow.
    pub(crate) fn recorder(
        &self,
        direction: Direction,
        protocol: Protocol,
        tuple: FourTuple,
        snapshot: &Snapshot,
    ) -> Recorder {
        Recorder::new(
            &self.shared.flows,
            &self.counters,
            direction,
            protocol,
            tuple,
            snapshot,
        )
    }

    /// Enters a permitted flow among those that are judged again on every change.
    pub(crate) fn watch(&self, direction: Direction, permitted: Permitted) -> Live {
        let (policy, snapshot) = (self.shared.policy.load(), self.shared.snapshot.load());
        self.live.watch(direction, permitted, &policy, &snapshot)
    }

    /// A number to spread flows by, even in distribution; not a secret (xorshift64, Marsaglia 2003).
    pub(crate) fn draw(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.random.set(state);
        state
    }
}

/// One queue for all tasks of the worker. With a `LocalSet`, tunnels' tasks would wait in another than flows', and each
/// wake-up from one to the other would look at the devices first: a system call.
fn runtime(busy_poll: Arc<BusyPoll>) -> io::Result<runtime::LocalRuntime> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || busy_poll.before_sleep())
        .build_local(LocalOptions::default())
}

/// Shows every second that the thread isn't stuck.
async fn beat(counters: Arc<Counters>) {
    const PAUSE: Duration = Duration::from_secs(1);
    loop {
        counters.pulse.beat();
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns once no flow of the pod is served, or the pod is gone.
async fn until_quiet(pod: &Pod) {
    const POLL: Duration = Duration::from_millis(10);
    while pod.has_flows() && !pod.is_gone() {
        tokio::time::sleep(POLL).await;
    }
}

/// How long an ACK may wait for bytes to go along with: a worker that is busy meanwhile sends it then.
const ACK_HOLD: Duration = Duration::from_micros(500);

/// Adds what a pod's devices, netstack and forwarder have counted.
fn collect(pod: &Pod, into: &mut BTreeMap<String, u64>) {
    for queue in pod.queues() {
        telemetry::collect_queue(&queue, into);
    }
    pod.inspect_stack(|stack| telemetry::collect_netstack(stack, into));
    if let Some(outer) = pod.outer() {
        outer.crossing.collect(into);
    }
}

/// Where a pod's driver puts what arrives.
struct PodArrivals {
    worker: Rc<Worker>,
    pod: Rc<Pod>,
}

impl Arrivals for PodArrivals {
    fn on_syn(&self, flow: FlowId, tuple: FourTuple) {
        let serving = outbound::outbound(Rc::clone(&self.worker), Rc::clone(&self.pod), flow, tuple);
        tokio::task::spawn_local(serving);
    }

    fn on_packet(&self, packet: datagrams::Packet) {
        datagrams::from_pod(&self.worker, &self.pod, packet);
    }

    fn course(&self, new: &NewFlow) -> Course {
        course(&self.worker, &self.pod, new)
    }

    fn on_door(&self, tuple: FourTuple, frame: &[u8]) {
        if let Some(outer) = self.pod.outer() {
            outer.doors.on_syn(&self.worker, &self.pod, tuple, frame);
        }
    }
}
