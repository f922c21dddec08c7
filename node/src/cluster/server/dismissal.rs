//! How the helper is, and what it does when adit is taken off the node.
//!
//! A dismissed helper lets no pod in any more and leaves the node's CNI list to whoever dismissed it. The agent is told, and
//! lets its pods go as it does one that was taken out of the mesh: their connections end first. What is still here when
//! the time for that is over, or when there is no agent, is let go at once. Nothing of this is written down: a helper that
//! is started again serves again, unless it's dismissed again.

use std::time::{Duration, Instant};

use super::{JOURNAL, LIST, Server};
use crate::cluster::failure::Failure;
use crate::cluster::protocol::Reply;
use crate::cluster::protocol::plugin::PluginReply;
use crate::codes::Code;

/// Pods that are let go before something else is looked at.
const BATCH: usize = 8;

impl Server {
    /// Begins to take adit off the node, or goes on with it.
    pub(super) fn dismiss(&mut self, grace: Duration) -> PluginReply {
        let since = match self.dismissed {
            Some(since) => since,
            None => self.begin_dismissal(),
        };
        if self.asked.is_none() || since.elapsed() >= grace {
            for uid in self.members.uids().into_iter().take(BATCH) {
                let removed = self.members.dismiss(&uid).map(Some);
                self.note_gone(&uid, removed);
            }
        }
        match self.members.uids().len() {
            0 => PluginReply::Done,
            pods => PluginReply::Leaving {
                pods: u16::try_from(pods).unwrap_or(u16::MAX),
            },
        }
    }

    fn begin_dismissal(&mut self) -> Instant {
        (self.options.log)(&"adit is taken off this node: pods leave the mesh, and none joins any more");
        let now = Instant::now();
        self.dismissed = Some(now);
        // Those that wait for the agent's word start outside the mesh.
        self.release_waiting(|_| true);
        if let Some(asked) = self.asked {
            self.send(asked, &Reply::Dismissed.encode(), &[]);
        }
        now
    }

    /// Refuses a pod that is to join while adit is taken off the node.
    pub(super) fn expect_serving(&self, uid: &str) -> Result<(), Failure> {
        if self.dismissed.is_none() || self.members.get(uid).is_some() {
            return Ok(());
        }
        Err(Failure::new(Code::DISMISSED, "adit is being taken off this node"))
    }

    /// Whether the helper can do what it's there for. A single pod's trouble is that pod's, and not told here.
    pub(super) fn probe(&self) -> PluginReply {
        // The list is nobody's business any more once it's dismissed.
        let ours = |about: &str| about.starts_with(JOURNAL) || (about == LIST && self.dismissed.is_none());
        let trouble = self.troubles.iter().find(|(about, _)| ours(about));
        let refused = |code, message: &str| PluginReply::Refused {
            code,
            message: message.to_owned(),
        };
        if let Some((about, trouble)) = trouble {
            let code = if about == LIST {
                Code::CONFLIST
            } else {
                Code::JOURNAL
            };
            return refused(code, trouble);
        }
        match (&self.conflist, self.dismissed) {
            (Some(conflist), None) => match conflist.is_installed() {
                Ok(true) => PluginReply::Done,
                Ok(false) => refused(
                    Code::CONFLIST,
                    "the CNI plugin is not in the list that the runtime reads",
                ),
                Err(failure) => refused(failure.code, &failure.message),
            },
            _ => PluginReply::Done,
        }
    }
}
