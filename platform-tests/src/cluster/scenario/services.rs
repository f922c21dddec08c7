//! Every way to a server: its address, ClusterIP, NodePort, hostPort, headless names, DNS, and itself.

use std::collections::BTreeSet;

use serde_json::json;

use super::traffic::dial;
use crate::cluster::Namespace;
use crate::cluster::objects::{WEB_PORT, pod, service, shell, web};

const HOST_PORT: u16 = 18080;

/// A client on node 1, a server on each node, and the services for them.
///
/// # Panics
/// If one of the ways doesn't work, or a server sees another client than the true one.
pub fn services(namespace: &Namespace<'_>) {
    let mut servers = ["near", "far"].map(|name| pod(name, if name == "near" { 1 } else { 2 }, [web()]));
    for server in &mut servers {
        server["metadata"]["labels"]["app"] = "web".into();
        server["spec"]["subdomain"] = "web-each".into();
        server["spec"]["hostname"] = server["metadata"]["name"].clone();
    }
    servers[1]["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": WEB_PORT, "hostPort": HOST_PORT}]);
    let both = json!([
        {"name": "tcp", "port": 80, "targetPort": WEB_PORT},
        {"name": "udp", "port": 80, "targetPort": WEB_PORT, "protocol": "UDP"},
    ]);
    namespace.up([
        service("web", "web", 80, WEB_PORT, &json!({"ports": both})),
        service("web-node", "web", 80, WEB_PORT, &json!({"type": "NodePort"})),
        service(
            "web-each",
            "web",
            WEB_PORT,
            WEB_PORT,
            &json!({"clusterIP": "None"}),
        ),
        service("itself", "client", 80, WEB_PORT, &json!({})),
    ]);
    namespace.up(servers);
    namespace.up([pod("client", 1, [web(), shell()])]);
    by_address(namespace);
    by_cluster_ip(namespace);
    by_name(namespace);
    to_itself(namespace);
    from_outside(namespace);
}

fn by_address(namespace: &Namespace<'_>) {
    let client = namespace.address("client").to_string();
    for server in ["near", "far"] {
        let address = namespace.address(server).to_string();
        for protocol in ["http", "udp"] {
            let names = dial(namespace, "client", protocol, (&address, WEB_PORT), "hostname", 2);
            assert_eq!(names, [server, server], "{protocol} to {address}");
            let seen = dial(namespace, "client", protocol, (&address, WEB_PORT), "clientip", 1);
            assert!(
                seen[0].starts_with(&format!("{client}:")),
                "{server} saw {seen:?} in place of {client} over {protocol}"
            );
        }
    }
}

fn by_cluster_ip(namespace: &Namespace<'_>) {
    let jsonpath = ["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"];
    let address = namespace.kubectl(jsonpath).stdout();
    both_answer(namespace, &address, 80);
    let client = namespace.address("client").to_string();
    let seen = dial(namespace, "client", "http", (&address, 80), "clientip", 1);
    assert!(
        seen[0].starts_with(&format!("{client}:")),
        "through the ClusterIP {address} the server saw {seen:?} in place of {client}"
    );
    let udp = dial(namespace, "client", "udp", (&address, 80), "hostname", 1);
    assert!(["near", "far"].contains(&udp[0].as_str()), "{udp:?}");
}

fn by_name(namespace: &Namespace<'_>) {
    both_answer(namespace, "web", 80);
    both_answer(
        namespace,
        &format!("web.{}.svc.cluster.local", namespace.name()),
        80,
    );
    // Resolvers order a headless service's addresses, so that one of them may get every request.
    let headless = dial(namespace, "client", "http", ("web-each", WEB_PORT), "hostname", 1);
    assert!(["near", "far"].contains(&headless[0].as_str()), "{headless:?}");
    for server in ["near", "far"] {
        let name = format!("{server}.web-each");
        let names = dial(namespace, "client", "http", (&name, WEB_PORT), "hostname", 1);
        assert_eq!(names, [server], "{name}");
    }
}

/// Forty requests: that one of two servers answers all by chance is less likely than one in 10^11.
#[track_caller]
fn both_answer(namespace: &Namespace<'_>, host: &str, port: u16) {
    let names: BTreeSet<String> = dial(namespace, "client", "http", (host, port), "hostname", 40)
        .into_iter()
        .collect();
    assert_eq!(
        names,
        ["far", "near"].map(str::to_owned).into(),
        "who answered at {host}:{port}"
    );
}

fn to_itself(namespace: &Namespace<'_>) {
    let own = namespace.address("client").to_string();
    for (host, port) in [(own.as_str(), WEB_PORT), ("itself", 80)] {
        let names = dial(namespace, "client", "http", (host, port), "hostname", 3);
        assert_eq!(names, ["client"; 3], "itself at {host}:{port}");
    }
}

fn from_outside(namespace: &Namespace<'_>) {
    let cluster = namespace.cluster();
    let jsonpath = [
        "get",
        "service",
        "web-node",
        "-o",
        "jsonpath={.spec.ports[0].nodePort}",
    ];
    let node_port = namespace.kubectl(jsonpath).stdout();
    for node in [cluster.node(1), cluster.node(2)] {
        let url = format!("http://{}:{node_port}/hostname", node.address());
        let name = cluster
            .outside(["curl", "-sS", "--max-time", "10", &url])
            .stdout();
        assert!(["near", "far"].contains(&name.as_str()), "{url}: {name}");
    }
    let url = format!("http://{}:{HOST_PORT}/", cluster.node(2).address());
    let name = cluster.outside(["curl", "-sS", "--max-time", "10", &format!("{url}hostname")]);
    assert_eq!(name.stdout(), "far", "{url}");
    let seen = cluster
        .outside(["curl", "-sS", "--max-time", "10", &format!("{url}clientip")])
        .stdout();
    assert!(
        seen.starts_with("10.99.0.254:"),
        "through the hostPort the server saw {seen} in place of 10.99.0.254"
    );
}
