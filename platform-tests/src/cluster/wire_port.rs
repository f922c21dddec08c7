//! Agents that say of their pods that they take HBONE elsewhere, for the time of a test.

use serde_json::{Value, json};

use super::Adit;
use super::install::NAMESPACE;
use crate::process::Finished;

const FLAG: &str = "--wire-port=";
const DAEMON_SET: &str = "daemonset/adit-agent";

/// Agents with another `--wire-port`. Dropped, they have the manifest's again.
#[derive(Debug)]
pub struct WirePort<'c> {
    adit: Adit<'c>,
    /// Where the flag stands among the container's arguments, and what it was.
    index: usize,
    before: String,
}

impl<'c> WirePort<'c> {
    /// Starts all agents anew with `port`, and waits until they are ready.
    ///
    /// # Panics
    /// If the DaemonSet has no such flag, or they aren't ready within three minutes.
    #[track_caller]
    pub fn set(adit: Adit<'c>, port: &str) -> Self {
        let template = "jsonpath={.spec.template.spec.containers[0].args}";
        let text = adit
            .cluster()
            .kubectl(["-n", NAMESPACE, "get", DAEMON_SET, "-o", template])
            .stdout();
        let arguments: Vec<String> = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("expected the agent's arguments, got {text:?}: {error}"));
        let index = arguments
            .iter()
            .position(|argument| argument.starts_with(FLAG))
            .unwrap_or_else(|| panic!("no {FLAG} among {arguments:?}"));
        let wire_port = Self {
            adit,
            index,
            before: arguments[index].clone(),
        };
        wire_port.patch(&format!("{FLAG}{port}")).stdout();
        adit.wait_rolled_out(DAEMON_SET);
        wire_port
    }

    fn patch(&self, argument: &str) -> Finished {
        let path = format!("/spec/template/spec/containers/0/args/{}", self.index);
        let patch: Value = json!([{"op": "replace", "path": path, "value": argument}]);
        let patch = patch.to_string();
        self.adit.cluster().kubectl([
            "-n", NAMESPACE, "patch", DAEMON_SET, "--type", "json", "-p", &patch,
        ])
    }
}

impl Drop for WirePort<'_> {
    fn drop(&mut self) {
        let restored = self.patch(&self.before);
        // A panic here would hide the one that says why the test failed.
        if restored.code() != 0 {
            eprintln!("the agents keep their --wire-port: {restored}");
        } else if !std::thread::panicking() {
            self.adit.wait_rolled_out(DAEMON_SET);
        }
    }
}
