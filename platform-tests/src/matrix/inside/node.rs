//! The node path without Kubernetes: the helper and the agent are adit's own, two pods run already, and the API is a few
//! answers on the loopback ([`api`](super::api)).

use std::error::Error;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use super::api::{Api, Pod, ROOTS};
use super::laptop::{find_tunnelled, loads};
use super::run::link_option;
use super::{AGENT, FOLDER, PORT, Tools, last_words, shortened, succeeded, waited};
use crate::matrix::cell::{Cell, Condition, Link};
use crate::matrix::outcome::Attempt;
use crate::process::Running;

/// The node's name.
pub(super) const NODE: &str = "vm";

const NETNS: &str = "/run/netns";

/// The pods and the way to them: made by who makes the cell, before it becomes what its condition says.
pub(super) struct World {
    pods: [Pod; 2],
}

impl World {
    /// Two pods as the `ptp` CNI plugin makes them, in this network namespace, which is the node's.
    pub(super) fn make(cell: Cell) -> Result<Self, Box<dyn Error>> {
        ip("link set lo up")?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        for folder in ["cni/net.d", "cni/bin", "agent", "agent/meshes"] {
            fs::create_dir_all(format!("{FOLDER}/{folder}"))?;
        }
        std::os::unix::fs::chown(format!("{FOLDER}/agent/meshes"), Some(AGENT), Some(AGENT))?;
        fs::set_permissions(
            format!("{FOLDER}/agent/meshes"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )?;
        fs::write(
            format!("{FOLDER}/cni/net.d/10-pods.conflist"),
            r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp"}]}"#,
        )?;
        let pods = [1, 2].map(|number| Pod {
            name: format!("pod-{number}"),
            address: format!("10.66.{number}.2"),
        });
        for (pod, number) in pods.iter().zip(1..) {
            make_pod(pod, number)?;
        }
        // The folders are the cell's, whoever it becomes.
        let owner = super::become_it::owner(cell);
        for folder in ["cni/net.d", "cni/bin", "."] {
            std::os::unix::fs::chown(format!("{FOLDER}/{folder}"), Some(owner), Some(owner))?;
        }
        Ok(Self { pods })
    }
}

fn make_pod(pod: &Pod, number: u8) -> Result<(), Box<dyn Error>> {
    let Pod { name, address } = pod;
    ip(&format!("netns add {name}"))?;
    ip(&format!(
        "link add veth{number} type veth peer name eth0 netns {name}"
    ))?;
    ip(&format!("addr add 10.66.{number}.1/24 dev veth{number}"))?;
    ip(&format!("link set veth{number} up"))?;
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
    ip(&format!("-n {name} link set eth0 up"))?;
    ip(&format!("-n {name} route add default via 10.66.{number}.1"))
}

fn ip(arguments: &str) -> Result<(), Box<dyn Error>> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// What `adit check --node` is told of folders.
pub(super) fn check_folders() -> Vec<String> {
    ["--state", &format!("{FOLDER}/checked")]
        .map(str::to_owned)
        .into_iter()
        .chain(plugin_folders())
        .collect()
}

fn plugin_folders() -> [String; 4] {
    [
        "--cni-conf-dir".to_owned(),
        format!("{FOLDER}/cni/net.d"),
        "--cni-bin-dir".to_owned(),
        format!("{FOLDER}/cni/bin"),
    ]
}

/// Has helper and agent put both pods into the mesh, and sends something from each to the other.
///
/// # Errors
/// What came of it instead.
pub(super) fn real(cell: Cell, tools: &Tools, world: &World) -> Result<String, Attempt> {
    let no = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| Attempt::no(format!("{what}: {error}"))
    };
    let mut helper = start_helper(cell.link, tools)?;
    let api = Api::start(&world.pods).map_err(no("answering for the Kubernetes API"))?;
    let kubeconfig = PathBuf::from(FOLDER).join("kubeconfig.json");
    let roots = PathBuf::from(FOLDER).join("roots.pem");
    fs::write(&roots, ROOTS).map_err(no("writing root certificates"))?;
    fs::write(&kubeconfig, api.kubeconfig(&roots)).map_err(no("writing a kubeconfig"))?;
    let mut agent = Running::spawn(agent(cell, tools, &kubeconfig));
    let words = |attempt: Attempt, helper: &Running, agent: &Running| {
        let said = format!(
            "{}; helper: {}; agent: {}",
            attempt.said,
            last_words(helper),
            last_words(agent)
        );
        Attempt::of(attempt.ended, shortened(&said))
    };
    let talked = waited("both pods to be captured", || {
        if agent.has_ended() || helper.has_ended() {
            return Err(Attempt::no("it ended"));
        }
        Ok((api.captured() == world.pods.len()).then_some(()))
    })
    .and_then(|()| talk(tools, world))
    .and_then(|()| waited("the record of a flow", || tunnelled(tools)));
    talked.map_err(|attempt| words(attempt, &helper, &agent))
}

/// With a link that is asked for.
fn start_helper(link: Link, tools: &Tools) -> Result<Running, Attempt> {
    let socket = PathBuf::from(FOLDER).join("state/agent/agent.sock");
    let mut command = tools.adit();
    command
        .args([
            "node-helper",
            "--state",
            &format!("{FOLDER}/state"),
            "--netns-dir",
            NETNS,
        ])
        .args(["--agent-uid", &AGENT.to_string()])
        .args(plugin_folders())
        .args(link_option(link));
    let mut helper = Running::spawn(command);
    waited("the helper to listen", || {
        if helper.has_ended() {
            return Err(Attempt::no(last_words(&helper)));
        }
        Ok(socket.exists().then_some(()))
    })?;
    Ok(helper)
}

/// As the chart has it: another user, no capability, and under [`Condition::ReadOnly`] a seccomp filter.
fn agent(cell: Cell, tools: &Tools, kubeconfig: &std::path::Path) -> Command {
    let mut command = match cell.condition {
        Condition::ReadOnly => {
            let mut command = Command::new("/proc/self/exe");
            command.args(["deny", "container"]).arg(&tools.adit);
            command
        }
        _ => Command::new(&tools.adit),
    };
    command
        .args(["node-agent", "--node-name", NODE, "--helper-socket"])
        .arg(format!("{FOLDER}/state/agent/agent.sock"))
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .env("ADIT_RUN_DIR", format!("{FOLDER}/agent/meshes"))
        .uid(AGENT)
        .gid(AGENT);
    command
}

/// From each pod to the other.
fn talk(tools: &Tools, world: &World) -> Result<(), Attempt> {
    let [one, two] = &world.pods;
    let _servers =
        [one, two].map(|pod| Running::spawn(in_pod(pod, tools, &["serve", "--port", &PORT.to_string()])));
    for (from, to) in [(one, two), (two, one)] {
        let target = format!("{}:{PORT}", to.address);
        waited("the server in the other pod", || {
            let who = in_pod(from, tools, &["who", &target, "--limit", "20"]);
            let done = super::finished(who)?;
            Ok((done.code() == 0).then_some(()))
        })?;
        for load in loads() {
            let words = [&[load[0], target.as_str()], &load[1..]].concat();
            succeeded(in_pod(from, tools, &words))?;
        }
    }
    Ok(())
}

fn in_pod(pod: &Pod, tools: &Tools, words: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["in-network", &format!("{NETNS}/{}", pod.name), "--"])
        .arg(&tools.load)
        .args(words);
    command
}

fn tunnelled(tools: &Tools) -> Result<Option<String>, Attempt> {
    let mut command = tools.adit();
    command
        .args(["flows", "--json"])
        .env("ADIT_RUN_DIR", format!("{FOLDER}/agent/meshes"))
        .uid(AGENT)
        .gid(AGENT);
    Ok(find_tunnelled(&succeeded(command)?.raw_stdout()))
}
