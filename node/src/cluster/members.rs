//! The pods behind the agent: what the journal says of each, and the descriptors that are held for a new agent.
//!
//! One way in and one way out for every pod, whoever asked: the journal is written first, then the steps are taken.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::failure::{Failure, refused};
use super::inspect::{self, Place};
use super::interpose::{self, Interposed, Tools};
use super::journal::{Entry, Journal, Stage};
use super::namespace::{self, Identity};
use super::protocol::{Family, Kind, MAX_PORTS, PodRef};
use super::task::{self, Output};
use crate::codes::Code;
use crate::link::LinkChoice;
use crate::netlink::Rtnetlink;

/// How long the kernel may take to close the queues of a helper that was killed in a join.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// How often to look meanwhile.
const CLOSED_EVERY: Duration = Duration::from_millis(20);

/// What every pod is treated with.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// Where O's are pinned, each under its pod's uid.
    pub(super) pins: PathBuf,
    /// What a pod's packets go through.
    pub(super) link: LinkChoice,
    pub(super) tun_device: PathBuf,
    /// MTU of the agent's device in P, in bytes.
    pub(super) pod_mtu: u16,
    /// Pods at a time.
    pub(super) limit: usize,
    pub(super) on_step: fn(&'static str),
}

/// One pod.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    /// O, unless a join was never finished.
    outer: Option<OwnedFd>,
    /// Each queue, unless another process held it when we looked.
    pod: Option<OwnedFd>,
    wire: Option<OwnedFd>,
}

/// All of them; one owner, the server.
#[derive(Debug)]
pub(super) struct Members {
    ground: Ground,
    journal: Journal,
    held: BTreeMap<String, Held>,
    second_choices: SecondChoices,
}

/// Pods that got veth pairs since this was last asked, where TUN devices were to be tried first.
#[derive(Debug, Default)]
pub(super) struct SecondChoices {
    pub(super) pods: u64,
    /// Why the last of them did.
    pub(super) reason: Option<Failure>,
}

/// How a pod went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// It has its interface again.
    Left,
    /// It has, and its sandbox doesn't notice.
    Stranded,
    /// It had ended; what was left is cleared away.
    Vanished,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "has its own interface again",
            Self::Stranded => {
                "has its own interface again, which its sandbox doesn't notice: delete the pod (ADIT-N048)"
            }
            Self::Vanished => "ended; what was left of it is cleared away",
        })
    }
}

impl Held {
    /// The queues in P and in O, if both are here.
    pub(super) fn queues(&self) -> Option<[BorrowedFd<'_>; 2]> {
        Some([self.pod.as_ref()?.as_fd(), self.wire.as_ref()?.as_fd()])
    }

    /// Whether the pod's namespace still is where it was.
    fn is_alive(&self) -> bool {
        namespace::is_at(&self.entry.namespace, self.entry.identity)
    }
}

impl Members {
    /// Reads the journal; nothing is done about it yet.
    pub(super) fn load(ground: Ground, folder: PathBuf) -> io::Result<(Self, Vec<Failure>)> {
        match fs::create_dir(&ground.pins) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let journal = Journal::open(folder)?;
        let (entries, failures) = journal.load()?;
        let held = entries.into_iter().map(|entry| {
            let uid = entry.pod.uid.clone();
            (uid, Held::new(entry))
        });
        let members = Self {
            ground,
            journal,
            held: held.collect(),
            second_choices: SecondChoices::default(),
        };
        Ok((members, failures))
    }

    /// What is to be told of pods whose link isn't the first choice.
    pub(super) fn take_second_choices(&mut self) -> SecondChoices {
        std::mem::take(&mut self.second_choices)
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Held> {
        self.held.get(uid)
    }

    /// Pods whose uids are after one, in order.
    pub(super) fn after(&self, uid: &str) -> impl Iterator<Item = &Held> {
        let later = (
            std::ops::Bound::Excluded(uid.to_owned()),
            std::ops::Bound::Unbounded,
        );
        let held = self.held.range(later).map(|(_, held)| held);
        held.filter(|held| held.entry.stage == Stage::Joined)
    }

    /// The uids of pods of the runtime's own that `is_valid` doesn't know.
    pub(super) fn invalid(&self, is_valid: impl Fn(&str) -> bool) -> Vec<String> {
        let ours = self.held.iter().filter(|(_, held)| {
            let container = &held.entry.container;
            !container.is_empty() && !is_valid(container)
        });
        ours.map(|(uid, _)| uid.clone()).collect()
    }

    /// The namespaces of all pods.
    pub(super) fn identities(&self) -> Vec<Identity> {
        self.held.values().map(|held| held.entry.identity).collect()
    }

    /// The uids of all pods.
    pub(super) fn uids(&self) -> Vec<String> {
        self.held.keys().cloned().collect()
    }

    /// Puts a pod behind the agent, or sees to it that it is. Returns whether it is new there.
    ///
    /// `container` is the runtime's name for its sandbox, or empty when it isn't known; `link`, what its packets are to go
    /// through if it has nothing yet.
    pub(super) fn join(
        &mut self,
        pod: &PodRef,
        place: Place<'_>,
        container: &str,
        link: LinkChoice,
    ) -> Result<bool, Failure> {
        if let Some(held) = self.held.get(&pod.uid) {
            let same = match place {
                Place::At { path, .. } => namespace::is_at(path, held.entry.identity),
                Place::Among { .. } => true,
            };
            if same && held.is_alive() && held.entry.stage != Stage::Leaving {
                return self.join_again(&pod.uid, container).map(|()| false);
            }
            // The pod's sandbox was made anew, or it is on its way out.
            self.remove(&pod.uid)?;
        }
        if self.held.len() >= self.ground.limit {
            let message = format!("{} pods are behind the agent, the most it holds", self.held.len());
            return Err(Failure::new(Code::TOO_MANY, message));
        }
        let found = inspect::run(place)?;
        let entry = Entry {
            pod: pod.clone(),
            stage: Stage::Joining,
            container: container.to_owned(),
            namespace: found.namespace,
            identity: found.identity,
            interface: found.interface,
            pod_mtu: self.ground.pod_mtu,
            ports: Vec::new(),
        };
        self.journal.write(&entry)?;
        self.held.insert(pod.uid.clone(), Held::new(entry));
        self.finish_join(&pod.uid, link).map(|()| true)
    }

    /// Takes up what the journal says of a pod: finishes what was begun, and takes hold of what is there.
    pub(super) fn resume(&mut self, uid: &str) -> Result<Option<Gone>, Failure> {
        let Some(held) = self.held.get(uid) else {
            return Ok(None);
        };
        if !held.is_alive() || held.entry.stage == Stage::Leaving {
            return self.remove(uid).map(Some);
        }
        self.finish_join(uid, self.ground.link).map(|()| None)
    }

    /// [`resume`](Self::resume) for a pod that is as it should be is nothing: only those that ended, or couldn't leave.
    pub(super) fn sweep(&mut self, uid: &str) -> Result<Option<Gone>, Failure> {
        match self.held.get(uid) {
            Some(held) if held.is_alive() && held.entry.stage != Stage::Leaving => Ok(None),
            Some(_) => self.remove(uid).map(Some),
            None => Ok(None),
        }
    }

    /// [`remove`](Self::remove) for a pod that goes on elsewhere: refused if it would be without network.
    pub(super) fn leave(&mut self, uid: &str) -> Result<Gone, Failure> {
        let held = self.held.get(uid).ok_or_else(|| not_a_member(uid))?;
        if held.is_alive() && held.entry.stage == Stage::Joined {
            let (pin, entry) = (self.ground.pins.join(uid), &held.entry);
            let tools = self.ground.tools(&pin);
            task::run(|| interpose::expect_leavable(entry, tools).map(|()| Output::default()))?;
        }
        self.remove(uid)
    }

    /// The same on a node that adit is taken off, where a pod can't stay: the agent that it is behind ends, too.
    pub(super) fn dismiss(&mut self, uid: &str) -> Result<Gone, Failure> {
        match self.leave(uid) {
            Err(failure) if failure.code == Code::POD_SANDBOX => self.remove(uid).map(|_left| Gone::Stranded),
            other => other,
        }
    }

    /// Gives a pod its interface back, or clears away what is left of it.
    pub(super) fn remove(&mut self, uid: &str) -> Result<Gone, Failure> {
        let held = self.held.get(uid).ok_or_else(|| not_a_member(uid))?;
        match held.is_alive() {
            true => self.take_away(uid, interpose::leave).map(|()| Gone::Left),
            false => self.take_away(uid, interpose::clear).map(|()| Gone::Vanished),
        }
    }

    /// [`remove`](Self::remove) for a pod that ends: if it can't have its interface back, there is no need of one.
    pub(super) fn discard(&mut self, uid: &str) -> Result<Gone, Failure> {
        self.remove(uid)
            .or_else(|_| self.take_away(uid, interpose::clear).map(|()| Gone::Vanished))
    }

    fn take_away(
        &mut self,
        uid: &str,
        steps: fn(&Entry, Tools<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let ground = &self.ground;
        let held = self.held.get_mut(uid).ok_or_else(|| not_a_member(uid))?;
        held.entry.stage = Stage::Leaving;
        self.journal.write(&held.entry)?;
        // Now, for a queue of ours would keep P alive.
        (held.outer, held.pod, held.wire) = (None, None, None);
        let (pin, entry) = (ground.pins.join(uid), &held.entry);
        task::run(|| steps(entry, ground.tools(&pin)).map(|()| Output::default()))?;
        self.journal.remove(uid)?;
        self.held.remove(uid);
        Ok(())
    }

    /// Blank sockets of a pod's O.
    pub(super) fn sockets(
        &self,
        uid: &str,
        family: Family,
        kind: Kind,
        count: u16,
    ) -> Result<Vec<OwnedFd>, Failure> {
        let outer = self.outer(uid)?;
        let output = task::run(|| {
            let failed = || refused::<io::Error>(Code::INTERPOSE, "making sockets in the outer namespace");
            namespace::enter(outer).map_err(failed())?;
            let sockets = (0..count).map(|_| blank_socket(family, kind));
            Ok(Output {
                descriptors: sockets.collect::<io::Result<_>>().map_err(failed())?,
                ..Output::default()
            })
        })?;
        Ok(output.descriptors)
    }

    /// Opens or closes a port of a pod.
    pub(super) fn set_port(&mut self, uid: &str, port: u16, open: bool) -> Result<(), Failure> {
        let held = self.joined(uid)?;
        let mut ports = held.entry.ports.clone();
        match (ports.binary_search(&port), open) {
            (Ok(_), true) | (Err(_), false) => return Ok(()),
            (Err(_), true) if ports.len() >= MAX_PORTS => {
                let message = format!("pod {uid} has {MAX_PORTS} ports open, the most there may be");
                return Err(Failure::new(Code::TOO_MANY_PORTS, message));
            }
            (Err(at), true) => ports.insert(at, port),
            (Ok(at), false) => drop(ports.remove(at)),
        }
        self.change_ports(uid, ports, &[port], open)
    }

    /// Closes every port of a pod.
    pub(super) fn close_ports(&mut self, uid: &str) -> Result<(), Failure> {
        // What is on its way in or out has none that matters.
        let Ok(held) = self.joined(uid) else {
            return Ok(());
        };
        match held.entry.ports.clone() {
            ports if ports.is_empty() => Ok(()),
            ports => self.change_ports(uid, Vec::new(), &ports, false),
        }
    }

    /// Makes or removes the rules of the `changed` ports, so that `ports` are open.
    fn change_ports(
        &mut self,
        uid: &str,
        ports: Vec<u16>,
        changed: &[u16],
        open: bool,
    ) -> Result<(), Failure> {
        let held = self.joined(uid)?;
        let outer = held.outer.as_ref().ok_or_else(|| not_a_member(uid))?;
        let entry = Entry {
            ports,
            ..held.entry.clone()
        };
        // An opened port is written down first and a closed one last: a rule is never there without being known.
        if open {
            self.journal.write(&entry)?;
        }
        task::run(|| {
            let mut netlink = namespace::enter(outer)
                .and_then(|()| Rtnetlink::open())
                .map_err(refused(Code::INTERPOSE, "entering the outer namespace"))?;
            for port in changed {
                interpose::open_port_rules(&mut netlink, &entry, *port, open)?;
            }
            Ok(Output::default())
        })?;
        if !open {
            self.journal.write(&entry)?;
        }
        if let Some(held) = self.held.get_mut(uid) {
            held.entry = entry;
        }
        Ok(())
    }

    /// A pod that is there already: its queues are what may be missing.
    fn join_again(&mut self, uid: &str, container: &str) -> Result<(), Failure> {
        let Some(held) = self.held.get_mut(uid) else {
            return Err(not_a_member(uid));
        };
        if !container.is_empty() && held.entry.container != container {
            container.clone_into(&mut held.entry.container);
            self.journal.write(&held.entry)?;
        }
        if held.entry.stage == Stage::Joined && held.queues().is_some() {
            return Ok(());
        }
        self.finish_join(uid, self.ground.link)
    }

    /// Takes the steps of a join, from the first. A pod that fails them has its interface back afterwards.
    fn finish_join(&mut self, uid: &str, link: LinkChoice) -> Result<(), Failure> {
        let held = self.held.get_mut(uid).ok_or_else(|| not_a_member(uid))?;
        let interposed = match self.ground.join(&held.entry, link) {
            Ok(interposed) => interposed,
            Err(failure) => {
                // Whatever this says, the sweep tries it again; the reason to tell is the first.
                let _ = self.remove(uid);
                return Err(failure);
            }
        };
        held.outer = Some(interposed.outer);
        held.pod = interposed.pod.or_else(|| held.pod.take());
        held.wire = interposed.wire.or_else(|| held.wire.take());
        if let Some(reason) = interposed.instead_of {
            self.second_choices.pods += 1;
            self.second_choices.reason = Some(reason);
        }
        if held.entry.stage != Stage::Joined {
            held.entry.stage = Stage::Joined;
            self.journal.write(&held.entry)?;
        }
        Ok(())
    }

    fn outer(&self, uid: &str) -> Result<&OwnedFd, Failure> {
        let outer = self.joined(uid)?.outer.as_ref();
        outer.ok_or_else(|| not_a_member(uid))
    }

    fn joined(&self, uid: &str) -> Result<&Held, Failure> {
        let held = self.held.get(uid);
        held.filter(|held| held.entry.stage == Stage::Joined)
            .ok_or_else(|| not_a_member(uid))
    }
}

impl Held {
    fn new(entry: Entry) -> Self {
        Self {
            entry,
            outer: None,
            pod: None,
            wire: None,
        }
    }
}

impl Ground {
    /// Takes the steps of a join, from the first, in processes of their own.
    fn join(&self, entry: &Entry, link: LinkChoice) -> Result<Interposed, Failure> {
        let pin = self.pins.join(&entry.pod.uid);
        let tools = Tools {
            link,
            ..self.tools(&pin)
        };
        let attempt = || {
            let output = task::run(|| interpose::join(entry, tools).map(Interposed::into_output))?;
            Interposed::from_output(output)
                .map_err(|error| Failure::new(Code::PROTOCOL, format!("what a join left: {error}")))
        };
        let mut interposed = attempt()?;
        // Nobody was handed the queues of a pod that is still joining. Whoever has one is a helper that was killed on the
        // way, or rather the kernel, which closes what was in the air between its processes a moment after they have ended.
        let deadline = Instant::now() + CLOSED_WITHIN;
        while entry.stage == Stage::Joining && !interposed.has_queues() && Instant::now() < deadline {
            thread::sleep(CLOSED_EVERY);
            let again = attempt()?;
            interposed.pod = interposed.pod.or(again.pod);
            interposed.wire = interposed.wire.or(again.wire);
        }
        Ok(interposed)
    }

    fn tools<'a>(&'a self, pin: &'a Path) -> Tools<'a> {
        Tools {
            pin,
            link: self.link,
            tun_device: &self.tun_device,
            on_step: self.on_step,
        }
    }
}

fn not_a_member(uid: &str) -> Failure {
    Failure::new(Code::NOT_A_MEMBER, format!("pod {uid} is not behind the agent"))
}

fn blank_socket(family: Family, kind: Kind) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let form = match kind {
        Kind::Tcp => SocketType::STREAM,
        Kind::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(domain, form, flags, None)?;
    if family == Family::V6 {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}
