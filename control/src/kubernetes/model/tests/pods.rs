use std::net::IpAddr;

use super::*;
use crate::kubernetes::object::Capability;
use crate::snapshot::{Location, Reach};

const REDIRECTION: &str = "/metadata/annotations/ambient.istio.io~1redirection";
const HBONE_PORT: &str = "/metadata/annotations/adit.dev~1hbone-port";

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_pod_is_a_workload_with_what_it_says_of_itself() {
    let mut world = World::with_nodes();
    assert!(world.put("pods", pod("shop/web-1", HERE, &["fd00::7", "10.244.0.7"])));
    let workload = world.workload("shop/web-1").unwrap();
    assert_eq!(
        workload.identity.to_string(),
        "spiffe://demo.local/ns/shop/sa/web"
    );
    assert_eq!(workload.labels["app"], "web");
    assert_eq!(
        workload.addresses,
        addresses(&["10.244.0.7", "fd00::7"]),
        "IPv4 first"
    );
    assert_eq!(workload.ports[0].name.as_deref(), Some("http"));
    assert_eq!(workload.ports[0].number, 8080);
    assert_eq!(workload.location, Location::Local);
    assert!(workload.ready);
    assert_eq!(*workload.node_addresses, addresses(&["192.0.2.1", "10.244.0.1"]));
    let state = world.model.state();
    for address in &workload.addresses {
        assert_eq!(state.snapshot.workload_at(*address).unwrap().name, workload.name);
    }
    assert!(
        state.snapshot.owner("10.244.0.99".parse().unwrap()).is_none(),
        "nobody's, so not the mesh's"
    );
}

#[test]
fn what_is_no_workload() {
    let plain = || pod("shop/web-1", HERE, &["10.244.0.7"]);
    let cases = [
        (
            "on its host's network",
            with(plain(), "/spec/hostNetwork", json!(true)),
        ),
        ("not on a node yet", with(plain(), "/spec/nodeName", Value::Null)),
        ("without an address", pod("shop/web-1", HERE, &[])),
        ("ended", with(plain(), "/status/phase", json!("Succeeded"))),
        ("failed", with(plain(), "/status/phase", json!("Failed"))),
    ];
    for (case, object) in cases {
        let mut world = World::with_nodes();
        world.put("pods", plain());
        assert!(world.workload("shop/web-1").is_some());
        assert!(world.put("pods", object), "{case}");
        assert!(world.workload("shop/web-1").is_none(), "{case}");
        assert_eq!(world.wanted(), [""; 0], "{case}");
        let address = "10.244.0.7".parse().unwrap();
        assert!(world.model.state().snapshot.owner(address).is_none(), "{case}");
    }
}

#[test]
fn defaults_are_those_of_the_api() {
    let mut world = World::with_nodes();
    let object = with(
        pod("shop/a", HERE, &["10.244.0.7"]),
        "/spec/serviceAccountName",
        Value::Null,
    );
    let object = with(object, "/spec/containers/0/ports/0/protocol", Value::Null);
    let object = with(object, "/status/podIPs", Value::Null);
    let object = with(object, "/metadata/labels", Value::Null);
    let object = with(object, "/status/conditions", Value::Null);
    world.put("pods", object);
    let workload = world.workload("shop/a").unwrap();
    assert_eq!(workload.identity.service_account(), "default");
    assert_eq!(workload.ports[0].protocol, adit_flow::Protocol::Tcp);
    assert_eq!(workload.addresses, addresses(&["10.244.0.7"]));
    assert!(workload.labels.is_empty() && !workload.ready);
}

#[test]
fn ports_of_sidecar_containers_count_and_those_of_init_containers_do_not() {
    let container = |name: &str, port: u16| json!({"ports": [{"name": name, "containerPort": port}]});
    let sidecar = with(container("metrics", 9090), "/restartPolicy", json!("Always"));
    let init = json!([container("setup", 1), sidecar]);
    let mut world = World::with_nodes();
    world.put(
        "pods",
        with(pod("shop/a", HERE, &["10.244.0.7"]), "/spec/initContainers", init),
    );
    let workload = world.workload("shop/a").unwrap();
    let numbers: Vec<u16> = workload.ports.iter().map(|port| port.number).collect();
    assert_eq!(numbers, [9090, 8080]);
}

#[test]
fn a_pod_elsewhere_is_reached_as_it_says() {
    let plain = || pod("shop/a", "far", &["10.244.1.7"]);
    let enabled = || with(plain(), REDIRECTION, json!("enabled"));
    let original = || with(enabled(), HBONE_PORT, json!("original"));
    let cases = [
        (plain(), Reach::Plain),
        (enabled(), Reach::Port15008),
        (original(), Reach::OriginalPort),
        // Neither what isn't enabled, nor a word that isn't known.
        (with(plain(), HBONE_PORT, json!("original")), Reach::Plain),
        (with(enabled(), HBONE_PORT, json!("odd")), Reach::Port15008),
        (with(original(), REDIRECTION, json!("disabled")), Reach::Plain),
    ];
    for (object, reach) in cases {
        let mut world = World::with_nodes();
        world.put("pods", object.clone());
        let workload = world.workload("shop/a").unwrap();
        let node = "far".into();
        assert_eq!(workload.location, Location::Remote { node, reach }, "{object}");
        assert_eq!(workload.in_mesh, reach != Reach::Plain, "{object}");
    }
}

#[test]
fn a_pod_here_is_in_the_mesh_when_it_was_captured_whatever_it_says() {
    let mut world = World::with_nodes();
    let says_so = with(
        pod("shop/a", HERE, &["10.244.0.7"]),
        REDIRECTION,
        json!("enabled"),
    );
    world.put("pods", says_so);
    assert!(!world.workload("shop/a").unwrap().in_mesh);
    assert_eq!(
        world.model.state().wanted[0].capability,
        Capability::Hbone,
        "what an earlier agent left"
    );
    assert!(world.model.set_captured(["uid-a".into()].into()));
    assert!(world.workload("shop/a").unwrap().in_mesh);
    assert!(!world.model.set_captured(["uid-a".into()].into()), "no change");
    // Another pod of the same name isn't captured because the first was.
    world.put(
        "pods",
        with(
            pod("shop/a", HERE, &["10.244.0.7"]),
            "/metadata/uid",
            json!("other"),
        ),
    );
    assert!(!world.workload("shop/a").unwrap().in_mesh);
}

#[test]
fn who_belongs_in_the_mesh() {
    let ambient = || json!("ambient");
    let none = || json!("none");
    let odd = || json!("sidecar");
    let cases = [
        (Value::Null, Value::Null, false),
        (ambient(), Value::Null, true),
        (none(), Value::Null, false),
        (Value::Null, ambient(), true),
        (ambient(), none(), false),
        (none(), ambient(), true),
        (ambient(), odd(), true),
        (odd(), Value::Null, false),
    ];
    for (of_namespace, of_pod, expected) in cases {
        let mut world = World::new();
        world.put(
            "namespaces",
            namespace(
                "shop",
                json!({"istio.io/dataplane-mode": of_namespace}).take_nulls(),
            ),
        );
        let labels = json!({"istio.io/dataplane-mode": of_pod}).take_nulls();
        world.put(
            "pods",
            with(
                pod("shop/a", HERE, &["10.0.0.1"]),
                "/metadata/labels",
                labels.clone(),
            ),
        );
        world.put(
            "pods",
            with(pod("shop/b", "far", &["10.0.0.2"]), "/metadata/labels", labels),
        );
        let expected: &[&str] = if expected { &["shop/a"] } else { &[] };
        assert_eq!(world.wanted(), expected, "{of_namespace} {of_pod}");
    }
}

trait TakeNulls {
    fn take_nulls(self) -> Self;
}

impl TakeNulls for Value {
    /// Without the keys that have no value.
    fn take_nulls(mut self) -> Self {
        self.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self
    }
}

#[test]
fn a_pod_with_a_proxy_of_its_own_is_not_wanted() {
    let mut world = World::with_nodes();
    let status = json!({"sidecar.istio.io/status": "{}"});
    world.put(
        "pods",
        with(
            pod("shop/a", HERE, &["10.244.0.7"]),
            "/metadata/annotations",
            status,
        ),
    );
    assert_eq!(world.wanted(), [""; 0]);
}

#[test]
fn a_label_on_the_namespace_takes_pods_in_and_out() {
    let mut world = World::new();
    world.put("pods", pod("shop/a", HERE, &["10.0.0.1"]));
    assert_eq!(
        world.wanted(),
        [""; 0],
        "a namespace that isn't known has no label"
    );
    assert!(world.put(
        "namespaces",
        namespace("shop", json!({"istio.io/dataplane-mode": "ambient"}))
    ));
    assert_eq!(world.wanted(), ["shop/a"]);
    assert!(world.put("namespaces", namespace("shop", json!({}))));
    assert_eq!(world.wanted(), [""; 0]);
}

#[test]
fn what_changed_in_nothing_that_matters_changes_nothing() {
    let mut world = World::with_nodes();
    world.put("pods", pod("shop/a", HERE, &["10.244.0.7"]));
    let before = world.workload("shop/a").unwrap();
    assert!(!world.put(
        "pods",
        with(
            pod("shop/a", HERE, &["10.244.0.7"]),
            "/metadata/resourceVersion",
            json!("9")
        )
    ));
    assert!(!world.put(
        "nodes",
        with(
            node(HERE, &["192.0.2.1"], &["10.244.0.0/24"]),
            "/status/images",
            json!([1])
        )
    ));
    assert!(!world.list("pods", &[pod("shop/a", HERE, &["10.244.0.7"])]));
    assert!(Arc::ptr_eq(&before, &world.workload("shop/a").unwrap()));
    assert!(!world.delete("pods", "shop/unheard-of"));
}

#[test]
fn replicas_share_their_labels() {
    let mut world = World::with_nodes();
    world.put("pods", pod("shop/a", HERE, &["10.244.0.7"]));
    world.put("pods", pod("shop/b", HERE, &["10.244.0.8"]));
    let (a, b) = (
        world.workload("shop/a").unwrap(),
        world.workload("shop/b").unwrap(),
    );
    assert!(Arc::ptr_eq(&a.labels, &b.labels));
    assert!(Arc::ptr_eq(&a.node_addresses, &b.node_addresses));
}

#[test]
fn a_node_that_comes_later_or_changes_is_known_to_its_pods() {
    let mut world = World::new();
    world.put("pods", pod("shop/a", HERE, &["10.244.0.7"]));
    assert!(world.workload("shop/a").unwrap().node_addresses.is_empty());
    assert!(world.put("nodes", node(HERE, &["192.0.2.1", "2001:db8::1"], &[])));
    let known = world.workload("shop/a").unwrap().node_addresses.to_vec();
    assert_eq!(known, addresses(&["192.0.2.1", "2001:db8::1"]));
    assert!(world.put("nodes", node(HERE, &["192.0.2.9"], &[])));
    assert_eq!(
        *world.workload("shop/a").unwrap().node_addresses,
        addresses(&["192.0.2.9"])
    );
    assert!(world.delete("nodes", HERE));
    assert!(world.workload("shop/a").unwrap().node_addresses.is_empty());
}

#[test]
fn ciliums_own_interface_is_the_nodes() {
    let mut world = World::new();
    let annotated = with(
        node(HERE, &["192.0.2.1"], &[]),
        "/metadata/annotations",
        json!({
            "network.cilium.io/ipv4-cilium-host": "10.0.0.200",
        }),
    );
    world.put("nodes", annotated);
    world.put("pods", pod("shop/a", HERE, &["10.0.0.1"]));
    assert_eq!(
        *world.workload("shop/a").unwrap().node_addresses,
        addresses(&["192.0.2.1", "10.0.0.200"])
    );
}

#[test]
fn an_address_that_a_pod_has_is_not_the_nodes() {
    let mut world = World::with_nodes();
    world.put("pods", pod("shop/a", HERE, &["10.244.0.7"]));
    let of_node = |world: &mut World| world.workload("shop/a").unwrap().node_addresses.to_vec();
    assert_eq!(of_node(&mut world), addresses(&["192.0.2.1", "10.244.0.1"]));
    world.put("pods", pod("evil/first", "far", &["10.244.0.1"]));
    assert_eq!(of_node(&mut world), addresses(&["192.0.2.1"]));
    world.delete("pods", "evil/first");
    assert_eq!(of_node(&mut world), addresses(&["192.0.2.1", "10.244.0.1"]));
}

#[test]
fn an_address_is_the_new_pods_while_the_old_one_leaves() {
    let leaving = || {
        with(
            pod("shop/z-old", HERE, &["10.244.0.7"]),
            "/metadata/deletionTimestamp",
            json!("2026-01-01T00:00:00Z"),
        )
    };
    let owner = |world: &mut World| {
        let state = world.model.state();
        let owner = state.snapshot.workload_at("10.244.0.7".parse().unwrap());
        owner.map(|workload| workload.name.name.clone())
    };
    // In whichever order it's heard of.
    for new_first in [false, true] {
        let mut world = World::with_nodes();
        world.put("pods", pod("shop/z-old", HERE, &["10.244.0.7"]));
        if new_first {
            world.put("pods", pod("shop/new", HERE, &["10.244.0.7"]));
            world.put("pods", leaving());
        } else {
            world.put("pods", leaving());
            assert_eq!(owner(&mut world).as_deref(), Some("z-old"), "it still serves");
            world.put("pods", pod("shop/new", HERE, &["10.244.0.7"]));
        }
        assert_eq!(owner(&mut world).as_deref(), Some("new"));
        assert!(world.workload("shop/z-old").is_none(), "its address is another's");
        assert_eq!(world.wanted(), ["shop/new"]);
        world.delete("pods", "shop/z-old");
        assert_eq!(owner(&mut world).as_deref(), Some("new"));
    }
}

#[test]
fn an_address_goes_back_to_who_still_has_it() {
    let mut world = World::with_nodes();
    world.put("pods", pod("shop/a", HERE, &["10.244.0.7"]));
    world.put("pods", pod("shop/b", HERE, &["10.244.0.7"]));
    assert!(world.workload("shop/a").is_none() && world.workload("shop/b").is_some());
    world.delete("pods", "shop/b");
    assert!(world.workload("shop/a").is_some());
}

#[test]
fn a_list_is_all_that_there_is_of_its_kind() {
    let mut world = World::with_nodes();
    world.put("pods", pod("shop/a", HERE, &["10.244.0.7"]));
    world.put("pods", pod("shop/b", HERE, &["10.244.0.8"]));
    assert!(world.list(
        "pods",
        &[
            pod("shop/b", HERE, &["10.244.0.8"]),
            pod("shop/c", HERE, &["10.244.0.9"])
        ]
    ));
    assert!(world.workload("shop/a").is_none());
    assert!(world.workload("shop/b").is_some() && world.workload("shop/c").is_some());
    assert_eq!(
        world.workload("shop/b").unwrap().node_addresses.len(),
        2,
        "nodes are another kind"
    );
    assert!(world.list("namespaces", &[]) && world.list("nodes", &[]) && world.list("pods", &[]));
    let state = world.model.state();
    assert!(state.snapshot.namespaces.is_empty() && state.snapshot.workloads.is_empty());
}

#[test]
fn generations_rise() {
    let mut world = World::new();
    assert_eq!(world.model.state().snapshot.generation, 1);
    assert_eq!(world.model.state().snapshot.generation, 2);
}
