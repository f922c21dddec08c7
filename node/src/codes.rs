//! The codes of everything that can go wrong here, for `adit explain`.
//!
//! A code is for good: its meaning never changes and its number is never used again.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A kind of failure with an entry in [`TABLE`]; shown as `ADIT-N001`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u16);

/// What `adit explain` says of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// What happened, in one line.
    pub summary: &'static str,
    /// Why it usually happens.
    pub cause: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

/// A text that is no code of this crate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no code of the node helper, expected ADIT-N and three digits")]
pub struct InvalidCode {
    /// The text.
    pub text: String,
}

impl Code {
    /// The entry of this code; `None` for a code of another build.
    #[must_use]
    pub fn entry(self) -> Option<&'static Entry> {
        TABLE.iter().find(|entry| entry.code == self)
    }

    pub(crate) fn from_wire(number: u16) -> Self {
        Self(number)
    }

    pub(crate) fn to_wire(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ADIT-N{:03}", self.0)
    }
}

impl FromStr for Code {
    type Err = InvalidCode;

    fn from_str(text: &str) -> Result<Self, InvalidCode> {
        let digits = text
            .strip_prefix("ADIT-N")
            .filter(|digits| digits.len() >= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()));
        digits
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| InvalidCode {
                text: text.to_owned(),
            })
    }
}

/// Declares each code as a constant and as a row of the table, so that neither can be without the other.
macro_rules! codes {
    ($($name:ident = $number:literal: $summary:literal, $cause:literal, $fix:literal;)*) => {
        impl Code {
            $(#[doc = $summary] pub const $name: Self = Self($number);)*
        }

        /// Every code, by number.
        pub const TABLE: &[Entry] = &[
            $(Entry { code: Code::$name, summary: $summary, cause: $cause, fix: $fix },)*
        ];
    };
}

codes! {
    USER_NAMESPACE = 1:
        "the kernel refused to create a user namespace",
        "user.max_user_namespaces is 0, Debian's kernel.unprivileged_userns_clone is 0, AppArmor restricts unprivileged user namespaces (Ubuntu 23.10 and later), or a container's seccomp profile forbids it",
        "run `adit check`, which tells the four apart and prints the setting to change";
    ID_MAP = 2:
        "the kernel refused to map this user into its new namespace",
        "AppArmor let the namespace be created but took its capabilities, the process is in a chroot, or it is root without CAP_SETFCAP (a container's, on Linux 5.12 and later, and 5.10 with its backport)",
        "in a container run adit as another user than root; on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or install an AppArmor profile that allows userns for adit; elsewhere leave the chroot";
    NAMESPACES = 3:
        "the kernel refused a network, mount, UTS or IPC namespace",
        "a limit under user.max_*_namespaces is reached or 0, or AppArmor took the capabilities of the user namespace",
        "run `adit check`; raise the limit it names";
    TUN_OPEN = 4:
        "the TUN device node could not be opened",
        "/dev/net/tun is missing (module `tun` not loaded, or a container without the device) or not open to this user; distributions ship it with mode 0666",
        "sudo modprobe tun && sudo chmod 0666 /dev/net/tun, or point --tun-device at a node you may open; in a container, pass --device /dev/net/tun";
    TUN_CONFIGURE = 5:
        "the kernel refused to configure a TUN device",
        "the node is not a TUN device, or the kernel is older than 3.8",
        "check that the node is character device 10:200";
    NETWORK = 6:
        "the kernel refused an address, a route or a link setting in a pod",
        "two pods' addresses clash with a route, or an address is not usable on a host",
        "the message names the step and the kernel's answer; correct the address";
    MOUNT = 7:
        "the kernel refused a mount in a pod",
        "AppArmor or SELinux forbids mounts in user namespaces",
        "look for a denial in the kernel log (dmesg) and allow mounts for adit";
    RUN_DIRECTORY = 8:
        "the run directory or the helper's socket in it cannot be used",
        "the directory is missing, belongs to another user, is open to others, or its path makes the socket's longer than 107 bytes",
        "use a directory of mode 0700 owned by you with a short path, such as one under $XDG_RUNTIME_DIR";
    UNREACHABLE = 9:
        "the node helper cannot be reached or closed the connection",
        "the mesh was stopped, the helper was killed, or the caller is another user",
        "start the mesh again with `adit up`; `adit ps` shows what runs";
    PROTOCOL = 10:
        "the node helper and its client do not understand each other",
        "they are from different versions of adit",
        "stop the mesh with `adit down` and start it again with one version";
    REQUEST = 11:
        "a request to the node helper is out of bounds",
        "a name, an address, a file or a number is longer or larger than the helper takes",
        "the message names the field and its bound";
    POD_EXISTS = 12:
        "a pod of this name exists already",
        "two workloads have one name, or a stopped one was not deleted",
        "choose another name, or delete the pod first";
    NO_SUCH_POD = 13:
        "no pod of this name exists",
        "it was deleted, or the helper was restarted since",
        "`adit ps` lists the pods";
    TOO_MANY = 14:
        "the node helper's table of pods is full",
        "more pods were asked for than the helper was started to hold",
        "stop workloads, or start fewer replicas";
    POD_FAILED = 15:
        "making a pod did not finish",
        "the process that makes it was killed or did not finish within 30 seconds, as happens when the machine is out of memory",
        "try again; look for the out-of-memory killer in the kernel log";
    THREADS = 16:
        "this step needs a process with one thread",
        "it was called after threads were started",
        "this is a defect in adit; report it";
    ENTER = 17:
        "the kernel refused to enter a pod's namespaces",
        "the mesh belongs to another user, or this process is in a namespace of its own already",
        "run the command as the user who started the mesh, outside of any pod";
    PROGRAM_NOT_FOUND = 18:
        "the program was not found",
        "its name is misspelt, it is not in PATH, or the interpreter named in its first line is missing",
        "give the full path; with a replaced environment, set PATH in it";
    PROGRAM_NOT_EXECUTABLE = 19:
        "the program cannot be executed",
        "the file lacks the execute permission, is a directory, or is for another machine",
        "chmod +x the file, or name the interpreter before it";
    WORKING_DIRECTORY = 20:
        "the working directory cannot be entered",
        "it does not exist or is not open to this user",
        "create it, or name another";
    PROCESS = 21:
        "a process could not be created or watched",
        "the limit on processes (ulimit -u, or the cgroup's pids.max) is reached, or the machine is out of memory",
        "stop processes or raise the limit";
    DESCRIPTORS = 22:
        "the process is out of file descriptors",
        "the limit (ulimit -n) is too low for this number of pods and queues",
        "raise the hard limit: ulimit -Hn";
    POD_NAMESPACE = 23:
        "a running pod's network namespace was not found or can't be entered",
        "the pod ended meanwhile, it is on the host's network, or the runtime mounts namespaces elsewhere than in the folder that the helper looks in",
        "if the pod runs: check --netns-dir of the node helper (/var/run/netns with containerd and CRI-O), and that the DaemonSet mounts it with mountPropagation HostToContainer";
    POD_INTERFACE = 24:
        "a pod's interface is not one that can be moved",
        "it has no address, more addresses or routes than the helper keeps, a name that adit needs for itself, or is an agent's device already",
        "the message names the interface and the reason; label the pod istio.io/dataplane-mode=none to keep it outside the mesh";
    INTERPOSE = 25:
        "the kernel refused a step of moving a pod's interface behind the agent, or back",
        "the helper lacks a capability (CAP_NET_ADMIN, CAP_SYS_ADMIN) or a writable /proc/sys, or the pod went away meanwhile",
        "the message names the step and the kernel's answer; the pod is put back as it was, and tried again";
    NO_AGENT = 26:
        "a pod that is about to start waits for the node's agent",
        "no agent is connected to the node helper, or it did not answer in time; pods don't start outside the mesh because of that",
        "the runtime tries again by itself; if it goes on, look at the agent's pod on this node, and exempt namespaces that must start without it with --exempt-namespace";
    AGENT_REFUSED = 27:
        "the node's agent refused to let a pod start",
        "the agent's own reason is in the message",
        "the runtime tries again by itself";
    JOURNAL = 28:
        "what the node helper remembers of a pod can't be read or written",
        "the state folder is full, read-only, or written by another version",
        "free the disk; if the entry is unreadable, delete the pod and then the file that the message names";
    PLUGIN_CALL = 29:
        "the CNI plugin was called in a way that it doesn't understand",
        "an environment variable or a field of the network configuration is missing or wrong, or it is not chained after the plugin that makes the interface",
        "the message names it; the entry of type adit-cni in the node's conflist is written by the node helper and not meant to be edited";
    HELPER_DOWN = 30:
        "the node helper can't be reached by the CNI plugin",
        "its pod doesn't run on this node, or the conflist names another socket; pods don't start outside the mesh because of that",
        "the runtime tries again by itself; look at the helper's pod; to take adit off the node for good run `adit node-helper --uninstall` there";
    CONFLIST = 31:
        "the node's CNI configuration or plugin folder can't be read or written",
        "the folder is mounted read-only, is another one than the runtime uses, or the list in it is no JSON",
        "check the folders given with --cni-conf-dir and --cni-bin-dir";
    QUEUES_HELD = 32:
        "another process holds the packet queues of a pod",
        "an agent that the helper's predecessor gave them to still runs",
        "wait until it has ended, then ask again";
    TOO_MANY_PORTS = 33:
        "too many ports of one pod are open on demand",
        "each costs a routing rule, so their number is bounded",
        "close some first";
    NOT_A_MEMBER = 34:
        "the pod is not behind the agent",
        "it never joined, has left, or is gone",
        "nothing is needed if it isn't meant to be in the mesh";
    DISMISSED = 35:
        "adit is being taken off this node",
        "an uninstall was asked for: no pod joins any more, and those in the mesh leave it",
        "nothing is needed; if the uninstall was given up, delete the DaemonSet adit-uninstall and restart the helper's pod";
    STILL_INSTALLED = 36:
        "adit is not off this node yet",
        "the plugin is in the runtime's list or folder, or a pod is behind the agent still",
        "wait: `adit node-helper --uninstall --stay` goes on until all is done, and its log says what hinders it";
    PRIVILEGES = 38:
        "the node helper could not give up the privileges that it doesn't need",
        "a sandbox forbids capset or prctl(PR_SET_NO_NEW_PRIVS)",
        "start adit outside of the sandbox, or with a seccomp profile that allows both";
    NOT_ROOT = 39:
        "the node helper is not root of the node",
        "it runs as another user, or in a container without CAP_SYS_ADMIN and CAP_NET_ADMIN",
        "run it as root on the node; in a container: securityContext.privileged: true, as the chart has it";
    VETH_PAIR = 40:
        "the kernel refused a veth pair for a pod",
        "the module `veth` is missing or not loaded, which an ordinary user's request can't always do, or a sandbox forbids it",
        "sudo modprobe veth, or use TUN devices: --link tun";
    PACKET_OPEN = 41:
        "a packet socket could not be opened",
        "the kernel has none (CONFIG_PACKET, module `af_packet`), or a seccomp filter or SELinux forbids them",
        "sudo modprobe af_packet; in a container, allow sockets of the family AF_PACKET, or use TUN devices: --link tun";
    PACKET_CONFIGURE = 42:
        "the kernel refused to configure a packet socket",
        "it is older than 4.20, or not a Linux kernel",
        "the message names the option and the kernel's answer; use a kernel of 5.10 or later, or TUN devices: --link tun";
    NO_LINK = 43:
        "neither a TUN device nor a veth pair can be had for a pod",
        "both are closed: the TUN device node to this user, and veth pairs or packet sockets by the kernel or a sandbox",
        "open either: the message has both reasons, and `adit check` the fix of each";
    INSTEAD_OF_TUN = 44:
        "pods are connected by veth pairs and packet sockets, since no TUN device is to be had",
        "the TUN device node is missing, or not open to this user; everything works, with bounds of its own (docs/platforms.md)",
        "nothing is needed; --link packet says that it is meant so, and `adit check` (on a cluster's node with --node) how to get TUN devices";
    LINK_SILENT = 45:
        "a link between a pod and the agent was made and carries nothing",
        "a packet filter drops what is on it, or the kernel refused an offload",
        "the message names the way and what was seen of it; look for a seccomp or eBPF filter, and report it";
    OFFLOAD_DROPPED = 46:
        "the kernel refused to finish a checksum that was left to it",
        "its check of virtio-net headers is other than expected. Each packet is summed once more from here on, which costs some throughput",
        "nothing is needed; report the kernel's version";
    LITTLE_ROOM = 47:
        "few packets of a pod have room to wait for the agent",
        "pods are connected by packet sockets, and net.core.rmem_max bounds their room for an ordinary user. What finds none is lost, and the pod's kernel sends it again",
        "sudo sysctl net.core.rmem_max=4194304, or use TUN devices: --link tun";
    POD_SANDBOX = 48:
        "a pod that runs can't join or leave, since its sandbox has a network stack of its own",
        "gVisor and the like take the addresses off the pod's interface when they start, and read and write its frames themselves: an interface that comes later they don't notice",
        "delete the pod, so that it's made anew: in the mesh or outside it, as its label says then";

    CHECK_USER_NAMESPACE = 101:
        "check: user namespaces",
        "each pod is owned by a user namespace, which is how adit does without root",
        "as ADIT-N001 and ADIT-N002";
    CHECK_POD = 102:
        "check: a pod can be made: network, mount, UTS and IPC namespaces, its addresses and its files",
        "adit check makes one and throws it away",
        "as the code in the finding's reason";
    CHECK_TUN = 103:
        "check: the TUN device",
        "a pod's packets reach the agent through a TUN device with virtio-net headers",
        "as ADIT-N004 and ADIT-N005";
    CHECK_CHECKSUM_OFFLOAD = 104:
        "check: checksum offload on the link",
        "without it everything works, but each byte is summed once more",
        "use a kernel of 4.x or later; if it is one, report its version";
    CHECK_IPV6 = 105:
        "check: IPv6 in pods",
        "it was disabled when the kernel was started; pods have IPv4 only then",
        "remove ipv6.disable=1 from the kernel's command line";
    CHECK_PING = 106:
        "check: ping from pods to the outside",
        "the agent has no capability, so it pings through ICMP sockets that net.ipv4.ping_group_range must allow",
        "sudo sysctl net.ipv4.ping_group_range='0 2147483647'";
    CHECK_PID_NAMESPACE = 107:
        "check: pid namespaces, and a fresh /proc in them",
        "programs run in a pid namespace so that nothing of them is left behind; a container's masked /proc forbids a fresh one",
        "outside a container nothing is needed; inside one, run with --security-opt systempaths=unconfined";
    CHECK_SECCOMP = 108:
        "check: seccomp filters",
        "the agent gives up every system call that it doesn't need",
        "use a kernel with CONFIG_SECCOMP_FILTER";
    CHECK_NO_NEW_PRIVILEGES = 109:
        "check: no-new-privileges",
        "neither the agent nor a program in a pod may gain privilege",
        "use a kernel of 3.5 or later";
    CHECK_DESCRIPTORS = 110:
        "check: limit on file descriptors",
        "each connection of a pod to the outside takes a descriptor of the agent",
        "raise the hard limit: in /etc/security/limits.conf, or LimitNOFILE= of the service";
    CHECK_INCOMPLETE = 111:
        "check: the trial itself",
        "the process that tries things out could not be started or was killed",
        "run adit check again";
    CHECK_PACKET = 112:
        "check: the veth pair with a packet socket",
        "a pod's packets reach the agent through it where no TUN device is to be had, and with --link packet",
        "as ADIT-N040, ADIT-N041 and ADIT-N042";
    CHECK_PACKET_BUFFER = 113:
        "check: room for packets in a packet socket",
        "a pod's packets that find no room are lost, and sent again by the pod; the kernel bounds the room by net.core.rmem_max",
        "sudo sysctl net.core.rmem_max=4194304";
    CHECK_ENTER = 116:
        "check: entering a pod's namespaces",
        "programs are started in their pods by setns, which seccomp filters of containers forbid",
        "as ADIT-N017; in a container, run with a seccomp profile that allows setns";
    CHECK_PRIVILEGES = 117:
        "check: what helper and agent don't need can be given up",
        "the helper keeps three capabilities of its own user namespace, the agent none; a sandbox may forbid capset",
        "as ADIT-N038 and ADIT-A020";
    CHECK_PROCESSES = 118:
        "check: signals, events and threads of the helper and the agent",
        "both wait for what happens with signalfd, epoll and eventfd, which only a sandbox forbids",
        "start adit outside of the sandbox; the reason names what was refused";
    CHECK_NODE_ROOT = 120:
        "check: root of the node, with CAP_SYS_ADMIN and CAP_NET_ADMIN",
        "the node helper goes to pods' network namespaces, which takes the first, and moves their interfaces, which takes the second",
        "run adit check --node as the helper will run: as root on the node, or in a privileged container";
    CHECK_NODE_NAMESPACES = 121:
        "check: network namespaces, pinned in the state folder",
        "a pod's interface waits in a second network namespace, which is bind-mounted so that it outlives the helper",
        "the reason names the step and the kernel's answer: SYS_ADMIN is missing, or --state is on a file system that can't be written";
    CHECK_NODE_TUN = 122:
        "check: the TUN devices of a pod",
        "a pod's packets pass the agent through one device on each side: TUN devices where they are to be had, with virtio-net headers and one queue each",
        "as ADIT-N004 and ADIT-N005";
    CHECK_NODE_JOIN = 123:
        "check: a pod goes behind the agent and comes back",
        "adit check --node makes a pod of its own for each kind of link, has it join and leave as the node helper does, and throws it away",
        "the reason names the step that the kernel refused, and its answer";
    CHECK_NODE_IPV6 = 124:
        "check: the same for a pod with IPv6",
        "the kernel has no IPv6, or not all of it (CONFIG_IPV6_MULTIPLE_TABLES for routing rules)",
        "nothing is needed where pods have IPv4 only; elsewhere use a kernel with all of IPv6";
    CHECK_CNI_FOLDER = 125:
        "check: the runtime's CNI configuration folder",
        "the node helper puts its plugin into the list there, by a new file that is renamed over it",
        "name the runtime's folder with --cni-conf-dir, and mount it writable";
    CHECK_CNI_LIST = 126:
        "check: the runtime's list of CNI plugins",
        "the node helper's plugin is chained to the list whose file comes first in order of names",
        "install the cluster's network first, as a list (.conflist) of CNI 0.3.0 to 1.1.0";
    CHECK_CNI_OTHERS = 127:
        "check: another mesh's CNI plugin on the node",
        "two meshes that capture the same pod break its network",
        "label the namespaces of one mesh only, or uninstall the other one";
    CHECK_CNI_BINARIES = 128:
        "check: the runtime's folder of CNI plugins",
        "the node helper copies itself there, and the runtime executes the copy for every pod",
        "name the runtime's folder with --cni-bin-dir, on a file system that is writable and mounted without noexec";
    CHECK_NODE_HELPER = 129:
        "check: the node helper",
        "adit check --node asks the helper of this node, if there is one, as the kubelet's probes do",
        "look at the log of the helper's pod; where adit was deleted, run adit node-helper --uninstall on the node";
    CHECK_NODE_PACKET = 130:
        "check: the veth pairs of a pod",
        "a pod's packets pass the agent through veth pairs with packet sockets where no TUN device is to be had, and with --link packet",
        "as ADIT-N040, ADIT-N041 and ADIT-N042; the helper also needs CAP_NET_RAW, and a kernel with CONFIG_ETHTOOL_NETLINK";

    CHECK_KERNEL = 140:
        "check: the kernel's version",
        "adit is tried on Linux 5.10 and later; older ones lack some of what it asks for, or do it otherwise",
        "use a kernel of 5.10 or later";
    CHECK_CONTAINER = 141:
        "check: a container",
        "what a container may do is decided by whoever started it: capabilities, a seccomp filter, devices, masked folders of /proc",
        "what is refused has a finding of its own, with its fix";
    CHECK_FARGATE = 142:
        "check: AWS Fargate",
        "Fargate gives a task neither a node nor a privileged container, so that nothing can stand between a pod and its network; its containers may mostly not make namespaces",
        "run workloads of the mesh on EC2 nodes; `adit policy lint` and `adit policy test` work on Fargate too (docs/platforms.md)";
    CHECK_AUTOPILOT = 143:
        "check: GKE Autopilot",
        "Autopilot refuses privileged pods, host folders and capabilities unless an allow-list that the cluster has installed names the workload",
        "install an allow-list for adit's DaemonSets, or use a Standard cluster (docs/platforms.md)";
    CHECK_GVISOR = 144:
        "check: gVisor",
        "a gVisor sandbox has a kernel of its own with a part of Linux' features, and sees nothing of the node",
        "run adit outside of the sandbox: on the node, with runc (docs/platforms.md)";
    CHECK_KATA = 145:
        "check: Kata Containers",
        "a Kata pod is a virtual machine with a kernel of its own, and sees nothing of the node",
        "run the node helper and the agent with runc (docs/platforms.md)";
    CHECK_WSL1 = 146:
        "check: version 1 of Windows' subsystem for Linux",
        "it translates system calls and has no Linux kernel",
        "in PowerShell: wsl --set-version DISTRIBUTION 2";
    CHECK_WSL2 = 147:
        "check: version 2 of Windows' subsystem for Linux",
        "it has a Linux kernel of its own, built by Microsoft",
        "nothing is needed; what that kernel lacks has a finding of its own";
    CHECK_DOCKER_DESKTOP = 148:
        "check: Docker Desktop",
        "its containers run in a virtual machine, whose kernel is the one that counts",
        "nothing is needed; what that kernel lacks has a finding of its own";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_reads_back_from_what_it_shows() {
        for entry in TABLE {
            assert_eq!(entry.code.to_string().parse(), Ok(entry.code));
            assert_eq!(entry.code.entry(), Some(entry));
        }
        assert_eq!(Code::USER_NAMESPACE.to_string(), "ADIT-N001");
    }

    #[test]
    fn numbers_are_unique_and_in_order() {
        assert!(TABLE.is_sorted_by(|a, b| a.code < b.code));
    }

    #[test]
    fn other_texts_are_no_codes() {
        for text in ["", "N001", "ADIT-N1", "ADIT-N00x", "ADIT-X001", "ADIT-N99999999"] {
            assert!(text.parse::<Code>().is_err(), "{text}");
        }
    }
}
