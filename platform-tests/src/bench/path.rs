//! A way from a client to a server.

use std::fmt;
use std::process::Command;

use crate::procfs::{Usage, usage};
pub(super) use crate::spec::LOAD_PORTS as PORTS;

/// A way from a client to a server.
pub struct BenchPath<'a> {
    /// Its name in the report.
    pub name: String,
    /// The server as the client has to call it.
    pub target: String,
    /// The processes that carry the traffic, the programs at its ends apart.
    pub carriers: Vec<u32>,
    /// Whether it is somebody else's: it may fail without the run failing.
    pub foreign: bool,
    client: Box<dyn Fn() -> Command + 'a>,
    _running: Vec<Box<dyn fmt::Debug + 'a>>,
}

impl<'a> BenchPath<'a> {
    /// One of ours whose ends run already.
    pub(super) fn new(
        name: &str,
        target: String,
        carriers: Vec<u32>,
        client: impl Fn() -> Command + 'a,
    ) -> Self {
        Self {
            name: name.to_owned(),
            target,
            carriers,
            foreign: false,
            client: Box::new(client),
            _running: Vec::new(),
        }
    }

    /// The same, with something that is to run as long as it.
    pub(super) fn with(mut self, running: impl fmt::Debug + 'a) -> Self {
        self._running.push(Box::new(running));
        self
    }

    /// The same, somebody else's.
    pub(super) fn foreign(mut self) -> Self {
        self.foreign = true;
        self
    }

    /// The start of a client's command: `adit-load`, at the right place. Arguments are the caller's.
    pub fn client(&self) -> Command {
        (self.client)()
    }

    /// What the carriers use now, all together. One that is gone uses nothing.
    pub fn usage(&self) -> Usage {
        let each = self.carriers.iter().filter_map(|pid| usage(*pid));
        each.fold(Usage::default(), |sum, one| Usage {
            cpu: sum.cpu + one.cpu,
            anonymous: sum.anonymous + one.anonymous,
            resident: sum.resident + one.resident,
        })
    }
}

impl fmt::Debug for BenchPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BenchPath")
            .field("name", &self.name)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
