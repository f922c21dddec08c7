//! The helper's loop: clients in, replies and descriptors out, until the supervisor is gone.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use adit_link::{ReceiveError, SeqListener, SeqPacket};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use super::{Error, Limits, POD_TIMEOUT};
use crate::codes::Code;
use crate::link::LinkChoice;
use crate::pod::{self, Environment};
use crate::protocol::{Counters, MAX_LIST, MAX_MESSAGE, PodInfo, PodSpec, Reply, Request};
use crate::sys;

/// The signal that the kernel sends us when our parent ends: one that nobody else has a reason to send.
const PARENT_DIED: Signal = Signal::SIGUSR2;

/// How long connections wait when one cannot be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Descriptors in front of the clients' in the set that is polled.
const FIRST_CLIENT: usize = 3;

/// Everything that says "stop".
pub(super) struct Watch {
    signals: SignalFd,
    lifeline: OwnedFd,
    parent: Option<Pid>,
}

impl Watch {
    /// Takes over the signals that end the helper, and those from the terminal, which don't.
    pub(super) fn new(lifeline: OwnedFd) -> io::Result<Self> {
        let parent = rustix::process::getppid();
        sys::set_close_on_exec(&lifeline)?;
        // Blocked for good, here and in the children: the terminal's signals are for the supervisor to judge.
        sys::block_signals(&[
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGHUP,
            Signal::SIGTSTP,
            Signal::SIGPIPE,
            Signal::SIGTTOU,
        ])?;
        let ours = sys::block_signals(&[Signal::SIGTERM, PARENT_DIED])?;
        let signals = SignalFd::with_flags(&ours, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self {
            signals,
            lifeline,
            parent,
        })
    }

    /// Asks to be told of the parent's death, in case the lifeline's other end leaked into a process that lives on.
    ///
    /// The signal comes when the parent's *thread* that started us ends, which is no reason to stop: so it only makes
    /// us look. To be called after credentials changed, which forgets it.
    pub(super) fn follow_parent(&self) -> io::Result<()> {
        let signal = rustix::process::Signal::USR2;
        Ok(rustix::process::set_parent_process_death_signal(Some(signal))?)
    }

    /// Whether to stop, judged from what can be read without waiting.
    fn ended(&self, lifeline_readable: bool) -> bool {
        let mut terminated = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            terminated |= signal.ssi_signo == Signal::SIGTERM as u32;
        }
        terminated
            || rustix::process::getppid() != self.parent
            || (lifeline_readable && sys::lifeline_ended(self.lifeline.as_fd()))
    }
}

/// A pod that exists.
struct Pod {
    info: PodInfo,
    /// net, mnt, uts, ipc.
    namespaces: Vec<OwnedFd>,
    queues: Vec<OwnedFd>,
}

/// What to send: a reply, and descriptors with it.
struct Answer<'a> {
    reply: Reply,
    descriptors: Vec<BorrowedFd<'a>>,
}

/// A request that is not met.
struct Refusal {
    code: Code,
    message: String,
}

/// Whether a client's connection goes on.
enum Client {
    Keep,
    Close,
}

/// The helper's state; one owner, the loop.
pub(super) struct Server {
    listener: SeqListener,
    watch: Watch,
    /// The user namespace that owns every pod.
    user: OwnedFd,
    limits: Limits,
    link: LinkChoice,
    tun_device: PathBuf,
    /// Where the socket is, or above: what programs in pods must not see.
    hidden: PathBuf,
    clients: Vec<SeqPacket>,
    pods: BTreeMap<String, Pod>,
    counters: Counters,
    buffer: Vec<u8>,
    /// Set when the supervisor went away in the middle of a request.
    stopping: bool,
}

impl Server {
    pub(super) fn new(
        listener: SeqListener,
        watch: Watch,
        user: OwnedFd,
        limits: Limits,
        link: LinkChoice,
        tun_device: PathBuf,
        hidden: PathBuf,
    ) -> Self {
        Self {
            listener,
            watch,
            user,
            limits,
            link,
            tun_device,
            hidden,
            clients: Vec::new(),
            pods: BTreeMap::new(),
            counters: Counters::default(),
            buffer: vec![0; MAX_MESSAGE],
            stopping: false,
        }
    }

    pub(super) fn serve(&mut self) -> Result<(), Error> {
        loop {
            let ready = self.wait().map_err(|source| Error::System {
                step: "waiting for events",
                source,
            })?;
            if self.watch.ended(ready[1]) {
                return Ok(());
            }
            // From the last to the first, so that a closed client doesn't move those still to be served.
            for index in (0..self.clients.len()).rev() {
                if ready[FIRST_CLIENT + index] && matches!(self.serve_client(index), Client::Close) {
                    self.clients.swap_remove(index);
                }
                if self.stopping {
                    return Ok(());
                }
            }
            if ready[2] {
                self.accept();
            }
        }
    }

    /// Which descriptors have something: signals, lifeline, listener, then the clients.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let fixed = [
            self.watch.signals.as_fd(),
            self.watch.lifeline.as_fd(),
            self.listener.as_fd(),
        ];
        debug_assert_eq!(fixed.len(), FIRST_CLIENT);
        let all = fixed.into_iter().chain(self.clients.iter().map(AsFd::as_fd));
        let mut polled = all
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect::<Vec<_>>();
        sys::poll_until(&mut polled, None)?;
        Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Takes one connection a turn, so that a storm of them doesn't starve the rest.
    fn accept(&mut self) {
        let client = match self.listener.accept() {
            Ok(client) => client,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                // Out of descriptors, most likely: the connection stays in the queue, and asking for it again at once
                // would be all that the helper does.
                std::thread::sleep(ACCEPT_PAUSE);
                return;
            }
        };
        // In our user namespace the caller is uid 0, as we are; everybody else is the overflow uid.
        let ours = rustix::process::geteuid().as_raw();
        if client.peer().map(|peer| peer.uid).ok() != Some(ours) {
            self.counters.clients_of_other_users += 1;
        } else if self.clients.len() >= self.limits.clients {
            self.counters.clients_over_limit += 1;
        } else {
            self.counters.clients += 1;
            self.clients.push(client);
        }
    }

    fn serve_client(&mut self, index: usize) -> Client {
        let len = match self.clients[index].recv(&mut self.buffer) {
            Ok(message) if message.len == 0 => return Client::Close,
            // No request carries descriptors; those that came are closed here.
            Ok(message) => message.len,
            Err(ReceiveError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Client::Keep,
            Err(ReceiveError::Io(_)) => return Client::Close,
            Err(_) => {
                self.counters.malformed_messages += 1;
                return Client::Close;
            }
        };
        let Ok(request) = Request::decode(&self.buffer[..len]) else {
            self.counters.malformed_messages += 1;
            return Client::Close;
        };
        if let Err(refusal) = self.act(&request) {
            self.counters.requests_refused += 1;
            let reply = Reply::Refused {
                code: refusal.code,
                message: refusal.message,
            };
            return self.send(index, &reply, &[]);
        }
        let answer = match self.answer(&request) {
            Ok(answer) => answer,
            Err(refusal) => {
                self.counters.requests_refused += 1;
                let reply = Reply::Refused {
                    code: refusal.code,
                    message: refusal.message,
                };
                return self.send(index, &reply, &[]);
            }
        };
        let outcome = self.clients[index].send(&answer.reply.encode(), &answer.descriptors);
        self.after_send(&outcome)
    }

    fn send(&mut self, index: usize, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> Client {
        let outcome = self.clients[index].send(&reply.encode(), descriptors);
        self.after_send(&outcome)
    }

    /// A client that doesn't read its replies is not waited for.
    fn after_send(&mut self, outcome: &io::Result<()>) -> Client {
        match outcome {
            Ok(()) => Client::Keep,
            Err(error) => {
                self.counters.replies_not_read += u64::from(error.kind() == io::ErrorKind::WouldBlock);
                Client::Close
            }
        }
    }

    /// The part of a request that changes something.
    fn act(&mut self, request: &Request) -> Result<(), Refusal> {
        match request {
            Request::CreatePod(spec) => self.create(spec),
            Request::DeletePod { pod } => self.pods.remove(pod).map(drop).ok_or_else(|| no_such_pod(pod)),
            Request::List { .. }
            | Request::Namespaces { .. }
            | Request::OpenQueues { .. }
            | Request::Stats => Ok(()),
        }
    }

    /// The part of a request that tells something.
    fn answer(&self, request: &Request) -> Result<Answer<'_>, Refusal> {
        let plain = |reply| Answer {
            reply,
            descriptors: Vec::new(),
        };
        let pod = |name: &String| self.pods.get(name).ok_or_else(|| no_such_pod(name));
        Ok(match request {
            Request::CreatePod(spec) => plain(Reply::Created(pod(&spec.name)?.info.clone())),
            Request::DeletePod { .. } => plain(Reply::Deleted),
            Request::List { after } => {
                let later = (Bound::Excluded(after.clone()), Bound::Unbounded);
                let mut names = self
                    .pods
                    .range(later)
                    .map(|(name, _)| name.clone())
                    .take(MAX_LIST + 1);
                let page = names.by_ref().take(MAX_LIST).collect();
                plain(Reply::Pods {
                    names: page,
                    more: names.next().is_some(),
                })
            }
            Request::Namespaces { pod: name } => {
                let namespaces = pod(name)?.namespaces.iter().map(AsFd::as_fd);
                let descriptors = [self.user.as_fd()].into_iter().chain(namespaces).collect();
                Answer {
                    reply: Reply::Namespaces,
                    descriptors,
                }
            }
            Request::OpenQueues { pod: name } => {
                let pod = pod(name)?;
                let descriptors = pod.queues.iter().map(AsFd::as_fd).collect();
                Answer {
                    reply: Reply::Queues(pod.info.clone()),
                    descriptors,
                }
            }
            Request::Stats => plain(Reply::Stats(self.counters)),
        })
    }

    fn create(&mut self, spec: &PodSpec) -> Result<(), Refusal> {
        if self.pods.contains_key(&spec.name) {
            let message = format!("pod {:?} exists already", spec.name);
            return Err(Refusal {
                code: Code::POD_EXISTS,
                message,
            });
        }
        if self.pods.len() >= self.limits.pods {
            let message = format!("{} pods exist, the most this helper holds", self.pods.len());
            return Err(Refusal {
                code: Code::TOO_MANY,
                message,
            });
        }
        let pod = self.build(spec)?;
        self.counters.pods_created += 1;
        self.pods.insert(spec.name.clone(), pod);
        Ok(())
    }

    /// Has a child make the pod; see [`pod`].
    fn build(&mut self, spec: &PodSpec) -> Result<Pod, Refusal> {
        let failed = |step: &str, error: io::Error| Refusal {
            code: Code::POD_FAILED,
            message: format!("{step} to make pod {:?}: {error}", spec.name),
        };
        let (ours, theirs) = SeqPacket::pair().map_err(|error| Refusal {
            code: Code::DESCRIPTORS,
            message: format!("opening a socket to make pod {:?}: {error}", spec.name),
        })?;
        let environment = Environment {
            link: self.link,
            tun_device: &self.tun_device,
            hidden: &self.hidden,
        };
        let child = sys::fork_child(|| build_in_child(spec, &environment, &theirs))
            .map_err(|error| failed("starting a process", error))?;
        drop(theirs);
        let deadline = Some(Instant::now() + POD_TIMEOUT);
        let waited = loop {
            let watched = [
                ours.as_fd(),
                self.watch.signals.as_fd(),
                self.watch.lifeline.as_fd(),
            ];
            match sys::wait_readable(watched, deadline) {
                Ok([false, signal, lifeline]) if signal || lifeline => {
                    if self.watch.ended(lifeline) {
                        self.stopping = true;
                        break Err(io::Error::other("the helper is stopping"));
                    }
                }
                Ok([true, ..]) => break Ok(()),
                Ok(_) => break Err(io::ErrorKind::TimedOut.into()),
                Err(error) => break Err(error),
            }
        };
        let received = waited
            .and_then(|()| ours.recv(&mut self.buffer).map_err(io::Error::other))
            .map_err(|error| failed("waiting for a process", error));
        // It has said what it had to, or too late.
        let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        let _ = sys::wait_for(child);
        let received = received?;
        match Reply::decode(&self.buffer[..received.len]) {
            Ok(Reply::Created(info)) if received.descriptors.len() == 4 + usize::from(info.queues) => {
                let mut namespaces = received.descriptors;
                let queues = namespaces.split_off(4);
                Ok(Pod {
                    info,
                    namespaces,
                    queues,
                })
            }
            Ok(Reply::Refused { code, message }) => Err(Refusal {
                code,
                message: format!("making pod {:?}: {message}", spec.name),
            }),
            _ => Err(failed(
                "waiting for a process",
                io::Error::other("it ended without a word"),
            )),
        }
    }
}

fn build_in_child(spec: &PodSpec, environment: &Environment<'_>, parent: &SeqPacket) -> u8 {
    let sent = match pod::build(spec, environment) {
        Ok(built) => {
            let reply = Reply::Created(built.info.clone());
            parent.send(&reply.encode(), &pod::descriptors(&built))
        }
        Err(error) => {
            let reply = Reply::Refused {
                code: error.code(),
                message: error.to_string(),
            };
            parent.send(&reply.encode(), &[])
        }
    };
    u8::from(sent.is_err())
}

fn no_such_pod(name: &str) -> Refusal {
    Refusal {
        code: Code::NO_SUCH_POD,
        message: format!("no pod {name:?}"),
    }
}
