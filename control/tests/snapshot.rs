//! From a mesh file to what one node's agent sees.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use adit_control::{
    JoinError, JoinRequest, Location, Mesh, Owner, Reach, Snapshot, View, build, decode, parse,
};
use adit_flow::{Protocol, WorkloadName};

const MESH: &str = "
apiVersion: adit.dev/v1alpha1
kind: Mesh
name: shop
trustDomain: shop.local
nodes:
- {name: left, hbone: '192.0.2.1:15008'}
- {name: right, hbone: '192.0.2.2:15008'}
namespaces:
- {name: shop, labels: {team: a}}
workloads:
- {name: web, namespace: shop, nodeName: left, replicas: 3, serviceAccountName: web, labels: {app: web},
   command: [web], ports: [{name: http, containerPort: 8080}]}
- {name: canary, namespace: shop, nodeName: right, labels: {app: web}, command: [web],
   ports: [{name: http, containerPort: 9090}]}
- {name: none, namespace: shop, nodeName: right, replicas: 0, command: [none]}
services:
- {name: web, namespace: shop, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
- {name: peers, namespace: shop, selector: {app: web}, clusterIP: None}
";

fn mesh() -> Mesh {
    parse(Path::new("mesh.yaml"), MESH)
        .unwrap_or_else(|report| panic!("{report}"))
        .mesh
}

fn name(name: &str) -> WorkloadName {
    WorkloadName::new("shop", name)
}

fn view<'a>(node: &'a str, ready: &'a dyn Fn(&WorkloadName) -> bool) -> View<'a> {
    View {
        node: Some(node),
        ready,
        joined: &[],
        generation: 3,
    }
}

#[test]
fn an_address_of_the_ranges_that_nobody_has_is_the_meshs_all_the_same() {
    let snapshot = build(&mesh(), view("left", &|_| true));
    for unassigned in ["10.77.255.254", "10.78.255.254", "fd77:6164:6974:77::ffff"] {
        let owner = snapshot.owner(unassigned.parse().unwrap());
        assert!(
            matches!(owner, Some(Owner::Unassigned)),
            "{unassigned}: {owner:?}"
        );
    }
    for outside in ["10.79.0.1", "192.0.2.1", "fd77:6164:6974:79::1"] {
        assert!(snapshot.owner(outside.parse().unwrap()).is_none(), "{outside}");
    }
}

#[test]
fn each_node_sees_itself_as_local_and_the_same_addresses() {
    let mesh = mesh();
    let left = build(&mesh, view("left", &|_| true));
    let right = build(&mesh, view("right", &|_| true));
    assert_eq!(left.workloads.len(), 4);
    for (name, workload) in &left.workloads {
        assert_eq!(workload.addresses, right.workloads[name].addresses);
        assert_eq!(workload.is_local(), name.name.starts_with("web-"));
        assert_ne!(workload.is_local(), right.workloads[name].is_local());
    }
    let hbone: SocketAddr = "192.0.2.2:15008".parse().unwrap();
    assert_eq!(
        left.workloads[&name("canary")].location,
        Location::Remote {
            node: "right".into(),
            reach: Reach::Agent(hbone)
        }
    );
    assert_eq!(
        left.workloads[&name("web-0")].identity.to_string(),
        "spiffe://shop.local/ns/shop/sa/web"
    );
    assert_eq!(
        left.workloads[&name("canary")].identity.to_string(),
        "spiffe://shop.local/ns/shop/sa/default"
    );
    assert_eq!(left.namespaces["shop"]["kubernetes.io/metadata.name"], "shop");
    assert_eq!(left.generation, 3);
}

#[test]
fn services_lead_to_the_named_port_of_each_ready_workload() {
    let snapshot = build(&mesh(), view("left", &|name| name.name != "web-1"));
    let service = &snapshot.services[&name("web")];
    let behind: Vec<_> = (service.endpoints.iter())
        .map(|endpoint| (endpoint.workload.name.as_str(), endpoint.ready))
        .collect();
    let expected = [
        ("canary", true),
        ("web-0", true),
        ("web-1", false),
        ("web-2", true),
    ];
    assert_eq!(behind, expected);
    for address in &service.addresses {
        let endpoints = service
            .ready_endpoints(&snapshot, SocketAddr::new(*address, 80), Protocol::Tcp)
            .unwrap();
        let found: BTreeMap<String, u16> = endpoints
            .map(|(workload, target)| (workload.name.name.clone(), target.port()))
            .collect();
        let expected = [("canary", 9090), ("web-0", 8080), ("web-2", 8080)];
        assert_eq!(found, expected.map(|(name, port)| (name.to_owned(), port)).into());
        assert!(
            matches!(snapshot.owner(*address), Some(Owner::Service(owner)) if owner.name == service.name)
        );
    }
    assert!(snapshot.services[&name("peers")].addresses.is_empty());
    assert!(
        service
            .ready_endpoints(
                &snapshot,
                SocketAddr::new(service.addresses[0], 81),
                Protocol::Tcp
            )
            .is_none()
    );
}

#[test]
fn who_joins_has_an_address_of_its_own_on_each_node() {
    let mesh = mesh();
    let request = |text: &str| JoinRequest {
        name: text.parse().unwrap(),
        service_account: None,
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ports: Vec::new(),
    };
    let mut joined = Vec::new();
    for index in 0..20 {
        let next = mesh
            .join(Some("left"), &joined, request(&format!("shop/debug-{index}")))
            .unwrap();
        joined.push(next);
    }
    let elsewhere = mesh.join(Some("right"), &[], request("shop/debug-0")).unwrap();
    let snapshot: Snapshot = build(
        &mesh,
        View {
            joined: &joined,
            ..view("left", &|_| true)
        },
    );
    let all: Vec<IpAddr> = snapshot
        .workloads
        .values()
        .flat_map(|workload| workload.addresses.clone())
        .collect();
    let distinct: std::collections::BTreeSet<&IpAddr> = all.iter().chain(&elsewhere.addresses).collect();
    assert_eq!(distinct.len(), 2 * (4 + 20 + 1));
    assert!(snapshot.services[&name("web")].has_endpoint(&name("debug-7")));
    assert!(snapshot.workloads[&name("debug-7")].is_local());

    let refused = |text: &str| mesh.join(Some("left"), &joined, request(text)).unwrap_err();
    assert!(matches!(refused("shop/web-0"), JoinError::NameTaken { .. }));
    assert!(matches!(refused("shop/debug-3"), JoinError::NameTaken { .. }));
    assert!(matches!(refused("shop/De_bug"), JoinError::BadName { .. }));
    assert_eq!(
        refused("shpo/debug").to_string(),
        "joining as shpo/debug: the mesh has no namespace \"shpo\": expected one of: shop; did you mean `shop`?"
    );
}

#[test]
fn a_node_is_chosen_by_name() {
    let mesh = mesh();
    assert_eq!(
        mesh.choose_node(Some("left"))
            .unwrap()
            .map(|node| node.name.as_str()),
        Some("left")
    );
    assert_eq!(
        mesh.choose_node(None).unwrap_err().to_string(),
        "mesh \"shop\" runs on several nodes: choose one with --node (left, right)"
    );
    assert_eq!(
        mesh.choose_node(Some("lfet")).unwrap_err().to_string(),
        "mesh \"shop\" has no node \"lfet\": expected one of: left, right; did you mean `left`?"
    );
    assert_eq!(mesh.replicas_on(Some("left")).count(), 3);
    assert_eq!(mesh.replicas_on(Some("right")).count(), 1);
}

/// What is written from a file's value means what the file meant.
#[test]
fn a_file_survives_being_written_and_read() {
    let path = Path::new("mesh.yaml");
    let file = decode(path, MESH).unwrap_or_else(|report| panic!("{report}"));
    let again = parse(path, &file.to_json()).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(again.mesh, mesh());
}

#[test]
fn a_label_takes_a_workload_out_of_the_mesh_and_its_own_comes_before_its_namespaces() {
    let in_mesh = |namespace: &str, workload: &str| {
        let text = MESH
            .replace("labels: {team: a}", &format!("labels: {{{namespace}}}"))
            .replace(
                "serviceAccountName: web, labels: {app: web}",
                &format!("labels: {{app: web{workload}}}"),
            );
        let mesh = parse(Path::new("mesh.yaml"), &text)
            .unwrap_or_else(|report| panic!("{report}"))
            .mesh;
        build(&mesh, view("left", &|_| true)).workloads[&name("web-0")].in_mesh
    };
    let (none, ambient) = (
        "istio.io/dataplane-mode: none",
        "istio.io/dataplane-mode: ambient",
    );
    let own = |label: &str| format!(", {label}");
    assert!(in_mesh("team: a", ""), "who is in the file is in the mesh");
    assert!(!in_mesh("team: a", &own(none)));
    assert!(!in_mesh(none, ""));
    assert!(in_mesh(none, &own(ambient)));
    assert!(!in_mesh(ambient, &own(none)));
}
