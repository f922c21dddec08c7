use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

/// What an application does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Fin,
    Send(Vec<u8>),
    Reset,
}

/// An end that plays a script and remembers what reached it. It takes `room` bytes a poll and is then full once,
/// so that every test also exercises back-pressure.
#[derive(Clone)]
struct Scripted(Rc<RefCell<Script>>);

#[derive(Default)]
struct Script {
    acts: VecDeque<Act>,
    room: usize,
    full: bool,
    received: Vec<u8>,
    got_fin: bool,
    got_reset: bool,
    sent_fin: bool,
    unconsumed: usize,
    most_unconsumed: usize,
}

impl Scripted {
    fn new(acts: impl IntoIterator<Item = Act>, room: usize) -> Self {
        Self(Rc::new(RefCell::new(Script {
            acts: acts.into_iter().collect(),
            room,
            ..Script::default()
        })))
    }
}

impl End for Scripted {
    fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ended>> {
        let mut script = self.0.borrow_mut();
        match script.acts.pop_front() {
            Some(Act::Send(data)) => {
                script.unconsumed += data.len();
                script.most_unconsumed = script.most_unconsumed.max(script.unconsumed);
                Poll::Ready(Ok(Some(data.into())))
            }
            Some(Act::Fin) => {
                script.sent_fin = true;
                Poll::Ready(Ok(None))
            }
            Some(Act::Reset) => {
                script.acts.push_front(Act::Reset);
                Poll::Ready(Err(Ended::reset()))
            }
            None => Poll::Pending,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Ended>> {
        let mut script = self.0.borrow_mut();
        script.full = !script.full;
        if script.full {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let part = data.split_to(script.room.min(data.len()));
        script.received.extend_from_slice(&part);
        Poll::Ready(Ok(()))
    }

    fn consumed(&mut self, count: usize) {
        self.0.borrow_mut().unconsumed -= count;
    }

    fn finish(&mut self) -> Result<(), Ended> {
        self.0.borrow_mut().got_fin = true;
        Ok(())
    }

    fn poll_closed(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let script = self.0.borrow();
        match script.acts.front() {
            Some(Act::Reset) => Poll::Ready(Err(Ended::reset())),
            _ if script.sent_fin && script.got_fin => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn reset(&mut self) {
        self.0.borrow_mut().got_reset = true;
    }
}

/// Polls until the relay is done, or has nothing to do.
fn run(relay: &mut Relay<Scripted, Scripted>) -> Option<Outcome> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    (0..10_000).find_map(|_| match relay.poll(&mut cx) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    })
}

fn send(text: &str) -> Act {
    Act::Send(text.as_bytes().to_vec())
}

#[test]
fn both_ends_close_cleanly_and_the_first_fin_is_named() {
    let client = Scripted::new([send("ask"), Act::Fin], 2);
    let server = Scripted::new([send("answer"), Act::Fin], 2);
    let mut relay = Relay::new(client.clone(), server.clone());
    let outcome = run(&mut relay).unwrap();
    assert_eq!(
        outcome,
        Outcome {
            reason: CloseReason::Fin,
            by: Side::Opener,
            detail: String::new()
        }
    );
    assert_eq!(relay.moved(), Moved { sent: 3, received: 6 });
    assert_eq!(
        (&*server.0.borrow().received, &*client.0.borrow().received),
        (&b"ask"[..], &b"answer"[..])
    );
    assert!(!client.0.borrow().got_reset && !server.0.borrow().got_reset);
}

#[test]
fn a_half_closed_flow_goes_on_in_the_other_direction() {
    let client = Scripted::new([Act::Fin], 8);
    let server = Scripted::new([send("late")], 8);
    let mut relay = Relay::new(client.clone(), server.clone());
    assert_eq!(run(&mut relay), None, "the server has not ended");
    assert!(server.0.borrow().got_fin);
    assert_eq!(client.0.borrow().received, b"late");
    assert!(!client.0.borrow().got_fin);
}

#[test]
fn a_reset_of_either_end_reaches_the_other_as_a_reset() {
    for (client_acts, server_acts, by) in [
        (vec![send("x"), Act::Reset], vec![], Side::Opener),
        (vec![], vec![send("x"), Act::Reset], Side::Target),
        // After its own FIN, while the other direction is silent.
        (vec![Act::Fin, Act::Reset], vec![], Side::Opener),
        (vec![], vec![Act::Fin, Act::Reset], Side::Target),
    ] {
        let client = Scripted::new(client_acts.clone(), 8);
        let server = Scripted::new(server_acts.clone(), 8);
        let outcome = run(&mut Relay::new(client.clone(), server.clone())).unwrap();
        assert_eq!(
            (outcome.reason, outcome.by),
            (CloseReason::Reset, by),
            "{client_acts:?} {server_acts:?}"
        );
        let other = if by == Side::Opener { &server } else { &client };
        assert!(other.0.borrow().got_reset, "{client_acts:?} {server_acts:?}");
        if by == Side::Opener {
            assert!(!client.0.borrow().got_fin, "a reset was passed on as FIN");
        }
    }
}

#[test]
fn a_reset_is_seen_while_the_other_end_takes_nothing() {
    let client = Scripted::new([send("stuck"), Act::Reset], 0);
    let server = Scripted::new([], 0);
    let outcome = run(&mut Relay::new(client, server.clone())).unwrap();
    assert_eq!((outcome.reason, outcome.by), (CloseReason::Reset, Side::Opener));
    assert!(server.0.borrow().got_reset);
}

proptest! {
    /// Whatever the chunks and however little the receiver takes at a time: the bytes arrive whole and in order,
    /// one chunk at most is held, and an end that isn't a FIN never looks like one.
    #[test]
    fn bytes_arrive_whole_and_in_order(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..20),
        back in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..20),
        room in 1_usize..60,
        clean: bool,
    ) {
        let end = if clean { Act::Fin } else { Act::Reset };
        let acts = |chunks: &[Vec<u8>], end: Act| {
            chunks.iter().cloned().map(Act::Send).chain([end]).collect::<Vec<_>>()
        };
        let client = Scripted::new(acts(&chunks, end), room);
        let server = Scripted::new(acts(&back, Act::Fin), room);
        let mut relay = Relay::new(client.clone(), server.clone());
        let outcome = run(&mut relay).expect("both ends have ended");
        let client = client.0.borrow();
        let server = server.0.borrow();
        let longest = chunks.iter().map(Vec::len).max().unwrap_or(0);
        prop_assert!(client.most_unconsumed <= longest, "more than one chunk was held");
        if clean {
            prop_assert_eq!(outcome.reason, CloseReason::Fin);
            prop_assert_eq!(&server.received, &chunks.concat());
            prop_assert_eq!(&client.received, &back.concat());
        } else {
            prop_assert_eq!((outcome.reason, outcome.by), (CloseReason::Reset, Side::Opener));
            prop_assert!(server.got_reset && !server.got_fin);
            prop_assert!(chunks.concat().starts_with(&server.received));
        }
    }
}
