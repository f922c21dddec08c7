//! A made-up cluster: namespaces of fifty pods, ten apps of five replicas each, and policies as such clusters have them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use adit_flow::{FourTuple, Protocol};
use adit_policy::objects::{Object, Reader, Reading};
use adit_policy::{Change, Flow};
use serde_json::{Value, json};

/// See the module.
pub(crate) struct Cluster {
    workloads: usize,
    policies: usize,
    kind: Kind,
}

/// What the policies of a cluster are like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The same number for every workload, however many there are.
    Even,
    /// All global, and all about everybody.
    Global,
    /// As clusters have them.
    Mixed,
}

const PODS_PER_NAMESPACE: usize = 50;
const APPS: usize = 10;
const TEAMS: usize = 20;

impl Cluster {
    /// Mostly namespaced policies, about the pods of one app each, with some for all.
    pub(crate) fn new(workloads: usize, policies: usize) -> Self {
        Self {
            workloads,
            policies,
            kind: Kind::Mixed,
        }
    }

    /// Nothing but global policies, each selecting every pod: the worst that can be written.
    pub(crate) fn global(workloads: usize, policies: usize) -> Self {
        Self {
            workloads,
            policies,
            kind: Kind::Global,
        }
    }

    /// Five policies for every workload, whether there are 100 in all, each about a team's 500 pods, 1,000, about a
    /// namespace's 50, or 10,000, about an app's 5. The policies of all sizes ask the same.
    pub(crate) fn even(workloads: usize, policies: usize) -> Self {
        Self {
            workloads,
            policies,
            kind: Kind::Even,
        }
    }

    fn namespaces(&self) -> usize {
        self.workloads.div_ceil(PODS_PER_NAMESPACE)
    }

    /// Everything in it.
    pub(crate) fn objects(&self) -> Vec<Object> {
        let mut values = Vec::new();
        for index in 0..self.namespaces() {
            let labels = json!({"env": (["prod", "test", "dev"][index % 3]), "team": format!("team-{}", index % TEAMS)});
            values.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(index), "labels": labels}}));
        }
        for index in 0..50 {
            values.push(
                json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
                "metadata": {"name": format!("feed-{index}"), "labels": {"feed": format!("f{}", index % 5)}},
                "spec": {"nets": [format!("198.51.{index}.0/24"), format!("192.0.2.{index}/32")]}}),
            );
        }
        values.extend((0..self.workloads).map(|index| self.pod(index, None)));
        values.extend((0..self.policies).map(|index| self.policy(index, 0)));
        read(values)
    }

    fn pod(&self, index: usize, changed: Option<usize>) -> Value {
        let app = index % APPS;
        let mut labels = json!({"app": format!("app-{app}"), "tier": (["front", "mid", "back"][app % 3]),
            "pod-template-hash": format!("h{}", index / PODS_PER_NAMESPACE * 31 + app), "version": "v1"});
        if let Some(change) = changed {
            labels["version"] = json!(format!("v{change}"));
        }
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p-{index}"), "namespace": namespace(index / PODS_PER_NAMESPACE), "labels": labels},
            "spec": {"serviceAccountName": format!("sa-{app}"), "containers": [{"name": "main", "ports": [
                {"name": "http", "containerPort": 8080}, {"name": "grpc", "containerPort": 9090}]}]},
            "status": {"podIP": address(index).to_string()}})
    }

    /// Policy `index`; `variant` changes what its first rule lets in.
    fn policy(&self, index: usize, variant: usize) -> Value {
        let port = 8080 + variant;
        let own = namespace(index % self.namespaces());
        let round = index / self.namespaces();
        let (app, peer) = (round % APPS, (round + 1 + index) % APPS);
        let name = format!("policy-{index}");
        if self.kind == Kind::Even {
            return self.even_policy(index, port);
        }
        if self.kind == Kind::Global {
            return json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name},
                "spec": {"order": index, "types": ["Ingress", "Egress"],
                    "ingress": [{"action": "Allow", "protocol": "TCP",
                        "source": {"selector": format!("app == 'app-{peer}'"), "namespaceSelector": format!("projectcalico.org/name == '{own}'")},
                        "destination": {"ports": [port + index % 500]}}],
                    "egress": [{"action": "Allow", "protocol": "TCP",
                        "destination": {"selector": format!("app == 'app-{peer}'"), "namespaceSelector": format!("projectcalico.org/name == '{own}'"),
                            "ports": [port + index % 500]}}]}});
        }
        match index % 20 {
            0..=11 => json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": own},
                "spec": {"podSelector": {"matchLabels": {"app": format!("app-{app}")}}, "policyTypes": ["Ingress", "Egress"],
                    "ingress": [
                        {"from": [{"podSelector": {"matchLabels": {"app": format!("app-{peer}")}}},
                                  {"namespaceSelector": {"matchLabels": {"team": format!("team-{}", index % 20)}}, "podSelector": {"matchLabels": {"tier": "front"}}}],
                         "ports": [{"port": port}, {"port": "grpc"}]},
                        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}], "ports": [{"protocol": "UDP", "port": 53}]}],
                    "egress": [{"to": [{"podSelector": {}}]}, {"to": [{"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "In", "values": ["prod", "test"]}]}}],
                        "ports": [{"port": 8080, "endPort": 8090}]}]}}),
            12..=16 => json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": own},
                "spec": {"order": index, "selector": format!("app == 'app-{app}' && has(version)"),
                    "ingress": [
                        {"action": "Deny", "source": {"selector": "feed == 'f1'", "namespaceSelector": "global()"}},
                        {"action": "Allow", "protocol": "TCP", "source": {"selector": format!("app in {{'app-{peer}', 'app-{app}'}}")}, "destination": {"ports": [port, "grpc"]}}]}}),
            17 => {
                json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name},
                "spec": {"order": index, "selector": format!("app == 'app-{app}'"), "namespaceSelector": format!("team == 'team-{}' && env == 'dev'", index % 20),
                    "egress": [{"action": "Deny", "destination": {"nets": ["198.51.100.0/24"]}}, {"action": "Pass"}]}})
            }
            18 => json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"name": name, "namespace": own},
                "spec": {"selector": {"matchLabels": {"app": format!("app-{app}")}}, "action": "ALLOW",
                    "rules": [{"from": [{"source": {"namespaces": [own, "ns-1*"]}}], "to": [{"operation": {"ports": ["8080", "9090"]}}]}]}}),
            _ => json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"name": name, "namespace": own},
                "spec": {"selector": {"matchLabels": {"app": format!("app-{app}")}}, "action": "DENY",
                    "rules": [{"from": [{"source": {"notPrincipals": ["cluster.local/*"]}}], "to": [{"operation": {"ports": ["9090"]}}]}]}}),
        }
    }

    fn even_policy(&self, index: usize, port: usize) -> Value {
        let groups = (self.policies / 5).max(1);
        let group = index % groups;
        let (team, selector, namespaces) = if groups >= self.namespaces() * APPS {
            let own = group / APPS;
            (
                own,
                format!("app == 'app-{}'", group % APPS),
                format!("projectcalico.org/name == '{}'", namespace(own)),
            )
        } else if groups >= self.namespaces() {
            (
                group,
                "all()".to_owned(),
                format!("projectcalico.org/name == '{}'", namespace(group)),
            )
        } else {
            (
                group,
                "all()".to_owned(),
                format!("team == 'team-{}'", group % TEAMS),
            )
        };
        let peer = json!({"selector": format!("app == 'app-{}'", (3 * team + index / groups) % APPS),
            "namespaceSelector": format!("team == 'team-{}'", team % TEAMS)});
        let mut service = peer.clone();
        service["ports"] = json!([port, "grpc"]);
        json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": format!("policy-{index}")},
            "spec": {"order": index, "selector": selector, "namespaceSelector": namespaces, "types": ["Ingress", "Egress"],
                "ingress": [
                    {"action": "Allow", "protocol": "TCP", "source": peer, "destination": {"ports": [port, "grpc"]}},
                    {"action": "Allow", "protocol": "UDP", "source": {"nets": ["10.0.0.0/12"]}, "destination": {"ports": [53]}}],
                "egress": [
                    {"action": "Allow", "protocol": "TCP", "destination": service},
                    {"action": "Allow", "protocol": "TCP",
                        "destination": {"namespaceSelector": "env in {'prod', 'test'}", "ports": ["8080:8090"]}}]}})
    }

    /// Flows between pods, half of them within a namespace, and one in ten from or to the outside.
    pub(crate) fn flows(&self, count: usize) -> Vec<Flow> {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut next = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap_or_default() % bound
        };
        (0..count)
            .map(|_| {
                let source = next(self.workloads);
                let neighbour = source / PODS_PER_NAMESPACE * PODS_PER_NAMESPACE + next(PODS_PER_NAMESPACE);
                let destination = if next(2) == 0 {
                    neighbour.min(self.workloads - 1)
                } else {
                    next(self.workloads)
                };
                let outside = IpAddr::V4(Ipv4Addr::new(
                    198,
                    51,
                    u8::try_from(next(256)).unwrap_or_default(),
                    7,
                ));
                let (from, to) = match next(20) {
                    0 => (outside, address(destination)),
                    1 => (address(source), outside),
                    _ => (address(source), address(destination)),
                };
                let port = [8080, 9090, 8085, 53, 443][next(5)];
                let protocol = if port == 53 { Protocol::Udp } else { Protocol::Tcp };
                let identity = format!(
                    "spiffe://cluster.local/ns/{}/sa/sa-{}",
                    namespace(source / PODS_PER_NAMESPACE),
                    source % APPS
                );
                let mut flow = Flow::plain(
                    FourTuple::new(SocketAddr::new(from, 40_000), SocketAddr::new(to, port)),
                    protocol,
                );
                flow.source_identity = identity.parse().ok().filter(|_| from != outside);
                flow
            })
            .collect()
    }

    /// Policies whose first rule is about another port.
    pub(crate) fn changed_rules(&self, count: usize) -> Vec<Change> {
        changes(
            (0..count)
                .map(|index| self.policy(index * 7 % self.policies, 1 + index))
                .collect(),
        )
    }

    /// Policies that weren't there.
    pub(crate) fn added_policies(&self, count: usize) -> Vec<Change> {
        changes(
            (0..count)
                .map(|index| self.policy(self.policies + index * 7, 0))
                .collect(),
        )
    }

    /// Policies that weren't there and select every pod.
    pub(crate) fn added_global_policies(&self, count: usize) -> Vec<Change> {
        let global = Self::global(self.workloads, self.policies);
        changes(
            (0..count)
                .map(|index| global.policy(2 * self.policies + 2_000 + index, 0))
                .collect(),
        )
    }

    /// Pods whose label changes.
    pub(crate) fn changed_labels(&self, count: usize) -> Vec<Change> {
        changes(
            (0..count)
                .map(|index| self.pod(index * 37 % self.workloads, Some(2 + index)))
                .collect(),
        )
    }
}

fn namespace(index: usize) -> String {
    format!("ns-{index}")
}

fn address(index: usize) -> IpAddr {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 1));
    IpAddr::V4((base + u32::try_from(index).expect("a small index")).into())
}

fn changes(values: Vec<Value>) -> Vec<Change> {
    read(values).into_iter().map(Change::Upsert).collect()
}

fn read(values: Vec<Value>) -> Vec<Object> {
    let mut reading = Reading::default();
    for value in values {
        Reader::default().read_value("bench", value, &mut reading);
    }
    assert!(reading.diagnostics.is_empty(), "{}", reading.diagnostics[0]);
    reading.objects
}
