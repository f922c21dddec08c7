//! A real cluster, as `platform-tests/cluster/cluster.sh` runs it, and what tests do in it.
//!
//! A test takes the [`Cluster`] that runs, makes a [`Namespace`] in or outside the mesh, and plays a scenario in it:
//!
//! ```no_run
//! use adit_platform_tests::cluster::{Cluster, Membership, Namespace, scenario};
//!
//! let cluster = Cluster::running();
//! let namespace = Namespace::new(&cluster, "services", Membership::Outside);
//! scenario::services(&namespace);
//! ```
//!
//! The scenarios are the same on both sides: what works without a mesh has to work in it. Checks that need the mesh are
//! run without it too, to see that they fail there.

mod capture;
mod install;
mod kinds;
mod namespace;
mod node;
pub mod objects;
mod pcap;
mod privileges;
pub mod scenario;
mod suite;
mod wire;
mod wire_port;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::process::{Finished, wait_until};

pub use capture::Capture;
pub use install::{AGENT, Adit, HELPER};
pub use namespace::{Membership, Namespace};
pub use node::{Node, NodeState};
pub use pcap::{InvalidCapture, Packet, Transport, packets};
pub use privileges::{InvalidStatus, Privileges};
pub use suite::{Cyclonus, SuiteReport};
pub use wire::Wire;
pub use wire_port::WirePort;

/// How long one command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How long pods may take to become ready: the machine may be busy with other things.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(120);

/// The cluster of this machine.
#[derive(Debug)]
pub struct Cluster {
    script: PathBuf,
}

impl Cluster {
    /// The one that runs.
    ///
    /// # Panics
    /// If none does; says how to start it.
    #[track_caller]
    pub fn running() -> Self {
        let cluster = Self {
            script: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/cluster.sh")),
        };
        let nodes = Finished::of(cluster.command(["kubectl", "get", "nodes"]), COMMAND_LIMIT);
        assert!(
            nodes.code() == 0,
            "these tests need the cluster of `just cluster-up`, as root: {nodes}"
        );
        cluster
    }

    /// A command of `cluster.sh`.
    pub fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.script);
        command.args(words);
        command
    }

    /// kubectl, to its end, as the cluster's administrator.
    ///
    /// # Panics
    /// If it takes longer than two minutes.
    #[track_caller]
    pub fn kubectl<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Finished {
        Finished::of(
            self.command(std::iter::once("kubectl").chain(words)),
            COMMAND_LIMIT,
        )
    }

    /// A program in the control plane's network: a client outside every node.
    ///
    /// # Panics
    /// If it takes longer than two minutes.
    #[track_caller]
    pub fn outside<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Finished {
        Finished::of(self.command(std::iter::once("api").chain(words)), COMMAND_LIMIT)
    }

    /// adit's commands for the cluster's administrator, outside every node.
    ///
    /// # Panics
    /// If it takes longer than two minutes, or adit wasn't built.
    #[track_caller]
    pub fn adit<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Finished {
        let mut command = self.command(["api"]);
        command.arg(image_program()).args(words);
        Finished::of(command, COMMAND_LIMIT)
    }

    /// Applies objects.
    ///
    /// # Panics
    /// If one is refused.
    #[track_caller]
    pub fn apply(&self, objects: &[Value]) {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut kubectl = crate::Running::spawn(self.command(["kubectl", "apply", "-f", "-"]));
        kubectl.say(&list.to_string());
        kubectl.finish(COMMAND_LIMIT).stdout();
    }

    /// Kills and starts a part: the words of `cluster.sh restart`.
    ///
    /// # Panics
    /// If it doesn't come back.
    #[track_caller]
    pub fn restart<'a>(&self, words: impl IntoIterator<Item = &'a str>) {
        let all = std::iter::once("restart").chain(words);
        Finished::of(self.command(all), 2 * COMMAND_LIMIT).stdout();
    }

    /// What is on both nodes once nothing is being deleted: no namespace, no pod, and no pod's network of one that the API
    /// server has forgotten already.
    ///
    /// # Panics
    /// After two minutes.
    #[track_caller]
    pub fn quiet_state(&self) -> [NodeState; 2] {
        let leaving = || {
            let output = "jsonpath={range .items[*]}{.metadata.deletionTimestamp}{end}";
            let of = |kind| self.kubectl(["get", kind, "-A", "-o", output]).stdout();
            !(of("namespaces") + &of("pods")).is_empty()
        };
        let settled = || {
            let states = [1, 2].map(|node| self.node(node).state());
            let expected = [1, 2].map(|node| self.pods_with_network(node));
            (!leaving() && states.each_ref().map(|state| state.namespaces) == expected).then_some(states)
        };
        wait_until(
            "what is being deleted to be gone, on the nodes too",
            READY_LIMIT,
            settled,
            || {
                let states = [1, 2].map(|node| self.node(node).state());
                let objects = self.kubectl(["get", "namespaces,pods", "-A", "-o", "wide"]);
                format!("{states:#?}\n{objects}")
            },
        )
    }

    fn pods_with_network(&self, node: u8) -> usize {
        let selector = format!("spec.nodeName=kn{node},spec.hostNetwork=false");
        let pods = self.kubectl(["get", "pods", "-A", "--field-selector", &selector, "-o", "name"]);
        pods.stdout().lines().count()
    }

    /// A node by its number, from 1 on.
    pub fn node(&self, number: u8) -> Node<'_> {
        Node::new(self, number)
    }
}

/// `ADIT_BIN`, or the program that was made last for an image, with whichever profile.
#[track_caller]
fn image_program() -> PathBuf {
    if let Some(set) = std::env::var_os("ADIT_BIN") {
        return set.into();
    }
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
    let folders = std::fs::read_dir(target).unwrap_or_else(|error| panic!("{target}: {error}"));
    let programs = folders
        .flatten()
        .flat_map(|folder| ["release", "tools"].map(|profile| folder.path().join(profile).join("adit")));
    let made = |program: &PathBuf| program.metadata().and_then(|metadata| metadata.modified()).ok();
    let newest: Option<(SystemTime, PathBuf)> = programs
        .filter_map(|program| Some((made(&program)?, program)))
        .max();
    let (_, program) = newest.unwrap_or_else(|| {
        panic!("no adit was built for an image: run `just cluster-image`, or set ADIT_BIN")
    });
    program
}
