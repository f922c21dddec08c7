//! What each code means: the tables of all crates in one.

use adit_flow::Code;
use adit_node::codes::TABLE as NODE;
use serde::Serialize;

/// What there is to say of a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The code, such as `ADIT-A001`.
    pub code: String,
    /// What happened, in one line.
    pub summary: &'static str,
    /// Why it usually happens.
    pub cause: &'static str,
    /// What to do.
    pub fix: &'static str,
}

/// The explanation of `code`, written as in messages (`ADIT-A001`), in lower case, or without `ADIT-`.
pub fn find(code: &str) -> Option<Explanation> {
    let wanted = code.trim().to_ascii_uppercase();
    all()
        .into_iter()
        .find(|entry| entry.code == wanted || entry.code.strip_prefix("ADIT-") == Some(&wanted))
}

/// Every code, in order.
pub fn all() -> Vec<Explanation> {
    let plain = |code: &Code| Explanation {
        code: code.code.to_owned(),
        summary: code.summary,
        cause: code.cause,
        fix: code.fix,
    };
    let mut all: Vec<_> = AGENT.iter().map(plain).collect();
    all.extend(adit_control::CODES.iter().map(|code| plain(code)));
    all.extend(adit_policy::codes::ALL.iter().map(|code| plain(code)));
    all.extend(NODE.iter().map(|entry| Explanation {
        code: entry.code.to_string(),
        summary: entry.summary,
        cause: entry.cause,
        fix: entry.fix,
    }));
    all.sort_by(|a, b| a.code.cmp(&b.code));
    all
}

/// Declares the rows of the table.
macro_rules! codes {
    ($($code:literal: $summary:literal, $cause:literal, $fix:literal;)*) => {
        &[$(Code { code: $code, summary: $summary, cause: $cause, fix: $fix }),*]
    };
}

/// The codes of the binary itself: A001 the commands and the supervisor, A020 the agent's start, A030 the control
/// sockets, A040 the CA's state, A050 what the agent is asked, A060 a cluster's processes, A070 `adit mesh`, A080 `adit up --once`.
const AGENT: &[Code] = codes! {
    "ADIT-A001":
        "a mesh of this name is running already",
        "`adit up` was started twice with one mesh file, or another file gives its mesh the same name",
        "`adit ps` shows what runs, `adit down NAME` stops it; two meshes need two names";
    "ADIT-A002":
        "the run directory can't be used",
        "the folder for sockets belongs to another user, is open to others, holds other files, is on a file system without locks, or its path is too long",
        "the message names the folder and the problem; set ADIT_RUN_DIR to a short path that is yours alone, such as one under $XDG_RUNTIME_DIR";
    "ADIT-A003":
        "no such mesh is running",
        "the mesh was not started, was stopped, was started by another user or with another ADIT_RUN_DIR, or several run and none was named",
        "`adit ps` without a name lists what runs; `adit up FILE` starts a mesh";
    "ADIT-A004":
        "the node helper did not start",
        "the kernel refused a user namespace or a TUN device, or the machine is out of processes or memory",
        "the message has the helper's own code; `adit check` tries everything out and prints the setting to change";
    "ADIT-A005":
        "the node helper ended while the mesh was running",
        "it was killed: by hand, or by the out-of-memory killer. It holds the pods, so everything was stopped",
        "look for the out-of-memory killer in the kernel log (dmesg), then start the mesh again";
    "ADIT-A006":
        "the agent doesn't start, or doesn't stay",
        "it refused the mesh, could not listen on the address of --listen, could not be confined, or ended again and again",
        "the lines before this one are the agent's own and carry a code; ADIT_LOG=debug makes it say more";
    "ADIT-A007":
        "the agent ended and is started again",
        "it was killed, ran out of memory, or has a defect. Pods and programs live on; their connections were reset",
        "nothing, if it was killed by hand; otherwise report the agent's last lines";
    "ADIT-A008":
        "a control socket can't be connected to",
        "the mesh is just starting or stopping, or its agent is being started again",
        "try again; `adit ps` shows whether the agent runs";
    "ADIT-A009":
        "a control connection ended before the answer came",
        "the mesh was stopped, or the agent ended, while it was asked",
        "try again; `adit ps` shows what runs";
    "ADIT-A010":
        "no address is left for a workload that joins",
        "each node has a share of the upper half of the range of pod addresses, and all of it is in use",
        "end some of the programs that joined, or give the mesh file larger ranges under `addresses`";
    "ADIT-A011":
        "the command line asks for something that doesn't fit",
        "options contradict each other, or a name is ambiguous",
        "the message says which; --help has examples";
    "ADIT-A012":
        "a mesh that was to go on in the background ended",
        "it could not start: the machine lacks something, an address is taken, or a mesh of that name runs already",
        "the file of --detach has its last lines; without --detach they are on the terminal";
    "ADIT-A013":
        "the name to join as is taken",
        "a workload of the mesh file, or another program that joined, has it",
        "choose another name with --as";
    "ADIT-A014":
        "the system refused something that adit can't do without",
        "processes, threads, descriptors or memory are used up",
        "the message names the step and the kernel's answer; raise the limit it names";
    "ADIT-A015":
        "a workload's pod could not be made or served",
        "the helper or the agent refused it; the message has the reason and its code",
        "`adit explain` with the code in the message";
    "ADIT-A016":
        "--once names no workload of this node",
        "the name is misspelt, lacks its replica's number, or the workload runs on another node",
        "the message lists the workloads that run here";
    "ADIT-A017":
        "the name to join as is not one of this mesh",
        "its namespace is not in the mesh file, or a part of it is not a DNS name",
        "use NAMESPACE/NAME with a namespace of the mesh file: lower case letters, digits and dashes";
    "ADIT-A018":
        "no such code",
        "the code is misspelt, or of another version of adit",
        "`adit explain` without a code lists all";
    "ADIT-A019":
        "a mesh file or policy file was saved and refused",
        "what was saved can't be read, or breaks a rule of the mesh file; the version before it is in force, as `adit ps` shows",
        "correct what the message names, with file and line, and save it again; `adit policy lint` checks policies without a mesh";
    "ADIT-A020":
        "the agent could not give up its capabilities",
        "the kernel refused to read or change them, as some sandboxes make it do",
        "start adit outside of the sandbox; if that isn't possible, report it with the sandbox's name";
    "ADIT-A021":
        "the agent holds capabilities",
        "it was started with capabilities that it could not drop; it parses what pods and peers send and must have none",
        "start adit as an ordinary user";
    "ADIT-A022":
        "no-new-privileges could not be set for the agent",
        "a sandbox forbids prctl",
        "start adit outside of the sandbox";
    "ADIT-A023":
        "the agent's system call filter could not be installed",
        "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER), or a sandbox forbids them",
        "use a kernel with seccomp filters, as those of all distributions are";
    "ADIT-A024":
        "the agent's control socket could not be bound",
        "the run directory was removed or filled while the mesh was starting",
        "start the mesh again";
    "ADIT-A025":
        "the address of --listen can't be listened on",
        "another program uses the port, the address is not one of this machine, or the port is below 1024",
        "`ss -ltnp` shows who has the port; choose another and write it under `nodes` in the mesh file";
    "ADIT-A026":
        "the agent's threads could not be started",
        "the limit on processes (ulimit -u, or the cgroup's pids.max) is reached, or memory is used up",
        "raise the limit";
    "ADIT-A027":
        "one of the agent's workers has ended",
        "a defect in adit; the agent's log has the place",
        "report it with the agent's last lines; restarting the mesh gets it going again";
    "ADIT-A030":
        "a control socket got something that is no request",
        "the other end is not adit, or of another version",
        "use one version of adit; `adit down` and `adit up` after an update";
    "ADIT-A031":
        "the two ends of a control socket speak different versions",
        "adit was updated while the mesh was running",
        "`adit down`, then `adit up` with the new version";
    "ADIT-A032":
        "a request on a control socket is too long",
        "the mesh file and its policies are larger than 16 MiB together",
        "split the mesh";
    "ADIT-A033":
        "too many connections to a control socket",
        "more commands follow or have joined the mesh than it has places for",
        "end some of them";
    "ADIT-A034":
        "a control socket belongs to another user",
        "the mesh was started by somebody else",
        "run the command as the user who started the mesh";
    "ADIT-A035":
        "a mesh goes on in the background and not all of it is ready",
        "a program ended, keeps ending, or its readiness probe doesn't pass; a slow one may only need more time",
        "`adit ps` shows the states, the file of --detach what the programs printed; `adit down` stops the mesh";
    "ADIT-A040":
        "the embedded CA could not be made or read",
        "its files in the state folder are damaged, or it has expired",
        "move the state folder away: the next start makes a new CA, which agents on other nodes must then be given too";
    "ADIT-A041":
        "the folder with the CA's key is not private",
        "it belongs to another user or its mode lets others in",
        "chown it to yourself and chmod 700 it";
    "ADIT-A042":
        "the state folder can't be used",
        "it can't be made, read or written",
        "the message names the step and the kernel's answer; choose another with --state-dir";
    "ADIT-A050":
        "the agent has no mesh yet",
        "it was asked for something before its supervisor told it what to serve",
        "try again in a moment";
    "ADIT-A051":
        "the agent refuses the mesh",
        "the mesh file or a policy in it doesn't pass the agent's own checks",
        "correct what the message names";
    "ADIT-A052":
        "the agent could not fetch a pod's queues",
        "the node helper is gone, or the limit on descriptors (ulimit -n) is reached",
        "raise the limit; the message has the helper's answer";
    "ADIT-A053":
        "the agent refuses a policy file",
        "a policy in it can't be read: not YAML, of a kind or with a field that doesn't exist",
        "correct what the message names, with file and line; the mesh goes on with the policies that it had";
    "ADIT-A054":
        "a question about a flow can't be answered",
        "an end isn't NAMESPACE/NAME of a workload that runs, or an address; or the destination has no port",
        "`adit ps` lists the workloads; write the destination as shop/web-0:8080, 10.77.0.2:53/udp or shop/web-0/icmp";
    "ADIT-A055":
        "the agent of a node was told what only the Kubernetes API tells it",
        "a command for a mesh on a laptop was sent to it",
        "change the objects in Kubernetes: labels put pods into the mesh, policies are objects too";
    "ADIT-A060":
        "the node helper did not do what the agent asked for",
        "the helper isn't running on this node, runs with another version, or the pod is gone",
        "`kubectl -n adit-system get pods -o wide` shows the helpers; the message has the helper's own answer";
    "ADIT-A061":
        "the agent can't listen at a pod's own address",
        "the node helper gave no socket, or the limit on descriptors is reached; agents reach the pod once it listens",
        "the message has the kernel's answer; raise the limit (LimitNOFILE of the container runtime) if it is that";
    "ADIT-A062":
        "the agent doesn't know how to reach the Kubernetes API",
        "it runs outside a cluster without a kubeconfig, or its service account isn't mounted",
        "mount the service account's token, or set KUBECONFIG";
    "ADIT-A063":
        "agents can't reach the signer",
        "the address is in use, or isn't one of this machine's",
        "choose another with --listen; the chart's is 0.0.0.0:8443";
    "ADIT-A064":
        "the signer can't use its keys",
        "the Secret adit-ca holds something that isn't root certificates, each with its key, of this trust domain",
        "restore the Secret from a backup. A new root breaks every connection until all agents have new certificates: only if that is meant, delete the key ca.pem of the Secret";
    "ADIT-A065":
        "metrics and health can't be offered",
        "the address is in use, or isn't one of this machine's",
        "choose another with --metrics; in a cluster with IPv6 alone [::]:15020";
    "ADIT-A070":
        "there is no Kubernetes cluster to ask",
        "the kubeconfig can't be read, has no such context, or there is none and this is no pod",
        "`kubectl config get-contexts` lists the contexts; name the file with --kubeconfig, one of them with --context";
    "ADIT-A071":
        "the Kubernetes API doesn't allow it",
        "the user of the kubeconfig isn't known there, or lacks a permission: get and patch of the namespace, list of pods in it and where adit is installed",
        "`kubectl auth can-i patch namespaces` says whether it's that; ask the cluster's administrator for what the message names";
    "ADIT-A072":
        "there is no such Kubernetes namespace",
        "its name is misspelt, or the context is another cluster's",
        "`kubectl get namespaces` lists them; --context chooses the cluster";
    "ADIT-A073":
        "no agent is ready on a node with pods that are to join or leave the mesh",
        "the DaemonSet adit-agent has no ready pod there, or adit is installed in another namespace than --adit-namespace says",
        "`kubectl -n adit-system get pods -o wide` shows the agents; `kubectl -n adit-system describe pod` of the missing one says why. Pods join or leave once it's ready";
    "ADIT-A074":
        "pods have neither joined nor left the mesh yet",
        "the label was just changed, the agent on their node is busy, can't capture them, or has no certificate for them yet",
        "`kubectl -n adit-system logs` of the agent on their node says why; `adit mesh status NAMESPACE` shows how it goes on";
    "ADIT-A075":
        "the Kubernetes API didn't do what it was asked for",
        "it can't be reached, or its answer is not the expected one",
        "the message has its answer; `kubectl version` shows whether it can be reached";
    "ADIT-A076":
        "adit isn't off every node",
        "nodes are down, or can't start the pod that takes adit off them: the message names them, with the reason",
        "bring them back and run `helm uninstall` again. One that won't come back: `kubectl delete node NAME` first; should it come back after all, run `adit node-helper --uninstall` there. `kubectl -n adit-system get pods -l app=adit-uninstall -o wide` shows how it goes on";
    "ADIT-A080":
        "what is to be kept of a run can't be",
        "the folder of --artifacts can't be made, isn't this user's to write, or its disk is full",
        "the message names the file and the kernel's answer; name another folder. Before the start nothing runs yet; at the end the run itself was carried out";
    "ADIT-A081":
        "a workload ended before the test began",
        "a test begins when everything beside it is ready, and this workload ended with an error and isn't started again (restartPolicy)",
        "its own last lines, on the terminal or in logs/ of --artifacts, say why it ended; one that does its work and ends must end with status 0";
    "ADIT-A082":
        "the mesh was stopped under the test",
        "somebody ran `adit down` while `adit up --once` was running",
        "run it again";
    "ADIT-A083":
        "there is no test to run",
        "--once was given without a name, and the mesh file has no `test`",
        "write `test: NAMESPACE/NAME` into the mesh file, or name the workload after --once";
    "ADIT-A084":
        "the test took longer than --timeout",
        "it hangs, or what it needs isn't ready: the message says which. The time counts from the start of everything",
        "its last lines and the flows that policy denied are in junit.xml of --artifacts; give it more time if that's all it needs";
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_code_is_there_once_and_says_everything() {
        let all = all();
        assert!(
            all.windows(2).all(|pair| pair[0].code < pair[1].code),
            "a code is there twice"
        );
        for code in all {
            assert!(
                ![code.summary, code.cause, code.fix].contains(&""),
                "{}",
                code.code
            );
            assert_eq!(find(&code.code.to_ascii_lowercase()), Some(code.clone()));
            assert_eq!(find(&code.code[5..]), Some(code));
        }
        assert_eq!(find("ADIT-Z999"), None);
    }

    #[test]
    fn every_code_in_the_sources_is_explained() {
        let mut used = BTreeSet::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut used);
        let unexplained: Vec<_> = used.iter().filter(|code| find(code).is_none()).collect();
        assert!(unexplained.is_empty(), "{unexplained:?}");
        let unused: Vec<_> = AGENT
            .iter()
            .filter(|code| !used.contains(code.code))
            .map(|code| code.code)
            .collect();
        assert!(unused.is_empty(), "{unused:?}");
    }

    /// What people read of codes elsewhere is true of this build.
    #[test]
    fn every_code_in_the_documentation_is_explained() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let texts = [root.clone(), root.join("docs"), root.join("docs/adr")]
            .into_iter()
            .flat_map(|folder| {
                std::fs::read_dir(folder)
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
            })
            .filter(|path| path.extension().is_some_and(|end| end == "md"))
            .map(|path| std::fs::read_to_string(path).unwrap());
        let mut named = BTreeSet::new();
        for text in texts {
            for (at, _) in text.match_indices("ADIT-") {
                let code = text.get(at..at + "ADIT-A001".len()).unwrap_or_default();
                let digits = code.get(6..).filter(|digits| digits.len() == 3);
                if digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) {
                    named.insert(code.to_owned());
                }
            }
        }
        assert!(named.len() > 40, "{named:?}");
        let unexplained: Vec<_> = named.iter().filter(|code| find(code).is_none()).collect();
        assert!(unexplained.is_empty(), "{unexplained:?}");
    }

    /// The codes that the sources below `folder` mention, this table apart.
    fn collect(folder: &Path, used: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, used);
            } else if !path.ends_with("explain.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let codes = text
                    .match_indices("ADIT-A")
                    .filter_map(|(at, _)| text.get(at..at + 9));
                used.extend(
                    codes
                        .filter(|code| code[6..].bytes().all(|byte| byte.is_ascii_digit()))
                        .map(str::to_owned),
                );
            }
        }
    }
}
