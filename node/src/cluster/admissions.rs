//! The connection on which the helper asks the agent about pods that are about to start.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::protocol::{Admission, Decision, Reply, Request};
use crate::client::{ClientError, Connection};

/// What the helper says to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A pod is about to start: does it belong into the mesh?
    Admission(Admission),
    /// Adit is taken off the node: the agent is to let its pods go. No question comes after this.
    Dismissal,
}

/// The agent's end. While one is open, new pods wait for its answers; without one they wait for an agent.
///
/// Answers may come in another order than the questions. A question without an answer within
/// [`ADMISSION_TIMEOUT`](super::ADMISSION_TIMEOUT) is over: the runtime tries the pod again later.
#[derive(Debug)]
pub struct Admissions {
    connection: Connection,
    dismissed: bool,
}

impl Admissions {
    /// Connects to the helper that listens on `path` and takes over from whoever was asked before.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let mut admissions = Self {
            connection: Connection::open(path, None)?,
            dismissed: false,
        };
        admissions.send(&Request::Admissions)?;
        match admissions.receive()? {
            Reply::Admitting => {}
            Reply::Dismissed => admissions.dismissed = true,
            _ => {
                return Err(ClientError::Mismatch {
                    request: "admissions",
                });
            }
        }
        Ok(admissions)
    }

    /// Whether the helper has said that adit is taken off the node, at the latest when this connected.
    #[must_use]
    pub fn is_dismissed(&self) -> bool {
        self.dismissed
    }

    /// Waits for what the helper says next; poll the descriptor for reading to wait elsewhere.
    ///
    /// # Errors
    /// [`ClientError`]: the helper ended, or another agent took over. Nothing more is said then.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's None would hide why there are no more"
    )]
    pub fn next(&mut self) -> Result<Notice, ClientError> {
        match self.receive()? {
            Reply::Admit(admission) => Ok(Notice::Admission(admission)),
            Reply::Dismissed => {
                self.dismissed = true;
                Ok(Notice::Dismissal)
            }
            _ => Err(ClientError::Mismatch {
                request: "admissions",
            }),
        }
    }

    /// Answers the question `id`. A late answer is thrown away by the helper.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn answer(&mut self, id: u64, decision: Decision) -> Result<(), ClientError> {
        self.send(&Request::Answer { id, decision })
    }

    fn send(&self, request: &Request) -> Result<(), ClientError> {
        let message = request.encode().map_err(ClientError::Request)?;
        self.connection.send(&message)
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let (reply, _) = self.connection.receive()?;
        match Reply::decode(reply).map_err(ClientError::Reply)? {
            Reply::Refused { code, message } => Err(ClientError::Refused { code, message }),
            reply => Ok(reply),
        }
    }
}

impl AsFd for Admissions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
