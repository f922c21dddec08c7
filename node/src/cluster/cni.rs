//! The CNI plugin: what the container runtime runs for each pod, chained after the plugin that makes its interface.
//!
//! It implements versions 0.3.0 to 1.1.0 of the CNI specification and decides nothing itself: it reads its call, asks the
//! helper, and hands the previous plugin's result on unchanged. Two things it does alone, because no helper may be there:
//!
//! * ADD fails with code 11 (*try again later*), since a pod must not start outside the mesh because something is down.
//!   Pods of the namespaces that its configuration exempts do start: adit's own are among them.
//! * DEL clears the pod away by the helper's journal, so that no pod hangs and no address is given out twice.
//!
//! STATUS never fails: a runtime that took the helper's absence for a broken network would mark the whole node as not
//! ready.

mod call;
mod error;

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::members::Members;
use super::probe::say;
use super::protocol::plugin::{Add, PluginReply, PluginRequest};
use super::serve::{self, Options};
use crate::client::ClientError;
use crate::codes::Code;
use call::{Call, Environment};
use error::CniError;

pub use super::conflist::PLUGIN;

/// How long the helper may take: the agent's thinking, and steps before ours in the queue.
const PATIENCE: Duration = Duration::from_secs(60);

/// Versions of the specification.
pub(super) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Bytes of the configuration, at most.
const MAX_CONFIGURATION: u64 = 4 * 1024 * 1024;

/// What the plugin needs of the world around it.
trait World {
    /// Asks the helper that listens in a state folder.
    fn ask(&self, state: &Path, request: &PluginRequest) -> Result<PluginReply, ClientError>;

    /// Does what the helper would for a pod that ends.
    fn discard(&self, state: &Path, uid: &str) -> Result<(), CniError>;
}

/// Runs the plugin as the runtime calls it: environment, configuration on standard input, result on standard output.
///
/// The calling process must have one thread.
#[must_use]
pub fn main() -> ExitCode {
    let environment = Environment::from_process();
    let mut text = Vec::new();
    let read = io::stdin().take(MAX_CONFIGURATION).read_to_end(&mut text);
    let outcome = match read {
        Ok(_) => run(&environment, &text, &Node),
        Err(error) => Err(CniError::io(format!("reading standard input: {error}"))),
    };
    let (output, code) = match outcome {
        Ok(result) => (result, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(&version_of(&text))), ExitCode::FAILURE),
    };
    if let Some(output) = output
        && writeln!(io::stdout(), "{output}").is_err()
    {
        return ExitCode::FAILURE;
    }
    code
}

/// The whole plugin, but for its input and output.
fn run(environment: &Environment, text: &[u8], world: &dyn World) -> Result<Option<Value>, CniError> {
    if environment.command == "VERSION" {
        return Ok(Some(json!({
            "cniVersion": VERSIONS[VERSIONS.len() - 1],
            "supportedVersions": VERSIONS,
        })));
    }
    let call = Call::parse(environment, text)?;
    match environment.command.as_str() {
        "ADD" => add(&call, world).map(Some),
        "CHECK" => check(&call, world).map(|()| None),
        "DEL" => delete(&call, world).map(|()| None),
        "GC" => collect(&call, world).map(|()| None),
        "STATUS" => Ok(None),
        other => Err(CniError::environment(format!(
            "CNI_COMMAND is {other:?}, expected ADD, CHECK, DEL, GC, STATUS or VERSION"
        ))),
    }
}

fn add(call: &Call, world: &dyn World) -> Result<Value, CniError> {
    let result = call.previous_result()?.clone();
    let Some(pod) = call.pod()? else {
        // Not Kubernetes' pod, so nobody can have labelled it.
        return Ok(result);
    };
    let namespace = pod.namespace.clone();
    let request = PluginRequest::Add(Add {
        container: call.container()?.to_owned(),
        namespace: call.network_namespace()?.to_owned(),
        interface: call.interface()?.to_owned(),
        pod: call.pod_with_addresses(pod)?,
    });
    match world.ask(&call.state, &request) {
        Ok(PluginReply::Joined | PluginReply::LeftAlone) => Ok(result),
        Ok(reply) => refuse(reply).map(|()| result),
        Err(error) if is_down(&error) && call.exempt.contains(&namespace) => Ok(result),
        Err(error) => Err(unreachable(&error)),
    }
}

fn check(call: &Call, world: &dyn World) -> Result<(), CniError> {
    let Some(pod) = call.pod()? else {
        return Ok(());
    };
    let request = PluginRequest::Check {
        container: call.container()?.to_owned(),
        uid: pod.uid,
    };
    world
        .ask(&call.state, &request)
        .map_err(|error| unreachable(&error))
        .and_then(refuse)
}

/// Succeeds when there is nothing, as the specification demands: called twice, after a failed ADD, without a namespace.
fn delete(call: &Call, world: &dyn World) -> Result<(), CniError> {
    let Some(pod) = call.pod()? else {
        return Ok(());
    };
    let request = PluginRequest::Delete {
        container: call.container()?.to_owned(),
        namespace: call.network_namespace().unwrap_or_default().to_owned(),
        uid: pod.uid.clone(),
    };
    match world.ask(&call.state, &request) {
        Ok(reply) => refuse(reply),
        Err(error) if is_down(&error) => world.discard(&call.state, &pod.uid),
        Err(error) => Err(unreachable(&error)),
    }
}

fn collect(call: &Call, world: &dyn World) -> Result<(), CniError> {
    let request = PluginRequest::Collect {
        valid: call.valid_attachments()?,
    };
    match world.ask(&call.state, &request) {
        Ok(reply) => refuse(reply),
        // The helper looks for itself when it is back.
        Err(error) if is_down(&error) => Ok(()),
        Err(error) => Err(unreachable(&error)),
    }
}

/// The helper's refusal as the runtime is told of it.
fn refuse(reply: PluginReply) -> Result<(), CniError> {
    match reply {
        PluginReply::Refused { code, message } => Err(CniError::refused(code, &message)),
        PluginReply::Done | PluginReply::Joined | PluginReply::Leaving { .. } | PluginReply::LeftAlone => {
            Ok(())
        }
    }
}

/// Whether nobody listens, as opposed to somebody who doesn't answer.
fn is_down(error: &ClientError) -> bool {
    matches!(error, ClientError::Connect { .. })
}

fn unreachable(error: &ClientError) -> CniError {
    match error {
        ClientError::Request(_) => CniError::refused(Code::PLUGIN_CALL, &error.to_string()),
        _ => CniError::refused(Code::HELPER_DOWN, &error.to_string()),
    }
}

/// The version that a configuration states, for the shape of an error about it.
fn version_of(text: &[u8]) -> String {
    let stated = serde_json::from_slice::<Value>(text)
        .ok()
        .and_then(|configuration| configuration["cniVersion"].as_str().map(str::to_owned));
    stated.unwrap_or_else(|| VERSIONS[VERSIONS.len() - 1].to_owned())
}

/// The node that the runtime runs the plugin on.
struct Node;

impl World for Node {
    fn ask(&self, state: &Path, request: &PluginRequest) -> Result<PluginReply, ClientError> {
        say(state, request, PATIENCE)
    }

    fn discard(&self, state: &Path, uid: &str) -> Result<(), CniError> {
        let options = Options {
            state: state.to_owned(),
            ..Options::default()
        };
        if !options.journal().join(uid).exists() {
            return Ok(());
        }
        // A helper that is just starting has it: the runtime tries again, and finds it.
        let _lock = serve::lock(state, Instant::now())
            .map_err(|error| CniError::refused(Code::HELPER_DOWN, &error.to_string()))?;
        let (mut members, _) = Members::load(options.ground(), options.journal())
            .map_err(|error| CniError::io(format!("reading the journal in {}: {error}", state.display())))?;
        if members.get(uid).is_none() {
            return Ok(());
        }
        members
            .discard(uid)
            .map(drop)
            .map_err(|failure| CniError::refused(failure.code, &failure.message))
    }
}

/// Entry for `fuzz/`: a call by these five variables and this standard input, to a helper that has a word for everybody
/// (`Some`), or to none. Whatever they are, it's answered or refused, and nobody is asked about what isn't a pod.
///
/// # Panics
/// When that doesn't hold.
#[cfg(fuzzing)]
pub fn fuzz([command, container, namespace, interface, arguments]: [String; 5], text: &[u8], is_up: bool) {
    struct Any(bool);
    impl World for Any {
        fn ask(&self, state: &Path, request: &PluginRequest) -> Result<PluginReply, ClientError> {
            if !self.0 {
                return Err(ClientError::Connect {
                    path: serve::plugin_socket(state),
                    source: io::ErrorKind::NotFound.into(),
                });
            }
            let bytes = request.encode().map_err(ClientError::Request)?;
            assert_eq!(PluginRequest::decode(&bytes).as_ref(), Ok(request));
            Ok(PluginReply::Joined)
        }

        fn discard(&self, _: &Path, uid: &str) -> Result<(), CniError> {
            assert!(super::protocol::is_uid(uid), "it becomes a path: {uid:?}");
            Ok(())
        }
    }
    let environment = Environment {
        command,
        container,
        namespace,
        interface,
        arguments,
    };
    match run(&environment, text, &Any(is_up)) {
        Ok(Some(result)) if environment.command == "ADD" => {
            let configuration: Value = serde_json::from_slice(text).expect("it was read");
            assert_eq!(result, configuration["prevResult"], "the result is handed on");
        }
        Ok(_) => {}
        Err(error) => drop(error.to_json(&version_of(text)).to_string()),
    }
}

#[cfg(test)]
mod tests;
