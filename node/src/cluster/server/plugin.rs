//! What the CNI plugin asks for, and what becomes of pods that wait for the agent's word.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Server, Waiting};
use crate::cluster::ADMISSION_TIMEOUT;
use crate::cluster::failure::Failure;
use crate::cluster::inspect::Place;
use crate::cluster::namespace;
use crate::cluster::protocol::plugin::{Add, PluginReply, PluginRequest};
use crate::cluster::protocol::{Admission, Decision, Reply};
use crate::codes::Code;
use crate::link::LinkChoice;

impl Server {
    pub(super) fn serve_plugin(&mut self, id: u64, request: PluginRequest) {
        let reply = match request {
            PluginRequest::Add(add) => match self.ask(id, add) {
                Some(reply) => reply,
                None => return,
            },
            PluginRequest::Check { container, uid } => self.check(&container, &uid),
            PluginRequest::Collect { valid } => {
                let stale = self
                    .members
                    .invalid(|container| valid.iter().any(|one| one == container));
                self.discard_all(stale)
            }
            PluginRequest::Delete {
                container,
                namespace,
                uid,
            } => {
                self.waiting
                    .retain(|_, waiting| waiting.add.container != container);
                let ours = self.is_of(&container, &self.here(&namespace), &uid);
                self.discard_all(ours.then_some(uid).into_iter().collect())
            }
            PluginRequest::Dismiss { grace } => self.dismiss(grace),
            PluginRequest::Probe => self.probe(),
        };
        self.answer(id, &reply);
    }

    /// Asks the agent about a new pod; the answer comes later, unless there is nobody to ask.
    fn ask(&mut self, id: u64, add: Add) -> Option<PluginReply> {
        if self.dismissed.is_some() {
            return Some(self.leave_alone());
        }
        let Some(asked) = self.asked else {
            return Some(self.without_agent(&add, "no agent is connected"));
        };
        if self.waiting.len() >= self.options.limits.waiting {
            return Some(self.without_agent(&add, "too many pods wait for the agent"));
        }
        let question = self.next_admission;
        self.next_admission += 1;
        let admit = Reply::Admit(Admission {
            id: question,
            pod: add.pod.clone(),
        });
        let waiting = Waiting {
            peer: id,
            add,
            deadline: Instant::now() + ADMISSION_TIMEOUT,
        };
        // Before it is sent: an agent that is found to be gone releases it.
        self.waiting.insert(question, waiting);
        self.send(asked, &admit.encode(), &[]);
        None
    }

    /// Does what the agent says of a pod. An answer that comes too late is no answer.
    pub(super) fn decide(&mut self, question: u64, decision: &Decision) {
        let Some(Waiting { peer, add, .. }) = self.waiting.remove(&question) else {
            return;
        };
        let reply = match decision {
            Decision::Join => self.join_new(&add, self.options.link),
            Decision::JoinByEthernet => self.join_new(&add, self.options.link.by_ethernet()),
            Decision::LeaveAlone => self.leave_alone(),
            Decision::Refuse { reason } => {
                let message = format!("pod {}/{}: {reason}", add.pod.namespace, add.pod.name);
                refusal(Failure::new(Code::AGENT_REFUSED, message))
            }
        };
        self.answer(peer, &reply);
    }

    fn join_new(&mut self, add: &Add, link: LinkChoice) -> PluginReply {
        match self.join_starting(add, link) {
            Ok(()) => PluginReply::Joined,
            Err(failure) => refusal(failure),
        }
    }

    /// Puts a pod behind the agent that its plugin has told us of.
    pub(super) fn join_starting(&mut self, add: &Add, link: LinkChoice) -> Result<(), Failure> {
        let path = self.here(&add.namespace);
        let place = Place::At {
            path: &path,
            interface: &add.interface,
        };
        self.join_at(&add.pod, place, &add.container, link)
    }

    /// Where a namespace that the runtime names is for us: its folder may be mounted elsewhere in the helper's container.
    fn here(&self, namespace: &str) -> PathBuf {
        let path = Path::new(namespace);
        let ours = path.file_name().map(|name| self.options.namespaces.join(name));
        match ours {
            Some(ours) if !path.exists() => ours,
            _ => path.to_owned(),
        }
    }

    /// Gives up on pods whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.release_waiting(|waiting| waiting.deadline <= now);
    }

    /// Tells those pods that `over` chooses that the agent has no word for them.
    pub(super) fn release_waiting(&mut self, over: impl Fn(&Waiting) -> bool) {
        let chosen = self.waiting.iter().filter(|(_, waiting)| over(waiting));
        for question in chosen.map(|(question, _)| *question).collect::<Vec<_>>() {
            if let Some(Waiting { peer, add, .. }) = self.waiting.remove(&question) {
                let reply = self.without_agent(&add, "the agent did not answer");
                self.answer(peer, &reply);
            }
        }
    }

    /// The rule for a pod that nobody has a word for: it waits, unless its namespace is one that must not.
    fn without_agent(&mut self, add: &Add, why: &str) -> PluginReply {
        let pod = &add.pod;
        if self.dismissed.is_some() || self.options.exempt.contains(&pod.namespace) {
            return self.leave_alone();
        }
        self.counters.admissions_expired += 1;
        let message = format!("pod {}/{} waits: {why}", pod.namespace, pod.name);
        refusal(Failure::new(Code::NO_AGENT, message))
    }

    fn leave_alone(&mut self) -> PluginReply {
        self.counters.pods_left_alone += 1;
        PluginReply::LeftAlone
    }

    /// Whether the journal's pod of this uid is the sandbox that the runtime means: a pod's sandbox may be made anew, and
    /// the word about the old one come later.
    fn is_of(&self, container: &str, path: &Path, uid: &str) -> bool {
        self.members.get(uid).is_some_and(|held| {
            let entry = &held.entry;
            let alive = namespace::is_at(&entry.namespace, entry.identity);
            entry.container == container || entry.namespace == path || !alive
        })
    }

    /// A pod that the journal doesn't have was left alone, and is as it was.
    fn check(&self, container: &str, uid: &str) -> PluginReply {
        let Some(held) = self.members.get(uid) else {
            return PluginReply::Done;
        };
        let entry = &held.entry;
        if entry.container != container || namespace::is_at(&entry.namespace, entry.identity) {
            return PluginReply::Done;
        }
        let message = format!(
            "the network namespace of pod {}/{} is not at {} any more",
            entry.pod.namespace,
            entry.pod.name,
            entry.namespace.display()
        );
        refusal(Failure::new(Code::POD_NAMESPACE, message))
    }

    fn discard_all(&mut self, uids: Vec<String>) -> PluginReply {
        let mut reply = PluginReply::Done;
        for uid in uids {
            match self.members.discard(&uid) {
                Ok(gone) => self.note_gone(&uid, Ok(Some(gone))),
                Err(failure) => {
                    self.note_trouble(&uid, Some(failure.clone()));
                    reply = refusal(failure);
                }
            }
        }
        reply
    }

    fn answer(&mut self, id: u64, reply: &PluginReply) {
        self.counters.requests_refused += u64::from(matches!(reply, PluginReply::Refused { .. }));
        self.send(id, &reply.encode(), &[]);
    }
}

fn refusal(failure: Failure) -> PluginReply {
    PluginReply::Refused {
        code: failure.code,
        message: failure.message,
    }
}
