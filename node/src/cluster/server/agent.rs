//! What the agent asks for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Server;
use crate::cluster::failure::Failure;
use crate::cluster::inspect::Place;
use crate::cluster::protocol::{MAX_PAGE, PodRef, Reply, Request};
use crate::codes::Code;
use crate::link::LinkChoice;

impl Server {
    pub(super) fn serve_agent(&mut self, id: u64, request: Request) {
        let outcome = match request {
            Request::Admissions => {
                self.take_over(id);
                return;
            }
            Request::Answer {
                id: question,
                decision,
            } => {
                // Only the one that is asked may answer.
                if self.asked == Some(id) {
                    self.decide(question, &decision);
                }
                return;
            }
            Request::Join(pod) => match self.join(&pod) {
                Ok(()) => return self.send_queues(id, &pod.uid),
                Err(failure) => Err(failure),
            },
            Request::Sockets {
                uid,
                family,
                kind,
                count,
            } => match self.members.sockets(&uid, family, kind, count) {
                Ok(sockets) => return self.send_sockets(id, &sockets),
                Err(failure) => Err(failure),
            },
            Request::Leave { uid } => self.leave(&uid),
            Request::Members { after } => Ok(self.page(&after)),
            Request::OpenPort { uid, port } => self
                .members
                .set_port(&uid, port, true)
                .map(|()| Reply::PortOpened),
            Request::ClosePort { uid, port } => self
                .members
                .set_port(&uid, port, false)
                .map(|()| Reply::PortClosed),
            Request::Stats => Ok(Reply::Stats(self.counters)),
        };
        match outcome {
            Ok(reply) => self.send(id, &reply.encode(), &[]),
            Err(failure) => self.refuse(id, failure),
        }
    }

    fn take_over(&mut self, id: u64) {
        if let Some(before) = self.asked.replace(id)
            && before != id
        {
            // It would wait for questions that don't come.
            let _ = self.peers.remove(before);
        }
        // Those that the one before didn't answer are asked again by the runtime.
        self.release_waiting(|_| true);
        (self.options.log)(&"an agent is connected");
        let reply = match self.dismissed {
            None => Reply::Admitting,
            Some(_) => Reply::Dismissed,
        };
        self.send(id, &reply.encode(), &[]);
    }

    /// Puts a running pod behind the agent. One that is just starting is looked for where its plugin said.
    fn join(&mut self, pod: &PodRef) -> Result<(), Failure> {
        let starting = self
            .waiting
            .values()
            .find(|waiting| waiting.add.pod.uid == pod.uid);
        if let Some(add) = starting.map(|waiting| waiting.add.clone()) {
            // What runs it isn't known here; any pod can have Ethernet.
            return self.join_starting(&add, self.options.link.by_ethernet());
        }
        let folder = self.options.namespaces.clone();
        let known = self.members.identities();
        let place = Place::Among {
            folder: &folder,
            addresses: &pod.addresses,
            known: &known,
        };
        self.join_at(pod, place, "", self.options.link)
    }

    pub(super) fn join_at(
        &mut self,
        pod: &PodRef,
        place: Place<'_>,
        container: &str,
        link: LinkChoice,
    ) -> Result<(), Failure> {
        self.expect_serving(&pod.uid)?;
        let joined = self.members.join(pod, place, container, link);
        self.note_second_choices();
        match joined {
            Ok(new) => {
                if new {
                    self.counters.pods_joined += 1;
                    let PodRef {
                        uid, namespace, name, ..
                    } = pod;
                    (self.options.log)(&format_args!(
                        "pod {uid} ({namespace}/{name}) is behind the agent"
                    ));
                }
                Ok(())
            }
            Err(failure) => {
                self.counters.joins_failed += 1;
                Err(Failure::new(
                    failure.code,
                    format!("pod {}/{}: {failure}", pod.namespace, pod.name),
                ))
            }
        }
    }

    fn send_queues(&mut self, id: u64, uid: &str) {
        let Some(held) = self.members.get(uid) else {
            return;
        };
        let Some(queues) = held.queues() else {
            let message = format!("the packet queues of pod {uid} are held by another process");
            return self.refuse(id, Failure::new(Code::QUEUES_HELD, message));
        };
        let reply = Reply::Joined(held.entry.member()).encode();
        // Of our own, so that the table isn't borrowed while it is told that a client is gone.
        match queues.map(|queue| queue.try_clone_to_owned()) {
            [Ok(pod), Ok(wire)] => self.send(id, &reply, &[pod.as_fd(), wire.as_fd()]),
            [Err(error), _] | [_, Err(error)] => {
                let message = format!("duplicating the packet queues of pod {uid}: {error}");
                self.refuse(id, Failure::new(Code::DESCRIPTORS, message));
            }
        }
    }

    fn send_sockets(&mut self, id: u64, sockets: &[OwnedFd]) {
        let descriptors = sockets.iter().map(AsFd::as_fd).collect::<Vec<BorrowedFd<'_>>>();
        self.send(id, &Reply::Sockets.encode(), &descriptors);
    }

    fn leave(&mut self, uid: &str) -> Result<Reply, Failure> {
        let gone = self.members.leave(uid)?;
        self.note_gone(uid, Ok(Some(gone)));
        Ok(Reply::Left)
    }

    fn page(&self, after: &str) -> Reply {
        let mut members = self
            .members
            .after(after)
            .map(|held| held.entry.member())
            .take(MAX_PAGE + 1);
        let page = members.by_ref().take(MAX_PAGE).collect();
        Reply::Members {
            members: page,
            more: members.next().is_some(),
        }
    }

    fn refuse(&mut self, id: u64, failure: Failure) {
        self.counters.requests_refused += 1;
        let reply = Reply::Refused {
            code: failure.code,
            message: failure.message,
        };
        self.send(id, &reply.encode(), &[]);
    }
}
