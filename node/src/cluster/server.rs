//! The helper's loop: one thread, one step after another. Only the agent's word on a new pod is not waited for.

mod agent;
mod dismissal;
mod peers;
mod plugin;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use adit_link::{ReceiveError, SeqListener};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};

use super::conflist::Conflist;
use super::failure::Failure;
use super::members::{Gone, Members, SecondChoices};
use super::protocol::plugin::Add;
use super::protocol::{Counters, Request};
use super::serve::Options;
use crate::codes::Code;
use crate::protocol::MAX_MESSAGE;
use crate::sys;
use peers::{Peers, Role};

/// How often the helper looks for pods that ended without a word, and for another installer's hand in the node's CNI
/// list.
const TICK: Duration = Duration::from_secs(2);

/// How long connections wait when one cannot be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What troubles may be about, besides pods.
const JOURNAL: &str = "the journal";
const LIST: &str = "the node's CNI list";
const LINKS: &str = "TUN devices";

/// A pod that waits for the agent's word.
struct Waiting {
    /// The plugin that asks for it.
    peer: u64,
    add: Add,
    deadline: Instant,
}

/// The helper's state; one owner, the loop.
pub(super) struct Server {
    options: Options,
    signals: SignalFd,
    agents: SeqListener,
    plugins: SeqListener,
    peers: Peers,
    /// Who is asked about new pods.
    asked: Option<u64>,
    waiting: BTreeMap<u64, Waiting>,
    next_admission: u64,
    members: Members,
    conflist: Option<Conflist>,
    /// Since when adit is being taken off the node.
    dismissed: Option<Instant>,
    /// What last went wrong, by what it was about, so that it is told once.
    troubles: BTreeMap<String, String>,
    counters: Counters,
    buffer: Vec<u8>,
}

impl Server {
    pub(super) fn new(
        options: Options,
        signals: SignalFd,
        agents: SeqListener,
        plugins: SeqListener,
        members: Members,
        conflist: Option<Conflist>,
    ) -> Self {
        Self {
            peers: Peers::new(options.limits.clients),
            options,
            signals,
            agents,
            plugins,
            asked: None,
            waiting: BTreeMap::new(),
            next_admission: 1,
            members,
            conflist,
            dismissed: None,
            troubles: BTreeMap::new(),
            counters: Counters::default(),
            buffer: vec![0; MAX_MESSAGE],
        }
    }

    /// Takes up every pod of the journal, of which some is `unreadable`, and writes the plugin into the node's list.
    pub(super) fn resume(&mut self, unreadable: Vec<Failure>) {
        for (number, failure) in unreadable.into_iter().enumerate() {
            self.note_trouble(&format!("{JOURNAL}, entry {number}"), Some(failure));
        }
        for uid in self.members.uids() {
            let resumed = self.members.resume(&uid);
            self.note_gone(&uid, resumed);
            self.note_second_choices();
        }
        self.tend_conflist();
    }

    pub(super) fn serve(&mut self) -> io::Result<()> {
        let mut tick = Instant::now() + TICK;
        loop {
            let ready = self.wait(tick)?;
            if ready.signals && self.signals.read_signal().is_ok_and(|signal| signal.is_some()) {
                return Ok(());
            }
            for id in ready.peers {
                self.serve_peer(id);
            }
            if ready.agents {
                self.accept(Role::Agent);
            }
            if ready.plugins {
                self.accept(Role::Plugin);
            }
            let now = Instant::now();
            self.expire(now);
            if now >= tick {
                tick = now + TICK;
                self.sweep();
                self.tend_conflist();
            }
        }
    }

    /// Waits for something to do, until the next deadline.
    fn wait(&self, tick: Instant) -> io::Result<Ready> {
        let deadlines = self.waiting.values().map(|waiting| waiting.deadline);
        let deadline = deadlines.fold(tick, Instant::min);
        let fixed = [self.signals.as_fd(), self.agents.as_fd(), self.plugins.as_fd()];
        let all = fixed.into_iter().chain(self.peers.descriptors());
        let mut polled = all
            .map(|fd: BorrowedFd<'_>| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect::<Vec<_>>();
        sys::poll_until(&mut polled, Some(deadline))?;
        let ready = polled
            .iter()
            .map(|fd| !fd.revents().is_empty())
            .collect::<Vec<_>>();
        let peers = self.peers.ids().zip(ready.iter().skip(3));
        Ok(Ready {
            signals: ready[0],
            agents: ready[1],
            plugins: ready[2],
            peers: peers.filter(|(_, ready)| **ready).map(|(id, _)| id).collect(),
        })
    }

    /// Takes one connection a turn, so that a storm of them doesn't starve the rest.
    fn accept(&mut self, role: Role) {
        let (listener, uid) = match role {
            Role::Agent => (&self.agents, self.options.agent_uid),
            // Root's alone, as the helper is.
            Role::Plugin => (&self.plugins, rustix::process::geteuid().as_raw()),
        };
        let socket = match listener.accept() {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                // Out of descriptors, most likely: the connection stays in the queue, and asking for it again at once
                // would be all that the helper does.
                std::thread::sleep(ACCEPT_PAUSE);
                return;
            }
        };
        if socket.peer().map(|peer| peer.uid).ok() != Some(uid) {
            self.counters.clients_of_other_users += 1;
        } else if self.peers.add(role, socket) {
            self.counters.clients += 1;
        } else {
            self.counters.clients_over_limit += 1;
        }
    }

    /// Takes one message from a connection that has one.
    fn serve_peer(&mut self, id: u64) {
        let Some((role, socket)) = self.peers.get(id) else {
            return;
        };
        let len = match socket.recv(&mut self.buffer) {
            Ok(message) if message.len == 0 => return self.close(id),
            // No request carries descriptors; those that came are closed here.
            Ok(message) => message.len,
            Err(ReceiveError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(ReceiveError::Io(_)) => return self.close(id),
            Err(_) => return self.close_malformed(id),
        };
        match role {
            Role::Agent => match Request::decode(&self.buffer[..len]) {
                Ok(request) => self.serve_agent(id, request),
                Err(_) => self.close_malformed(id),
            },
            Role::Plugin => match super::protocol::plugin::PluginRequest::decode(&self.buffer[..len]) {
                Ok(request) => self.serve_plugin(id, request),
                Err(_) => self.close_malformed(id),
            },
        }
    }

    /// Sends a message; a client that doesn't read its messages is not waited for.
    fn send(&mut self, id: u64, message: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let Some((_, socket)) = self.peers.get(id) else {
            return;
        };
        if let Err(error) = socket.send(message, descriptors) {
            self.counters.replies_not_read += u64::from(error.kind() == io::ErrorKind::WouldBlock);
            self.close(id);
        }
    }

    fn close_malformed(&mut self, id: u64) {
        self.counters.malformed_messages += 1;
        self.close(id);
    }

    /// Forgets a connection, and what depended on it.
    fn close(&mut self, id: u64) {
        let last_agent = self.peers.remove(id);
        // Whoever asked for these pods doesn't wait any more.
        self.waiting.retain(|_, waiting| waiting.peer != id);
        if self.asked == Some(id) {
            self.asked = None;
            (self.options.log)(&"the agent is gone; new pods wait for the next");
            self.release_waiting(|_| true);
        }
        if last_agent {
            self.close_ports();
        }
    }

    /// Has no port lead to a listener that is gone, whose kernel would refuse what the next agent could take.
    fn close_ports(&mut self) {
        for uid in self.members.uids() {
            let closed = self.members.close_ports(&uid);
            self.note_trouble(&format!("the open ports of pod {uid}"), closed.err());
        }
    }

    /// Looks after pods that ended without a word, or couldn't leave.
    fn sweep(&mut self) {
        for uid in self.members.uids() {
            let swept = self.members.sweep(&uid);
            self.note_gone(&uid, swept);
        }
    }

    fn tend_conflist(&mut self) {
        let (Some(conflist), None) = (&self.conflist, self.dismissed) else {
            return;
        };
        let tended = conflist.tend();
        if let Ok(true) = tended {
            self.counters.conflist_healed += 1;
            (self.options.log)(&"the CNI plugin is in the node's list");
        }
        self.note_trouble(LIST, tended.err());
    }

    /// Counts and tells what became of a pod.
    fn note_gone(&mut self, uid: &str, outcome: Result<Option<Gone>, Failure>) {
        match outcome {
            Ok(Some(gone)) => {
                match gone {
                    Gone::Left | Gone::Stranded => self.counters.pods_left += 1,
                    Gone::Vanished => self.counters.pods_vanished += 1,
                }
                (self.options.log)(&format_args!("pod {uid} {gone}"));
                self.note_trouble(uid, None);
            }
            Ok(None) => self.note_trouble(uid, None),
            Err(failure) => self.note_trouble(uid, Some(failure)),
        }
    }

    /// Counts pods whose link isn't the first choice, and tells why.
    fn note_second_choices(&mut self) {
        let SecondChoices { pods, reason } = self.members.take_second_choices();
        self.counters.pods_without_tun += pods;
        if let Some(Failure { code, message }) = reason {
            let text = format!("packets go through veth pairs instead: {message} ({code})");
            self.note_trouble(LINKS, Some(Failure::new(Code::INSTEAD_OF_TUN, text)));
        }
    }

    /// Tells what went wrong, unless it is what was told last about the same.
    fn note_trouble(&mut self, about: &str, failure: Option<Failure>) {
        let Some(failure) = failure else {
            self.troubles.remove(about);
            return;
        };
        let text = format!("[{}] {about}: {failure}", failure.code);
        if self.troubles.get(about) != Some(&text) {
            (self.options.log)(&text);
            self.troubles.insert(about.to_owned(), text);
        }
    }
}

/// What has something.
struct Ready {
    signals: bool,
    agents: bool,
    plugins: bool,
    peers: Vec<u64>,
}
