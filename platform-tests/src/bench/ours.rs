//! The direct path and ours, between the two hosts of a lab.

use std::time::Duration;

use super::path::BenchPath;
use crate::mesh::{Mesh, UpOptions};
use crate::process::Running;
use crate::sandbox::Sandbox;
use crate::spec::{MeshSpec, Workload, load_server_command};

/// The first port of every server.
const PORT: u16 = 7000;
/// The hosts' addresses.
pub(super) const A: &str = "10.99.0.1";
pub(super) const B: &str = "10.99.0.2";
/// Where host B's server listens: what a path to the outside leads to.
pub(super) const OUTSIDE: &str = "10.99.0.2:7000";
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);

/// Sets a path up: from host A, the first, where the client runs.
type SetUp = for<'a> fn(&'a Sandbox, &'a Sandbox) -> BenchPath<'a>;

/// A path of ours.
pub(super) struct Ours {
    pub(super) name: &'static str,
    /// Whether its packets cross the cable between the hosts, and can get lost there.
    pub(super) crosses_the_cable: bool,
    pub(super) set_up: SetUp,
}

/// The name of the path that the others are compared with.
pub(super) const DIRECT: &str = "direct";
/// That of two pods with an agent each.
pub(super) const TWO_AGENTS: &str = "adit-two";

/// All of them, the direct one first.
pub(super) const ALL: &[Ours] = &[
    Ours {
        name: DIRECT,
        crosses_the_cable: true,
        set_up: direct,
    },
    Ours {
        name: "adit-one",
        crosses_the_cable: false,
        set_up: one_agent,
    },
    Ours {
        name: "adit-packet",
        crosses_the_cable: false,
        set_up: packet_sockets,
    },
    Ours {
        name: TWO_AGENTS,
        crosses_the_cable: true,
        set_up: two_agents,
    },
    Ours {
        name: "adit-outside",
        crosses_the_cable: true,
        set_up: outside,
    },
];

/// The cable alone. Its server is also that of every path to the outside.
fn direct<'a>(a: &'a Sandbox, b: &'a Sandbox) -> BenchPath<'a> {
    // What the meshes run: each connection costs the server's own log the same on every path.
    let words = load_server_command(b, "direct", PORT);
    let mut command = b.command(&words[0]);
    command.args(&words[1..]);
    let mut server = Running::spawn(command);
    server.wait_for("listening", START_LIMIT);
    BenchPath::new(DIRECT, OUTSIDE.to_owned(), Vec::new(), move || {
        a.command(a.load())
    })
    .with(server)
}

/// Two pods of one agent: mutual TLS through an in-memory pipe.
fn one_agent<'a>(a: &'a Sandbox, _: &'a Sandbox) -> BenchPath<'a> {
    over_link("adit-one", a, "tun")
}

/// The same, which differs by what the pods' packets go through.
fn packet_sockets<'a>(a: &'a Sandbox, _: &'a Sandbox) -> BenchPath<'a> {
    over_link("adit-packet", a, "packet")
}

fn over_link<'a>(name: &str, a: &'a Sandbox, link: &str) -> BenchPath<'a> {
    let spec = MeshSpec::new(&format!("one-{link}")).workload(Workload::load_server(a, "server", PORT));
    let options = UpOptions {
        arguments: vec!["--link".to_owned(), link.to_owned()],
        ..UpOptions::default()
    };
    let mesh = a.up_with(&spec, options);
    mesh.wait_ready();
    let target = format!("{}:{PORT}", mesh.address("test/server"));
    joining(name, a, target, mesh)
}

/// Two pods with an agent each: mutual TLS over the cable.
fn two_agents<'a>(a: &'a Sandbox, b: &'a Sandbox) -> BenchPath<'a> {
    const HBONE: u16 = 15008;
    let spec = MeshSpec::new("two")
        .node("a", &format!("{A}:{HBONE}"))
        .node("b", &format!("{B}:{HBONE}"))
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
    let far = up(b, "b", B);
    let near = up(a, "a", A);
    let target = format!("{}:{PORT}", near.address("test/server"));
    let carriers = vec![near.agent_pid(), far.agent_pid()];
    let client = || {
        let mut command = a.command_in("client");
        command.arg(a.load());
        command
    };
    BenchPath::new(TWO_AGENTS, target, carriers, client)
        .with(near)
        .with(far)
}

/// From a pod to a host outside of the mesh, through the agent's own sockets.
fn outside<'a>(a: &'a Sandbox, _: &'a Sandbox) -> BenchPath<'a> {
    let mesh = a.up(MeshSpec::new("outside").workload(Workload::idle("filler")));
    mesh.wait_ready();
    joining("adit-outside", a, OUTSIDE.to_owned(), mesh)
}

/// From a pod that joins the mesh to `target`, an address: how names resolve isn't what is measured.
fn joining<'a>(name: &str, a: &'a Sandbox, target: String, mesh: Mesh<'a>) -> BenchPath<'a> {
    let (base, mesh_name) = (mesh.base().to_owned(), mesh.name().to_owned());
    let client = move || {
        let mut command = a.command(a.adit());
        command.env("ADIT_RUN_DIR", &base);
        command
            .args(["run", "--mesh", &mesh_name, "--as", "test/client", "--"])
            .arg(a.load());
        command
    };
    BenchPath::new(name, target, vec![mesh.agent_pid()], client).with(mesh)
}
