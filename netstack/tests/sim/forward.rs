//! Connections through the forwarder over links from clean to awful: nothing that it does is seen by the two kernels until a
//! connection is cut, and then both of them take it.

use std::cell::Cell;
use std::time::Duration;

use adit_flow::CloseReason;
use adit_netstack::Side;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::for_each_seed;
use crate::path::{Path, address};
use crate::world::{Link, Rng};

/// A connection between the kernels: the socket on each side, what it has still to send, and what it has received.
struct Connection {
    ends: [End; 2],
}

struct End {
    side: Side,
    socket: SocketHandle,
    to_send: usize,
    received: Vec<u8>,
}

fn link(rng: &mut Rng) -> Link {
    Link {
        delay_us: rng.below(20_000),
        jitter_us: rng.below(2) * rng.below(5000),
        loss_percent: rng.below(2) * rng.below(5),
        duplicate_percent: rng.below(4),
    }
}

/// A connection that the side opens, once it's open at both ends.
fn open(path: &mut Path, opener: Side, v6: bool, total: usize) -> Connection {
    let (from, to) = (address(opener, v6), address(opener.other(), v6));
    path.kernel(opener.other()).listen(80);
    let dialled = path
        .kernel(opener)
        .connect((from, 50_000).into(), (to, 80).into());
    let mut accepted = None;
    let opened = path.run(Duration::from_secs(300), |path| {
        accepted = accepted.or_else(|| path.kernel(opener.other()).accepted(80));
        accepted.is_some()
    });
    assert!(opened, "no connection");
    let end = |path: &mut Path, side, socket| {
        // So that what it acknowledged is what it expects.
        path.kernel(side).socket(socket).set_ack_delay(None);
        End {
            side,
            socket,
            to_send: total,
            received: Vec::new(),
        }
    };
    let accepted = accepted.expect("it was");
    let ends = [end(path, opener, dialled), end(path, opener.other(), accepted)];
    Connection { ends }
}

impl Connection {
    /// Reads what came and writes what there's room for; closes an end that has nothing more to send. Whether both are closed.
    fn drive(&mut self, path: &mut Path, total: usize) -> bool {
        let mut closed = true;
        for end in &mut self.ends {
            let socket = path.kernel(end.side).socket(end.socket);
            while socket.can_recv() {
                let read = socket.recv(|data| (data.len(), data.to_vec()));
                end.received.extend(read.expect("it can"));
            }
            while end.to_send > 0 && socket.can_send() {
                let at = total - end.to_send;
                let chunk: Vec<u8> = (at..total.min(at + 5000)).map(|index| index as u8).collect();
                end.to_send -= socket.send_slice(&chunk).expect("it can");
            }
            // A FIN with data before it that was received is one that smoltcp doesn't see.
            if end.to_send == 0 && socket.send_queue() == 0 && socket.may_send() {
                socket.close();
            }
            closed &= matches!(socket.state(), State::Closed | State::TimeWait);
        }
        closed
    }

    fn assert_complete(&self, total: usize) {
        let expected: Vec<u8> = (0..total).map(|index| index as u8).collect();
        for end in &self.ends {
            assert!(
                end.received == expected,
                "{} of {total} bytes",
                end.received.len()
            );
        }
    }
}

fn sides(rng: &mut Rng) -> (Side, bool) {
    let opener = if rng.chance(50) { Side::Pod } else { Side::Wire };
    (opener, rng.chance(50))
}

fn reasons(path: &Path) -> Vec<CloseReason> {
    path.ended.iter().map(|ended| ended.reason).collect()
}

#[test]
fn both_kernels_see_each_other_and_nothing_between() {
    for_each_seed(40, |seed| {
        let mut rng = Rng::new(seed);
        let (opener, v6) = sides(&mut rng);
        let total = 1 + rng.below(300_000) as usize;
        let link = link(&mut rng);
        let mut path = Path::new(seed, link, v6);
        let mut connection = open(&mut path, opener, v6, total);
        let done = path.run(Duration::from_secs(600), |path| connection.drive(path, total));
        assert!(done, "it never closed");
        connection.assert_complete(total);
        path.run(Duration::from_secs(15), |_| false);
        let ended = path.ended[0];
        assert_eq!(ended.reason, CloseReason::Fin);
        // A FIN whose last acknowledgement was lost may be repeated when all else has forgotten the connection.
        assert!(
            path.ended[1..]
                .iter()
                .all(|late| late.from_pod.bytes + late.from_wire.bytes == 0)
        );
        assert!(ended.from_pod.bytes >= total as u64 && ended.from_wire.bytes >= total as u64);
        assert_eq!(ended.key.from, opener);
        assert_eq!(
            path.forwarder.counters().mss_clamped.min(2),
            2,
            "both announce more than the wire takes"
        );
    });
}

#[test]
fn a_forwarder_that_was_started_again_takes_connections_on() {
    for_each_seed(20, |seed| {
        let mut rng = Rng::new(seed);
        let (opener, v6) = sides(&mut rng);
        let total = 100_000;
        let link = link(&mut rng);
        let mut path = Path::new(seed, link, v6);
        let mut connection = open(&mut path, opener, v6, total);
        path.run(Duration::from_millis(rng.below(200)), |path| {
            connection.drive(path, total)
        });
        path.restart(seed + 1, v6);
        let done = path.run(Duration::from_secs(600), |path| connection.drive(path, total));
        assert!(done, "it never closed");
        connection.assert_complete(total);
    });
}

#[test]
fn an_aborted_connection_is_a_reset_one() {
    for_each_seed(20, |seed| {
        let mut rng = Rng::new(seed);
        let (opener, v6) = sides(&mut rng);
        let total = 4_000_000;
        let link = Link {
            delay_us: 5000 + rng.below(20_000),
            ..link(&mut rng)
        };
        let mut path = Path::new(seed, link, v6);
        let mut connection = open(&mut path, opener, v6, total);
        path.run(Duration::from_millis(rng.below(200)), |path| {
            connection.drive(path, total)
        });
        let aborter = &connection.ends[rng.below(2) as usize];
        let (side, socket) = (aborter.side, aborter.socket);
        path.kernel(side).socket(socket).abort();
        let done = path.run(Duration::from_secs(600), |path| {
            connection
                .ends
                .iter()
                .all(|end| path.kernel(end.side).socket(end.socket).state() == State::Closed)
        });
        assert!(done, "it never closed");
        path.run(Duration::from_secs(300), |_| false);
        assert!(reasons(&path).contains(&CloseReason::Reset), "{:?}", path.ended);
        assert_eq!(path.forwarder.flow_count(), 0);
    });
}

#[test]
fn both_kernels_take_the_resets_of_a_cut() {
    let refused = Cell::new(0);
    for_each_seed(60, |seed| {
        let mut rng = Rng::new(seed);
        let (opener, v6) = sides(&mut rng);
        let total = 4_000_000;
        let link = Link {
            delay_us: 5000 + rng.below(20_000),
            ..link(&mut rng)
        };
        let mut path = Path::new(seed, link, v6);
        let mut connection = open(&mut path, opener, v6, total);
        path.run(Duration::from_millis(rng.below(300)), |path| {
            connection.drive(path, total)
        });
        let (id, _) = path.forwarder.flows().next().expect("it's open");
        assert!(path.forwarder.cut(path.now(), id, CloseReason::PolicyChanged));
        let done = path.run(Duration::from_secs(4), |path| {
            connection.drive(path, total);
            connection
                .ends
                .iter()
                .all(|end| path.kernel(end.side).socket(end.socket).state() == State::Closed)
        });
        assert!(done, "an end lives on");
        assert_eq!(reasons(&path), [CloseReason::PolicyChanged]);
        refused.set(refused.get() + path.resets_refused);
    });
    println!(
        "{} resets were not what an end expected, and were followed by one that was",
        refused.get()
    );
}

#[test]
fn a_refused_connection_ends_as_one() {
    for_each_seed(5, |seed| {
        let mut rng = Rng::new(seed);
        let (opener, v6) = sides(&mut rng);
        let mut path = Path::new(seed, Link::CLEAN, v6);
        let (from, to) = (address(opener, v6), address(opener.other(), v6));
        let socket = path
            .kernel(opener)
            .connect((from, 50_000).into(), (to, 80).into());
        let done = path.run(Duration::from_secs(10), |path| {
            path.kernel(opener).socket(socket).state() == State::Closed
        });
        assert!(done, "it never closed");
        assert_eq!(reasons(&path), [CloseReason::Refused]);
        assert_eq!(path.ended[0].by, Some(opener.other()));
    });
}
