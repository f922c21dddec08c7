//! Byte streams both ways over links from clean to awful: every byte arrives once, in order, and each end sees how the other
//! ended.

use std::net::SocketAddr;
use std::time::Duration;

use adit_flow::{CloseReason, FourTuple};
use adit_netstack::{BufferSize, ClosedBy, Config, Event, FlowError, FlowId};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::for_each_seed;
use crate::world::{Link, Rng, World};

/// How a direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Fin,
    Reset,
}

/// One connection and what either end has still to do.
struct Connection {
    flow: FlowId,
    app: SocketHandle,
    stream: u64,
    /// From the pod to the agent, and back.
    upload: Direction,
    download: Direction,
    established: bool,
    remote_fin: bool,
    /// When the FIN of the pod was reported; once closed, how long ago that was. In microseconds.
    since_fin_us: u64,
    closed: Option<(CloseReason, ClosedBy)>,
    /// The most that either reader takes at a time.
    reader_chunk: usize,
}

struct Direction {
    total: u64,
    written: u64,
    read: u64,
    ending: Ending,
    ended: bool,
    eof: bool,
}

impl Direction {
    fn new(total: u64, ending: Ending) -> Self {
        Self {
            total,
            written: 0,
            read: 0,
            ending,
            ended: false,
            eof: false,
        }
    }
}

/// What byte `at` of a stream is.
fn pattern(stream: u64, at: u64) -> u8 {
    ((at.wrapping_mul(0x9e37_79b9) >> 13) ^ (at >> 7) ^ stream.wrapping_mul(31)) as u8
}

impl Connection {
    fn new(flow: FlowId, app: SocketHandle, stream: u64, rng: &mut Rng, shape: &Shape) -> Self {
        let total = |rng: &mut Rng| {
            if shape.least_bytes == 0 && rng.chance(20) {
                rng.below(3)
            } else {
                shape.least_bytes + rng.below(shape.most_bytes - shape.least_bytes)
            }
        };
        let reset = rng.chance(shape.reset_percent);
        let (upload, download) = (total(rng), total(rng));
        let resets_up = reset && rng.chance(50);
        let ending = |resets| if resets { Ending::Reset } else { Ending::Fin };
        Self {
            flow,
            app,
            stream,
            upload: Direction::new(upload, ending(resets_up)),
            download: Direction::new(download, ending(reset && !resets_up)),
            established: false,
            remote_fin: false,
            since_fin_us: 0,
            closed: None,
            reader_chunk: 1 + rng.below(100_000) as usize,
        }
    }

    fn resets(&self) -> bool {
        self.upload.ending == Ending::Reset || self.download.ending == Ending::Reset
    }

    fn on_event(&mut self, now_us: u64, event: &Event) {
        assert!(self.closed.is_none(), "nothing comes after Closed: {event:?}");
        match event {
            Event::Established { .. } => self.established = true,
            Event::RemoteFin { .. } => {
                assert!(!self.remote_fin, "one FIN");
                self.remote_fin = true;
                self.since_fin_us = now_us;
            }
            Event::Closed { reason, by, .. } => {
                self.since_fin_us = now_us - self.since_fin_us;
                self.closed = Some((*reason, *by));
            }
            _ => {}
        }
    }

    fn pump(&mut self, world: &mut World) {
        self.pump_agent(world);
        self.pump_app(world);
    }

    fn pump_agent(&mut self, world: &mut World) {
        let now = world.now();
        if !self.established || self.closed.is_some() {
            return;
        }
        let chunk = self.reader_chunk;
        loop {
            let (at, stream) = (self.upload.read, self.stream);
            let check = |bytes: &[u8]| {
                let count = bytes.len().min(chunk);
                for (offset, &byte) in bytes[..count].iter().enumerate() {
                    assert_eq!(
                        byte,
                        pattern(stream, at + offset as u64),
                        "upload byte {}",
                        at + offset as u64
                    );
                }
                count
            };
            let read = if world.rng.chance(50) {
                world.stack.recv_with(now, self.flow, check)
            } else {
                let taken = world.stack.recv_bytes(now, self.flow, chunk);
                taken.map(|bytes| check(&bytes))
            };
            match read {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    assert!(!self.remote_fin, "no byte comes after the FIN");
                    self.upload.read += count as u64;
                }
            }
            if world.rng.chance(10) {
                break; // the rest next time, which must be asked for without a new event
            }
        }
        while self.download.written < self.download.total {
            let at = self.download.written;
            let left = (self.download.total - at).min(1 + world.rng.below(200_000));
            let data: Vec<u8> = (at..at + left).map(|at| pattern(!self.stream, at)).collect();
            let sent = if world.rng.chance(50) {
                world.stack.send(now, self.flow, &data)
            } else {
                world.stack.send_bytes(now, self.flow, &mut data.into())
            };
            match sent {
                Ok(0) => break,
                Ok(count) => self.download.written += count as u64,
                Err(FlowError::Ended { .. }) => break,
                Err(error) => panic!("writing failed: {error}"),
            }
        }
        if self.download.written == self.download.total && !self.download.ended {
            self.download.ended = true;
            match self.download.ending {
                Ending::Fin => world.stack.shutdown(now, self.flow),
                Ending::Reset => world.stack.abort(now, self.flow),
            }
        }
    }

    fn pump_app(&mut self, world: &mut World) {
        let stream = self.stream;
        let chunk = self.reader_chunk;
        let rng = world.rng.below(100);
        let socket = world.kernel.socket(self.app);
        while socket.can_recv() {
            let at = self.download.read;
            let count = socket
                .recv(|bytes| {
                    let count = bytes.len().min(chunk);
                    for (offset, &byte) in bytes[..count].iter().enumerate() {
                        assert_eq!(
                            byte,
                            pattern(!stream, at + offset as u64),
                            "download byte {}",
                            at + offset as u64
                        );
                    }
                    (count, count)
                })
                .unwrap();
            self.download.read += count as u64;
            if rng < 10 {
                break;
            }
        }
        if matches!(
            socket.state(),
            State::CloseWait | State::Closing | State::LastAck | State::TimeWait
        ) && !socket.can_recv()
        {
            self.download.eof = true;
        }
        if socket.may_send() {
            while self.upload.written < self.upload.total {
                let at = self.upload.written;
                let left = (self.upload.total - at).min(50_000);
                let data: Vec<u8> = (at..at + left).map(|at| pattern(stream, at)).collect();
                match socket.send_slice(&data) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => self.upload.written += count as u64,
                }
            }
        }
        if self.upload.written == self.upload.total
            && !self.upload.ended
            && !matches!(
                socket.state(),
                State::SynSent | State::SynReceived | State::Listen
            )
        {
            self.upload.ended = true;
            match self.upload.ending {
                Ending::Fin => socket.close(),
                Ending::Reset => socket.abort(),
            }
        }
    }

    fn check(&self) {
        /// How long smoltcp, which plays the pod's kernel, knows a connection in TIME-WAIT. If the acknowledgements of
        /// our FIN are lost for so long, the next copy of it finds nobody, and is rightly answered by a reset.
        const TIME_WAIT_US: u64 = 10_000_000;
        let (reason, by) = self.closed.expect("every flow ends");
        if !self.resets() {
            let forgotten = reason == CloseReason::Reset && self.since_fin_us > TIME_WAIT_US;
            assert!(
                reason == CloseReason::Fin || forgotten,
                "a clean end, by {by:?}: {reason:?}"
            );
            assert!(self.remote_fin, "the FIN was reported");
            assert_eq!(
                self.upload.read, self.upload.total,
                "every byte of the pod arrived"
            );
            assert_eq!(
                self.download.read, self.download.total,
                "every byte to the pod arrived"
            );
            return;
        }
        if self.upload.ending == Ending::Reset {
            // The other direction may have ended before, and an abort that finds it all done is no reset.
            assert!(
                matches!(reason, CloseReason::Reset),
                "a reset is never a clean end: {reason:?} by {by:?}"
            );
        }
        if self.download.ending == Ending::Reset {
            assert_eq!(reason, CloseReason::Reset);
            assert!(
                !self.download.eof,
                "the app saw a clean end of a stream that was reset"
            );
        }
    }
}

struct Shape {
    link: Link,
    least_bytes: u64,
    most_bytes: u64,
    reset_percent: u64,
    connections: u64,
    config: Config,
    kernel_rings: usize,
    patience: Duration,
}

fn remote(v6: bool) -> SocketAddr {
    if v6 {
        "[fd00::99]:443".parse().unwrap()
    } else {
        "10.9.9.9:443".parse().unwrap()
    }
}

fn pod(v6: bool, port: u16) -> SocketAddr {
    if v6 {
        SocketAddr::new("fd00::1".parse().unwrap(), port)
    } else {
        SocketAddr::new([10, 0, 0, 1].into(), port)
    }
}

fn transfer(seed: u64, shape: &Shape) -> World {
    let mut world = World::new(seed, shape.config.clone(), shape.link, shape.kernel_rings);
    world.kernel.listen(8080);
    let mut connections = Vec::new();
    for index in 0..shape.connections {
        let v6 = world.rng.chance(50);
        let port = 2000 + index as u16;
        let (flow, app) = if world.rng.chance(50) {
            let app = world.kernel.connect(pod(v6, port), remote(v6));
            (open_from_pod(&mut world, pod(v6, port)), app)
        } else {
            open_to_pod(
                &mut world,
                FourTuple::new(SocketAddr::new(remote(v6).ip(), port), pod(v6, 8080)),
            )
        };
        let mut rng = world.rng.clone();
        let connection = Connection::new(flow, app, index, &mut rng, shape);
        world.rng = rng;
        connections.push(connection);
    }
    let end = world.now_us + shape.patience.as_micros() as u64;
    loop {
        for event in world.take_events() {
            if let Some(connection) = connections
                .iter_mut()
                .find(|connection| concerns(&event, connection.flow))
            {
                connection.on_event(world.now_us, &event);
            }
        }
        for connection in &mut connections {
            connection.pump(&mut world);
        }
        world.settle();
        let done = connections.iter().all(|connection| connection.closed.is_some());
        let busy = connections.iter().any(|connection| connection.closed.is_none());
        if done && world.stack.flow_count() == 0 {
            break;
        }
        // Readers that paused go on after a moment, without an event.
        let limit = if busy {
            (world.now_us + 5_000).min(end)
        } else {
            end
        };
        world.jump(limit);
        assert!(
            world.now_us < end,
            "it ends in time; left: {}",
            describe(&mut world, &connections)
        );
    }
    for connection in &connections {
        connection.check();
    }
    assert_eq!(world.stack.flow_count(), 0, "no flow is left");
    assert_eq!(world.stack.ring_bytes(), 0, "no ring is left");
    assert_eq!(world.stack.poll_timeout(), None, "no deadline is left");
    let counters = world.stack.counters();
    assert_eq!(counters.established, counters.closed_total(), "{counters:?}");
    assert_eq!(
        counters.syns_held,
        counters.syns_accepted + counters.syns_refused + counters.syns_withdrawn + counters.syns_timed_out
    );
    assert_eq!(counters.rebuilds_failed, 0);
    // The budget holds all that the windows of so few connections can have promised.
    assert_eq!(counters.windows_shrunk, 0);
    world
}

fn describe(world: &mut World, connections: &[Connection]) -> String {
    let mut text = format!("{:?}\n", world.stack.counters());
    for connection in connections
        .iter()
        .filter(|connection| connection.closed.is_none())
    {
        let app = world.kernel.socket(connection.app);
        text += &format!(
            "flow {} app {:?} (queued {} in, {} out) up {}/{}/{} down {}/{}/{} fin {}\n",
            connection.flow,
            app.state(),
            app.recv_queue(),
            app.send_queue(),
            connection.upload.read,
            connection.upload.written,
            connection.upload.total,
            connection.download.read,
            connection.download.written,
            connection.download.total,
            connection.remote_fin,
        );
    }
    text
}

fn concerns(event: &Event, flow: FlowId) -> bool {
    match event {
        Event::Established { flow: of }
        | Event::Readable { flow: of }
        | Event::Writable { flow: of }
        | Event::RemoteFin { flow: of }
        | Event::Refused { flow: of, .. }
        | Event::Closed { flow: of, .. } => *of == flow,
        _ => false,
    }
}

fn open_from_pod(world: &mut World, from: SocketAddr) -> FlowId {
    let limit = world.now_us + 200_000_000;
    loop {
        world.settle();
        let syn = world.events.iter().find_map(|event| match event {
            Event::Syn { flow, tuple } if tuple.src == from => Some(*flow),
            _ => None,
        });
        if let Some(flow) = syn {
            // A verdict takes a while; the kernel may repeat its SYN meanwhile.
            let thinking = world.rng.below(3_000_000);
            world.run(Duration::from_micros(thinking));
            let now = world.now();
            world.stack.accept(now, flow).unwrap();
            return flow;
        }
        assert!(world.jump(limit), "the SYN arrives");
    }
}

fn open_to_pod(world: &mut World, tuple: FourTuple) -> (FlowId, SocketHandle) {
    let now = world.now();
    let flow = world.stack.connect(now, tuple).unwrap();
    let limit = world.now_us + 9_000_000;
    loop {
        world.settle();
        if let Some(app) = world.kernel.accepted(tuple.dst.port()) {
            return (flow, app);
        }
        assert!(world.jump(limit), "the app accepts");
    }
}

fn config() -> Config {
    Config {
        connect_timeout: Duration::from_secs(100),
        retransmit_timeout: Duration::from_secs(600),
        ..Config::default()
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            link: Link::CLEAN,
            least_bytes: 0,
            most_bytes: 1_000_000,
            reset_percent: 0,
            connections: 4,
            config: config(),
            kernel_rings: 300_000,
            patience: Duration::from_secs(120),
        }
    }
}

const AWFUL: Link = Link {
    delay_us: 200,
    jitter_us: 2_000,
    loss_percent: 5,
    duplicate_percent: 5,
};

#[test]
fn a_clean_link() {
    for_each_seed(40, |seed| {
        transfer(seed, &Shape::default());
    });
}

#[test]
fn a_link_that_loses_repeats_and_reorders() {
    for_each_seed(30, |seed| {
        let shape = Shape {
            link: AWFUL,
            most_bytes: 300_000,
            patience: Duration::from_secs(3600),
            ..Shape::default()
        };
        transfer(seed, &shape);
    });
}

#[test]
fn a_link_that_only_reorders() {
    for_each_seed(30, |seed| {
        let link = Link {
            delay_us: 10,
            jitter_us: 300,
            loss_percent: 0,
            duplicate_percent: 0,
        };
        transfer(
            seed,
            &Shape {
                link,
                patience: Duration::from_secs(600),
                ..Shape::default()
            },
        );
    });
}

#[test]
fn resets_are_seen_as_resets() {
    for_each_seed(60, |seed| {
        let shape = Shape {
            reset_percent: 60,
            most_bytes: 200_000,
            ..Shape::default()
        };
        transfer(seed, &shape);
    });
}

#[test]
fn small_segments_and_rings() {
    for_each_seed(20, |seed| {
        let buffer = BufferSize {
            initial: 4096,
            max: 20_000,
        };
        let config = Config {
            mtu: 1500,
            receive_buffer: buffer,
            send_buffer: buffer,
            buffer_budget: 200_000,
            ack_hold: (seed % 2 == 0).then_some(Duration::from_micros(500)),
            ..config()
        };
        let link = Link {
            delay_us: 50,
            jitter_us: 100,
            loss_percent: 1,
            duplicate_percent: 1,
        };
        let (most_bytes, kernel_rings, patience) = (100_000, 5_000, Duration::from_secs(3600));
        transfer(
            seed,
            &Shape {
                config,
                link,
                most_bytes,
                kernel_rings,
                patience,
                ..Shape::default()
            },
        );
    });
}

#[test]
fn flows_that_fold_at_every_pause() {
    for_each_seed(40, |seed| {
        let config = Config {
            ack_hold: (seed % 4 < 2).then_some(Duration::from_millis(5)),
            ..config()
        };
        let link = Link {
            delay_us: 100,
            jitter_us: 50,
            loss_percent: seed % 3,
            duplicate_percent: seed % 2,
        };
        let shape = Shape {
            config,
            link,
            most_bytes: 300_000,
            patience: Duration::from_secs(3600),
            ..Shape::default()
        };
        let world = transfer(seed, &shape);
        assert_eq!(world.stack.counters().rebuilds_failed, 0);
    });
}

#[test]
fn bulk_makes_rings_grow_to_their_limit() {
    for_each_seed(4, |seed| {
        let shape = Shape {
            least_bytes: 5_000_000,
            most_bytes: 10_000_000,
            connections: 1,
            kernel_rings: 2_000_000,
            ..Shape::default()
        };
        let world = transfer(seed, &shape);
        assert!(
            world.stack.counters().rings_grown >= 2,
            "{:?}",
            world.stack.counters()
        );
    });
}
