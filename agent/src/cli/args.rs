//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_flow::{VerdictKind, WorkloadName};
use adit_identity::TrustDomain;
use adit_node::LinkChoice;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::check::NodeCheck;
use super::duration;
use super::policy::Policy;
use crate::admin::EndpointPattern;
use crate::junit::Target;

/// A service mesh without netfilter, eBPF or root: programs in namespaces of their own, mutual TLS between them.
#[derive(Debug, Parser)]
#[command(name = "adit", version, after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Try out whether this machine can do it; each finding with its fix
    Check(Check),
    /// Print the completions of a shell, for its startup file
    Completions(Completions),
    /// Stop a running mesh
    Down(Mesh),
    /// Print the state and the counters of a running mesh's agent, for a report or a script
    Dump(Mesh),
    /// Say more about a code from a message
    Explain(Explain),
    /// Show the flows of a running mesh
    #[command(after_help = FLOWS_EXAMPLES)]
    Flows(Flows),
    /// Show the certificates of a running mesh
    Identity(Show),
    /// Write the manual pages into a folder
    Man(Man),
    /// Put the pods of a Kubernetes namespace into the mesh, take them out, show how far they are
    #[command(subcommand, after_help = MESH_EXAMPLES)]
    Mesh(MeshCommand),
    /// What policies say of flows, without running anything
    #[command(subcommand)]
    Policy(Policy),
    /// Show the workloads of a running mesh
    Ps(Ps),
    /// Run one program in a namespace of its own, its traffic through the mesh
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Run the workloads of a mesh file until stopped
    #[command(after_help = UP_EXAMPLES)]
    Up(Up),

    /// The data path; started by `up` and `run`
    #[command(hide = true)]
    Agent(Agent),
    /// Wait until a DaemonSet's pods are ready on every node; started by the chart's hook
    #[command(hide = true)]
    AwaitDaemonSet(AwaitDaemonSet),
    /// The signer of a Kubernetes cluster; started by its Deployment
    #[command(hide = true)]
    Ca(Ca),
    /// The agent of a Kubernetes node; started by its DaemonSet
    #[command(hide = true)]
    NodeAgent(NodeAgent),
    /// One program in its pod; started by `up` and `run`
    #[command(hide = true)]
    Enter(Enter),
    /// The maker of pods; started by `up` and `run`
    #[command(hide = true)]
    Node(Node),
    /// The privileged helper of a cluster's node; started by its DaemonSet
    #[command(hide = true)]
    NodeHelper(NodeHelper),
    /// One readiness check; started by `up` in a pod
    #[command(hide = true)]
    Probe(Probe),
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Write JUnit XML here, each finding a test case; with `-` to standard output instead of the findings
    #[arg(long, value_name = "FILE|-", conflicts_with = "json")]
    pub(super) junit: Option<Target>,
    #[command(flatten)]
    pub(super) link: PodLink,
    #[command(flatten)]
    pub(super) node: NodeCheck,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Whose
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Made if there is none
    pub(super) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct TunDevice {
    /// The TUN device node to use
    #[arg(long = "tun-device", env = "ADIT_TUN", value_name = "PATH", default_value = adit_link::DEFAULT_TUN_DEVICE)]
    pub(super) path: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct PodLink {
    /// What pods' packets go through: TUN devices, veth pairs with packet sockets, or auto: the former if they can be had
    #[arg(
        long = "link",
        env = "ADIT_LINK",
        value_name = "auto|tun|packet",
        default_value_t = LinkChoice::Auto
    )]
    pub(super) choice: LinkChoice,
    #[command(flatten)]
    pub(super) tun: TunDevice,
}

#[derive(Debug, Args)]
pub(super) struct Mesh {
    /// The mesh's name; the only one that runs without it
    pub(super) mesh: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    pub(super) mesh: Mesh,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum MeshCommand {
    /// Put a namespace into the mesh by its label: pods that run join as they are
    Add(MeshChange),
    /// Take a namespace's label away: its pods leave, but for those that a label of their own puts in
    Remove(MeshChange),
    /// Show each pod: whether it belongs in the mesh, why not, and since when it's captured
    Status(MeshStatus),
}

#[derive(Debug, Args)]
pub(super) struct MeshChange {
    #[command(flatten)]
    pub(super) of: MeshNamespace,
    /// Wait until every running pod has joined or left, at most this long, and show them
    #[arg(
        long,
        value_name = "TIME",
        value_parser = duration::parse,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2m"
    )]
    pub(super) wait: Option<Duration>,
    /// Show them as JSON
    #[arg(long, requires = "wait")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct MeshStatus {
    #[command(flatten)]
    pub(super) of: MeshNamespace,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct MeshNamespace {
    /// The Kubernetes namespace
    pub(super) namespace: String,
    /// The kubeconfig file; without it kubectl's own, or the account of the pod that this runs in
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; the current one without it
    #[arg(long, value_name = "NAME")]
    pub(super) context: Option<String>,
    /// The namespace in which adit is installed
    #[arg(long = "adit-namespace", value_name = "NAME", default_value = "adit-system")]
    pub(super) agents: String,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    /// The mesh's name; all that run without it
    pub(super) mesh: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The code, such as ADIT-N004; lists all without it
    pub(super) code: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Flows {
    #[command(flatten)]
    pub(super) mesh: Mesh,
    /// Go on with new flows as they end
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only flows opened by: NAME, NAMESPACE/NAME, NAMESPACE/, an address or a range
    #[arg(long, value_name = "END")]
    pub(super) from: Option<EndpointPattern>,
    /// Only flows to: a workload, a service, an address or a range
    #[arg(long, value_name = "END")]
    pub(super) to: Option<EndpointPattern>,
    /// Only flows with this verdict
    #[arg(long)]
    pub(super) verdict: Option<Verdict>,
    /// Print one JSON record a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Verdict {
    /// Allowed by policy
    Allow,
    /// Denied by policy
    Deny,
}

impl From<Verdict> for VerdictKind {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Deny => Self::Deny,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Join this running mesh
    #[arg(long, value_name = "NAME", requires = "name")]
    pub(super) mesh: Option<String>,
    /// The workload to be in it
    #[arg(long = "as", value_name = "NAMESPACE/NAME", id = "name")]
    pub(super) name: Option<WorkloadName>,
    /// A label for selectors to see; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, requires = "mesh")]
    pub(super) labels: Vec<(String, String)>,
    /// Whose identity to have
    #[arg(long, value_name = "NAME", requires = "mesh")]
    pub(super) service_account: Option<String>,
    #[command(flatten)]
    pub(super) link: PodLink,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(super) argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    pub(super) file: MeshFile,
    /// Which of the mesh's nodes this is
    #[arg(long, value_name = "NAME")]
    pub(super) node: Option<String>,
    /// Where agents on other nodes reach this one; the node's address in the mesh file without it
    #[arg(long, value_name = "ADDRESS:PORT", requires = "node")]
    pub(super) listen: Option<SocketAddr>,
    /// Keep the CA's key in this folder; agents of one mesh on several nodes need the same
    #[arg(long, value_name = "FOLDER")]
    pub(super) state_dir: Option<PathBuf>,
    /// How long certificates are valid
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(super) svid_ttl: Option<Duration>,
    /// Threads that carry traffic; one a core and eight at most without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) workers: Option<u16>,
    /// How long a worker may look for work before it sleeps, where that has paid lately; 100us without it, 0us never
    #[arg(long, value_name = "TIME", env = "ADIT_BUSY_POLL", value_parser = duration::parse)]
    pub(super) busy_poll: Option<Duration>,
    /// Run one workload as the test, once everything else is ready: stop when it ends, with its exit code. Without a name it is
    /// the one that the mesh file names as `test`
    #[arg(long, value_name = "WORKLOAD", num_args = 0..=1)]
    pub(super) once: Option<Option<String>>,
    /// Keep what happened in this folder: junit.xml, flows.jsonl, dump.json, check.json and logs/
    #[arg(long, value_name = "FOLDER", requires = "once")]
    pub(super) artifacts: Option<PathBuf>,
    /// Stop with exit code 124 if the test hasn't ended by then, the start of everything else included
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "once")]
    pub(super) timeout: Option<Duration>,
    /// Go on in the background once everything is ready, and append the output to this file. At 64 MiB it becomes FILE.1
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    pub(super) detach: Option<PathBuf>,
    /// What --detach starts: standard output and error are this file
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "detach")]
    pub(super) detached: Option<PathBuf>,
    /// How long programs may take to end after SIGTERM
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "10s")]
    pub(super) grace: Duration,
    #[command(flatten)]
    pub(super) link: PodLink,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct MeshFile {
    /// The mesh file
    #[arg(value_name = "FILE")]
    positional: Option<PathBuf>,
    /// The same
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    named: Option<PathBuf>,
}

impl MeshFile {
    /// Whichever was given.
    pub(super) fn path(&self) -> &Path {
        let given = self.positional.as_deref().or(self.named.as_deref());
        given.expect("one of the two is required")
    }
}

#[derive(Debug, Args)]
pub(super) struct Agent {
    #[arg(long)]
    pub(super) run_dir: PathBuf,
    #[arg(long)]
    pub(super) listen: Option<SocketAddr>,
    #[arg(long)]
    pub(super) state_dir: Option<PathBuf>,
    #[arg(long, value_parser = duration::parse)]
    pub(super) svid_ttl: Option<Duration>,
    #[arg(long)]
    pub(super) workers: Option<u16>,
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(super) busy_poll: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct AwaitDaemonSet {
    /// Its namespace
    #[arg(long, value_name = "NAME")]
    pub(super) namespace: String,
    /// How long to wait; then the nodes that aren't done are named, and the exit code is 3
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "4m")]
    pub(super) timeout: Duration,
    /// Its name
    pub(super) name: String,
}

#[derive(Debug, Args)]
pub(super) struct Ca {
    /// The trust domain to sign for
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(super) trust_domain: TrustDomain,
    /// The namespace that it runs in, where the Secret adit-ca and the ConfigMap adit-ca-root are
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub(super) namespace: String,
    /// The Service by which agents reach it
    #[arg(long, value_name = "NAME", default_value = "adit-ca")]
    pub(super) service: String,
    /// Where to listen for agents: in a pod 0.0.0.0:8443, or all IPv6 addresses where there are no others
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    pub(super) listen: SocketAddr,
    /// The audience that agents' tokens are for
    #[arg(long, value_name = "AUDIENCE", default_value = "adit-ca")]
    pub(super) audience: String,
    /// A service account of agents, once for each; adit-agent of the namespace without it
    #[arg(long = "agent", value_name = "NAMESPACE/NAME")]
    pub(super) agents: Vec<WorkloadName>,
    /// The longest that a certificate may be valid
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "24h")]
    pub(super) max_svid_ttl: Duration,
    /// Offer metrics and health over HTTP here, nowhere without it: /metrics, /healthz/live, /healthz/ready
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(super) struct NodeAgent {
    /// The Kubernetes node to serve
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(super) node_name: String,
    /// The trust domain of the cluster's workloads
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(super) trust_domain: TrustDomain,
    /// The node helper's socket
    #[arg(long, value_name = "PATH", default_value = "/run/adit/agent/agent.sock")]
    pub(super) helper_socket: PathBuf,
    /// Where other nodes' agents are told to reach this node's pods
    #[arg(long, value_name = "PORT", value_enum, default_value_t = WirePort::Original)]
    pub(super) wire_port: WirePort,
    /// Who signs certificates: adit-ca.adit-system.svc:443, or istiod; a CA in this process without it
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "state_dir")]
    pub(super) signer: Option<String>,
    /// The token that proves to the signer who is asking
    #[arg(long, value_name = "PATH", default_value = "/var/run/secrets/adit-ca/token")]
    pub(super) signer_token: PathBuf,
    /// The signer's root certificates
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/var/run/secrets/adit-ca/root.pem"
    )]
    pub(super) signer_roots: PathBuf,
    /// The cluster's name, as istiod knows it
    #[arg(long, value_name = "NAME", default_value = "Kubernetes")]
    pub(super) cluster: String,
    /// Keep the CA's key in this folder; agents of one cluster need the same
    #[arg(long, value_name = "FOLDER")]
    pub(super) state_dir: Option<PathBuf>,
    /// How long certificates are valid
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(super) svid_ttl: Option<Duration>,
    /// Threads that carry traffic; one a core and eight at most without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) workers: Option<u16>,
    /// How long a worker may look for work before it sleeps, where that has paid lately; 100us without it, 0us never
    #[arg(long, value_name = "TIME", env = "ADIT_BUSY_POLL", value_parser = duration::parse)]
    pub(super) busy_poll: Option<Duration>,
    /// Offer metrics and health over HTTP here, nowhere without it: /metrics, /healthz/live, /healthz/ready
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) metrics: Option<SocketAddr>,
    /// How long live flows may go on after SIGTERM
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "20s")]
    pub(super) drain: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WirePort {
    /// The port that the flow is for, and 15008 for agents that know no other
    Original,
    /// 15008 alone, as Istio's
    #[value(name = "15008")]
    Hbone,
}

#[derive(Debug, Args)]
pub(super) struct Enter {
    #[arg(long)]
    pub(super) run_dir: PathBuf,
    #[arg(long)]
    pub(super) pod: String,
    #[arg(long)]
    pub(super) directory: PathBuf,
    #[arg(long)]
    pub(super) terminal: bool,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) argv: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(super) struct Node {
    #[arg(long)]
    pub(super) run_dir: PathBuf,
    #[arg(long)]
    pub(super) link: LinkChoice,
    #[arg(long)]
    pub(super) tun_device: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct NodeHelper {
    /// The folder of sockets, journal and pinned namespaces; on the host, mounted with propagation to it
    #[arg(long, value_name = "FOLDER", default_value = "/run/adit")]
    pub(super) state: PathBuf,
    /// The only user that may connect to the agent's socket
    #[arg(long, value_name = "UID", default_value_t = 65532)]
    pub(super) agent_uid: u32,
    /// Where the container runtime mounts pods' network namespaces
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/netns")]
    pub(super) netns_dir: PathBuf,
    /// The container runtime's CNI configuration
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d")]
    pub(super) cni_conf_dir: PathBuf,
    /// The container runtime's CNI plugins
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
    pub(super) cni_bin_dir: PathBuf,
    /// Install no CNI plugin: pods join once they run, when the agent says so
    #[arg(long)]
    pub(super) no_cni: bool,
    /// Namespaces whose pods start outside the mesh while no agent is connected, with commas between
    #[arg(
        long = "exempt-namespace",
        value_name = "NAMESPACES",
        value_delimiter = ',',
        default_values = ["adit-system", "kube-system"]
    )]
    pub(super) exempt_namespaces: Vec<String>,
    /// MTU of the device in a pod, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 65520, value_parser = clap::value_parser!(u16).range(1280..))]
    pub(super) pod_mtu: u16,
    #[command(flatten)]
    pub(super) link: PodLink,
    /// Take adit off this node instead: the plugin, and every pod out of the mesh
    #[arg(long)]
    pub(super) uninstall: bool,
    /// Keep it off until SIGTERM, also where a helper is started again
    #[arg(long, requires = "uninstall")]
    pub(super) stay: bool,
    /// How long connections that end in the agent may take to finish
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "20s", requires = "uninstall")]
    pub(super) drain: Duration,
    /// Ask about the helper that runs with the same folders, and say no by the exit code and on standard error
    #[arg(long, value_name = "QUESTION", conflicts_with = "uninstall")]
    pub(super) probe: Option<HelperProbe>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum HelperProbe {
    /// Does it answer?
    Live,
    /// Is the plugin in the runtime's list, and the journal readable?
    Ready,
    /// Is adit off the node?
    Uninstalled,
}

impl From<HelperProbe> for adit_node::cluster::Probe {
    fn from(probe: HelperProbe) -> Self {
        match probe {
            HelperProbe::Live => Self::Live,
            HelperProbe::Ready => Self::Ready,
            HelperProbe::Uninstalled => Self::Uninstalled,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Probe {
    pub(super) kind: ProbeKind,
    pub(super) address: SocketAddr,
    #[arg(long, default_value = "/")]
    pub(super) path: String,
    #[arg(long, value_parser = duration::parse, default_value = "1s")]
    pub(super) timeout: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ProbeKind {
    Http,
    Tcp,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("expected KEY=VALUE, got {text:?}")),
    }
}

const EXAMPLES: &str = "Examples:
  adit check                                    can this machine do it?
  adit run -- curl http://example.com/          one program, its traffic through the agent
  adit up shop.yaml                             several workloads, mutual TLS between them
  adit run --mesh shop --as shop/me -- bash     a shell inside the running mesh
  adit flows -f --to shop/web                   what flows to web, as it ends

Environment:
  ADIT_TUN      the TUN device node (/dev/net/tun)
  ADIT_RUN_DIR  where running meshes have their sockets ($XDG_RUNTIME_DIR/adit)
  ADIT_LOG      what the agent logs: error, warn, info, debug, trace (info)";

const FLOWS_EXAMPLES: &str = "Examples:
  adit flows                                    the latest flows of the only mesh that runs
  adit flows shop -f --from shop/web            flows that web opens, as they end
  adit flows --verdict deny --json | jq .       what policy denied";

const MESH_EXAMPLES: &str = "Examples:
  adit mesh add shop --wait                     label it, and wait until its running pods have joined
  adit mesh status shop                         each pod: does it belong, is it captured, why not?
  adit mesh remove shop --wait=30s              and out of it again

The exit code is 3 if a pod isn't yet what the labels say, 2 if there is no such namespace, 1 for everything else.";

const RUN_EXAMPLES: &str = "Examples:
  adit run -- curl -sS http://example.com/      in a mesh of its own
  adit run --mesh shop --as shop/debug -- bash  as another workload of mesh shop

The exit code is the program's; 127 if it isn't found, 126 if it can't be executed, 125 if adit itself fails.";

const UP_EXAMPLES: &str = "Examples:
  adit up shop.yaml
  adit up shop.yaml --detach shop.log           in the background; `adit down` stops it
  adit up -f e2e.yaml --once                    in CI: the exit code is that of the file's `test`
  adit up -f e2e.yaml --once shop/e2e --timeout 10m --artifacts out
  adit up shop.yaml --node left --state-dir ~/.local/state/adit/shop

Ctrl-C stops the workloads, then everything else; a second one ends everything at once. The exit code is 0 after
`adit down`, 128 and the signal's number after a signal, 2 for a wrong mesh file. With --once it is the test's own; 124 if its time
was over, 125 if adit itself fails, a wrong mesh file included.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_wire_port_is_the_original_one_or_istios() {
        let wire_port = |line: &str| match parse(line).map(|cli| cli.command) {
            Ok(Command::NodeAgent(args)) => Ok(args.wire_port),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        };
        let agent = "adit node-agent --node-name kn1";
        assert_eq!(wire_port(agent), Ok(WirePort::Original));
        assert_eq!(
            wire_port(&format!("{agent} --wire-port original")),
            Ok(WirePort::Original)
        );
        assert_eq!(
            wire_port(&format!("{agent} --wire-port=15008")),
            Ok(WirePort::Hbone)
        );
        for nonsense in ["8080", "15008,original", "hbone"] {
            let refused = wire_port(&format!("{agent} --wire-port {nonsense}")).unwrap_err();
            assert!(
                refused.contains("[possible values: original, 15008]"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_programs_own_options_stay_its_own() {
        let Command::Run(run) = parse("adit run -- curl -sS --json x").unwrap().command else {
            panic!()
        };
        assert_eq!(run.argv, ["curl", "-sS", "--json", "x"]);
        let Command::Run(run) = parse("adit run ls --mesh").unwrap().command else {
            panic!()
        };
        assert_eq!(
            (run.argv, run.mesh),
            (vec!["ls".to_owned(), "--mesh".to_owned()], None)
        );
        let Command::Run(run) = parse("adit run --mesh shop --as shop/me --label a=b -- sh")
            .unwrap()
            .command
        else {
            panic!()
        };
        assert_eq!(
            (run.mesh.as_deref(), run.labels),
            (Some("shop"), vec![("a".to_owned(), "b".to_owned())])
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for bad in [
            "adit",
            "adit run",
            "adit run --mesh shop -- ls",
            "adit run --as shop -- ls",
            "adit run --label ab --mesh m --as a/b -- ls",
            "adit up",
            "adit up x.yaml --svid-ttl 10",
            "adit up x.yaml --link veth",
            "adit up x.yaml --listen 127.0.0.1:1",
            "adit up x.yaml -f y.yaml",
            "adit up x.yaml --artifacts out",
            "adit up x.yaml --timeout 5s",
            "adit up x.yaml --once --detach log",
            "adit check --json --junit -",
            "adit flows --from a/b/c",
            "adit flows --verdict maybe",
            "adit check --cni-conf-dir /x",
            "adit mesh",
            "adit mesh add",
            "adit mesh add shop --json",
            "adit mesh add shop --wait=10",
            "adit mesh status shop --wait",
            "adit node-helper --stay",
            "adit node-helper --probe maybe",
            "adit node-helper --uninstall --probe live",
            "adit explode",
        ] {
            assert!(parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_helper_serves_unless_it_is_told_otherwise() {
        for (line, expected) in [
            ("adit node-helper", (false, false)),
            ("adit node-helper --uninstall --drain 5s", (true, false)),
            ("adit node-helper --probe ready --state /run/adit", (false, true)),
        ] {
            let Command::NodeHelper(helper) = parse(line).unwrap().command else {
                panic!()
            };
            assert_eq!((helper.uninstall, helper.probe.is_some()), expected, "{line}");
        }
    }

    #[test]
    fn a_run_that_ends_with_a_test_takes_it_from_the_line_or_from_the_file() {
        for (line, expected) in [
            ("adit up e2e.yaml", None),
            ("adit up -f e2e.yaml --once", Some(None)),
            ("adit up e2e.yaml --once --artifacts out", Some(None)),
            ("adit up --once=shop/e2e e2e.yaml", Some(Some("shop/e2e"))),
            ("adit up e2e.yaml --once e2e --timeout 5m", Some(Some("e2e"))),
        ] {
            let Command::Up(up) = parse(line).unwrap().command else {
                panic!()
            };
            assert_eq!(up.once.as_ref().map(Option::as_deref), expected, "{line}");
            assert_eq!(up.file.path(), Path::new("e2e.yaml"), "{line}");
        }
    }

    #[test]
    fn waiting_has_a_time_of_its_own_or_another() {
        for (line, expected) in [
            ("adit mesh add shop", None),
            ("adit mesh add --wait shop", Some(120)),
            ("adit mesh add shop --wait --json", Some(120)),
            ("adit mesh add shop --wait=30s", Some(30)),
        ] {
            let Command::Mesh(MeshCommand::Add(add)) = parse(line).unwrap().command else {
                panic!()
            };
            assert_eq!(add.of.namespace, "shop", "{line}");
            assert_eq!(add.wait.map(|time| time.as_secs()), expected, "{line}");
        }
    }

    #[test]
    fn help_shows_no_inner_commands_and_has_examples() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("Examples:") && !help.contains("  enter"), "{help}");
    }
}
