//! The paths that are compared.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::lab::Lab;
use crate::mesh::{Mesh, UpOptions};
use crate::process::{Running, wait_until};
use crate::sandbox::Sandbox;
pub(super) use crate::spec::LOAD_PORTS as PORTS;
use crate::spec::{MeshSpec, Workload, load_server_command};

/// The first of the server's ports.
const PORT: u16 = 7000;
/// Where host B's server listens: what a path to the outside leads to.
const OUTSIDE: &str = "10.99.0.2:7000";
/// The path that differs from adit-one by what pods' packets go through.
pub(super) const PACKET_PATH: &str = "adit-packet";
const START_LIMIT: Duration = Duration::from_secs(60);

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

/// What an external script prints when its path is ready.
#[derive(Debug, Deserialize)]
struct Ready {
    namespace: u32,
    #[serde(default)]
    carriers: Vec<u32>,
    target: Option<String>,
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

    /// The start of a client's command: `adit-load`, at the right place. Arguments are the caller's.
    pub fn client(&self) -> Command {
        (self.client)()
    }
}

/// The direct path and ours. `wanted` chooses among ours.
#[track_caller]
pub(super) fn standard<'a>(
    a: &'a Sandbox,
    b: &'a Sandbox,
    wanted: impl Fn(&str) -> bool,
) -> Vec<BenchPath<'a>> {
    let mut paths = vec![direct(a, b)];
    for (name, link) in [("adit-one", "tun"), (PACKET_PATH, "packet")] {
        if wanted(name) {
            paths.push(one_agent(a, name, link));
        }
    }
    if wanted("adit-two") {
        paths.push(two_agents(a, b));
    }
    if wanted("adit-outside") {
        paths.push(outside(a));
    }
    paths
}

fn direct<'a>(a: &'a Sandbox, b: &'a Sandbox) -> BenchPath<'a> {
    // What the meshes run: each connection costs the server's own log the same on every path.
    let words = load_server_command(b, "direct", PORT);
    let mut command = b.command(&words[0]);
    command.args(&words[1..]);
    let mut server = Running::spawn(command);
    server.wait_for("listening", START_LIMIT);
    BenchPath {
        name: "direct".to_owned(),
        target: OUTSIDE.to_owned(),
        carriers: Vec::new(),
        foreign: false,
        client: Box::new(move || a.command(a.load())),
        _running: vec![Box::new(server)],
    }
}

/// Two pods of one agent: mutual TLS through an in-memory pipe. `link` is what their packets go through.
fn one_agent<'a>(a: &'a Sandbox, name: &str, link: &str) -> BenchPath<'a> {
    let spec = MeshSpec::new(&format!("one-{link}")).workload(Workload::load_server(a, "server", PORT));
    let options = UpOptions {
        arguments: vec!["--link".to_owned(), link.to_owned()],
        ..UpOptions::default()
    };
    let mesh = a.up_with(&spec, options);
    mesh.wait_ready();
    let target = format!("{}:{PORT}", mesh.address("test/server"));
    through(name, a, target, vec![mesh])
}

/// Two pods with an agent each: mutual TLS over the cable.
fn two_agents<'a>(a: &'a Sandbox, b: &'a Sandbox) -> BenchPath<'a> {
    const HBONE: u16 = 15008;
    let spec = MeshSpec::new("two")
        .node("a", &format!("10.99.0.1:{HBONE}"))
        .node("b", &format!("10.99.0.2:{HBONE}"))
        .workload(Workload::load_server(b, "server", PORT).on("b"))
        .workload(Workload::shell(a, "client").on("a"));
    // Both hosts have one disk here; what the nodes share is the CA's key.
    let state = a.folder("state");
    let up = |sandbox: &'a Sandbox, node: &str, address: &str| {
        let listen = format!("{address}:{HBONE}")
            .parse()
            .expect("an address and a port");
        sandbox.up_node(&spec, node, listen, &state)
    };
    let far = up(b, "b", "10.99.0.2");
    let near = up(a, "a", "10.99.0.1");
    let target = format!("{}:{PORT}", near.address("test/server"));
    let mut path = through("adit-two", a, target, vec![near, far]);
    path.client = Box::new(|| {
        let mut command = a.command_in("client");
        command.arg(a.load());
        command
    });
    path
}

/// From a pod to a host outside of the mesh, through the agent's own sockets.
fn outside(a: &Sandbox) -> BenchPath<'_> {
    let mesh = a.up(MeshSpec::new("outside").workload(Workload::idle("filler")));
    mesh.wait_ready();
    through("adit-outside", a, OUTSIDE.to_owned(), vec![mesh])
}

/// From a pod of the first mesh to `target`, an address: how names resolve isn't what is measured.
fn through<'a>(name: &str, a: &'a Sandbox, target: String, meshes: Vec<Mesh<'a>>) -> BenchPath<'a> {
    let carriers = meshes.iter().map(Mesh::agent_pid).collect();
    let (base, mesh) = (meshes[0].base().to_owned(), meshes[0].name().to_owned());
    let client = move || {
        let mut command = a.command(a.adit());
        command.env("ADIT_RUN_DIR", &base);
        command
            .args(["run", "--mesh", &mesh, "--as", "test/client", "--"])
            .arg(a.load());
        command
    };
    let running = meshes
        .into_iter()
        .map(|mesh| Box::new(mesh) as Box<dyn fmt::Debug + 'a>);
    BenchPath {
        name: name.to_owned(),
        target,
        carriers,
        foreign: false,
        client: Box::new(client),
        _running: running.collect(),
    }
}

/// The path of somebody else's proxy, set up by a script; `None` if the script says that it can't run here.
///
/// The script runs as root of host A's user namespace, with `ADIT_LOAD` (the path of `adit-load`), `ADIT_TUN` (a TUN
/// device that it may open), `ADIT_BENCH_TARGET` (a server on host B, with ports after it) and `ADIT_BENCH_B` (a
/// process on host B, for `nsenter --target PID --user --net --preserve-credentials`) in its environment. When its path
/// is ready it prints one line of JSON: `{"namespace": PID, "carriers": [PID…], "target": "HOST:PORT"}`, where
/// clients are run in the user and network namespace of the first process, the second ones are those whose time and
/// memory count, and the last is only needed for another server than that on host B. Or it prints `skip` and why. It
/// removes everything when its standard input ends.
///
/// # Panics
/// If the script does neither.
#[track_caller]
pub fn external<'a>(name: &str, script: &Path, lab: &Lab, a: &'a Sandbox) -> Option<BenchPath<'a>> {
    let copy = a.file(
        &format!("home/{name}.sh"),
        std::fs::read(script).unwrap_or_else(|error| panic!("reading {}: {error}", script.display())),
    );
    let mut command = a.user().root_at("sh", lab.a);
    command
        .arg(copy)
        .env("ADIT_LOAD", a.load())
        .env("ADIT_BENCH_TARGET", OUTSIDE);
    command
        .env("ADIT_TUN", a.tun())
        .env("ADIT_BENCH_B", lab.b.pid().to_string());
    let mut setup = Running::spawn(command);
    let line = wait_until(
        &format!("{name} to be ready"),
        START_LIMIT,
        || {
            let ended = setup.has_ended();
            let line = setup.stdout().lines().next().map(str::to_owned);
            line.or_else(|| ended.then(|| format!("skip the script ended: {}", setup.stderr())))
        },
        || String::from("nothing"),
    );
    if let Some(why) = line.strip_prefix("skip") {
        eprintln!("{name} isn't measured:{why}");
        return None;
    }
    let ready: Ready =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?} of {name}"));
    let namespace = ready.namespace.to_string();
    let client = move || {
        let mut command = a.user().command("nsenter");
        command
            .args([
                "--target",
                &namespace,
                "--user",
                "--net",
                "--preserve-credentials",
                "--",
            ])
            .arg(a.load());
        command
    };
    Some(BenchPath {
        name: name.to_owned(),
        target: ready.target.unwrap_or_else(|| OUTSIDE.to_owned()),
        carriers: ready.carriers,
        foreign: true,
        client: Box::new(client),
        _running: vec![Box::new(setup)],
    })
}

impl fmt::Debug for BenchPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BenchPath")
            .field("name", &self.name)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
