//! The agent's side of the helper's socket: blocking, one request at a time.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Counters, Family, Kind, MAX_UID, Member, PodRef, Reply, Request};
use crate::client::{ClientError, Connection};

/// How long an answer may take: the helper takes one step after another and gives up on each after
/// [`STEP_TIMEOUT`](super::STEP_TIMEOUT), so this is a few of the worst.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to a node's helper.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

/// The two queues that a pod's packets pass, of either kind that [`adit_link::Queue`] takes: duplicates of those that the
/// helper keeps. Only one process should read them at a time. Reading one fails once the pod has left or is gone: with
/// `EBADFD` on a TUN device, with `ENETDOWN` on a packet socket.
#[derive(Debug)]
pub struct PodQueues {
    /// Of the agent's device in P: what the pod sends, and where what is for it goes.
    pub pod: OwnedFd,
    /// Of the agent's device in O: what came for the pod over the wire, and where what it sends goes.
    pub wire: OwnedFd,
}

impl Client {
    /// Connects to the helper that listens on `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Ok(Self {
            connection: Connection::open(path, Some(REPLY_TIMEOUT))?,
        })
    }

    /// Puts a running pod behind the agent, without breaking its open connections; or takes the queues again of one that
    /// is there already, which a restarted agent does.
    ///
    /// # Errors
    /// [`ClientError`]; a refused pod is as it was.
    pub fn join(&mut self, pod: &PodRef) -> Result<(Member, PodQueues), ClientError> {
        let mismatch = ClientError::Mismatch { request: "join" };
        let (Reply::Joined(member), descriptors) = self.call(&Request::Join(pod.clone()))? else {
            return Err(mismatch);
        };
        let Ok([pod, wire]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return Err(mismatch);
        };
        Ok((member, PodQueues { pod, wire }))
    }

    /// Gives a pod its own interface back, without breaking the connections that are forwarded. Those that end in the
    /// agent's own sockets lose their way.
    ///
    /// # Errors
    /// [`ClientError`]; `ADIT-N013` when it isn't behind the agent.
    pub fn leave(&mut self, uid: &str) -> Result<(), ClientError> {
        match self.call(&Request::Leave { uid: uid.to_owned() })? {
            (Reply::Left, _) => Ok(()),
            _ => Err(ClientError::Mismatch { request: "leave" }),
        }
    }

    /// The pods that are behind the agent, in order of their uids.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn members(&mut self) -> Result<Vec<Member>, ClientError> {
        let mut all = Vec::<Member>::new();
        loop {
            let after = all.last().map_or_else(String::new, |member| member.uid.clone());
            debug_assert!(after.len() <= MAX_UID);
            let (Reply::Members { members, more }, _) =
                self.call(&Request::Members { after: after.clone() })?
            else {
                return Err(ClientError::Mismatch { request: "members" });
            };
            // Uids must go on upwards, or a helper gone wrong could keep us here for ever.
            let onwards = members.first().is_none_or(|first| first.uid > after)
                && members.is_sorted_by(|a, b| a.uid < b.uid);
            if !onwards || (more && members.is_empty()) {
                return Err(ClientError::Mismatch { request: "members" });
            }
            all.extend(members);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Blank sockets of the pod's O, non-blocking, 1 to [`MAX_SOCKETS`](super::protocol::MAX_SOCKETS). A socket stays in
    /// the namespace that it was made in: bound and connected by the agent, it speaks as the pod.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn sockets(
        &mut self,
        uid: &str,
        family: Family,
        kind: Kind,
        count: u16,
    ) -> Result<Vec<OwnedFd>, ClientError> {
        let request = Request::Sockets {
            uid: uid.to_owned(),
            family,
            kind,
            count,
        };
        match self.call(&request)? {
            (Reply::Sockets, sockets) if sockets.len() == usize::from(count) => Ok(sockets),
            _ => Err(ClientError::Mismatch { request: "sockets" }),
        }
    }

    /// Lets agents' connections to `port` (those from source ports 61440 to 65534) through to the kernel of O, where the
    /// agent listens. Asked for twice it is there once.
    ///
    /// # Errors
    /// [`ClientError`]; `ADIT-N014` when [`MAX_PORTS`](super::protocol::MAX_PORTS) are open.
    pub fn open_port(&mut self, uid: &str, port: u16) -> Result<(), ClientError> {
        let uid = uid.to_owned();
        match self.call(&Request::OpenPort { uid, port })? {
            (Reply::PortOpened, _) => Ok(()),
            _ => Err(ClientError::Mismatch { request: "open port" }),
        }
    }

    /// Takes back what [`open_port`](Self::open_port) did, if it was done.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn close_port(&mut self, uid: &str, port: u16) -> Result<(), ClientError> {
        let uid = uid.to_owned();
        match self.call(&Request::ClosePort { uid, port })? {
            (Reply::PortClosed, _) => Ok(()),
            _ => Err(ClientError::Mismatch {
                request: "close port",
            }),
        }
    }

    /// What the helper has counted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stats(&mut self) -> Result<Counters, ClientError> {
        match self.call(&Request::Stats)? {
            (Reply::Stats(counters), _) => Ok(counters),
            _ => Err(ClientError::Mismatch { request: "stats" }),
        }
    }

    fn call(&mut self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let message = request.encode().map_err(ClientError::Request)?;
        self.connection.send(&message)?;
        let (reply, descriptors) = self.connection.receive()?;
        match Reply::decode(reply).map_err(ClientError::Reply)? {
            Reply::Refused { code, message } => Err(ClientError::Refused { code, message }),
            reply => Ok((reply, descriptors)),
        }
    }
}
