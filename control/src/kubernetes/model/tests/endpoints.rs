use std::net::SocketAddr;

use adit_flow::Protocol;

use super::*;
use crate::snapshot::TargetPort;

/// A service with one port, 80, named `http`.
fn service(text: &str, cluster_ips: &[&str]) -> Value {
    let name = name(text);
    json!({
        "metadata": {"namespace": name.namespace, "name": name.name},
        "spec": {
            "clusterIP": cluster_ips.first(),
            "clusterIPs": cluster_ips,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    })
}

/// A slice of a service with its one port at `number`.
fn slice(text: &str, of: &str, number: u16, endpoints: Value) -> Value {
    let name = name(text);
    json!({
        "metadata": {"namespace": name.namespace, "name": name.name, "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": number, "protocol": "TCP"}],
    })
}

fn of_pod(address: &str, pod: &str, conditions: Value) -> Value {
    json!({
        "addresses": [address],
        "conditions": conditions,
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod},
        "nodeName": HERE,
    })
}

fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

/// Two pods behind a service.
fn two() -> World {
    let mut world = World::with_nodes();
    world.put("pods", pod("shop/a", HERE, &["10.244.0.7"]));
    world.put("pods", pod("shop/b", "far", &["10.244.1.7"]));
    world.put("services", service("shop/web", &["10.96.0.9"]));
    world.put(
        "endpointslices.discovery.k8s.io",
        slice(
            "shop/web-1",
            "web",
            8080,
            json!([
                of_pod("10.244.0.7", "a", ready()),
                of_pod("10.244.1.7", "b", ready()),
            ]),
        ),
    );
    world
}

fn put_slice(world: &mut World, object: Value) -> bool {
    world.put("endpointslices.discovery.k8s.io", object)
}

/// Where flows to port 80 of the service may go.
fn leads_to(world: &mut World, text: &str) -> Vec<String> {
    let snapshot = world.model.state().snapshot;
    let service = &snapshot.services[&name(text)];
    let dialled = SocketAddr::new(service.addresses[0], 80);
    let endpoints = service
        .ready_endpoints(&snapshot, dialled, Protocol::Tcp)
        .unwrap();
    endpoints
        .map(|(workload, address)| format!("{} {address}", workload.name))
        .collect()
}

fn outside(world: &mut World, text: &str) -> Vec<String> {
    let service = world.service(text);
    service.ports[0].outside.iter().map(ToString::to_string).collect()
}

#[test]
fn a_service_leads_to_the_workloads_of_its_slices() {
    let mut world = two();
    assert_eq!(
        leads_to(&mut world, "shop/web"),
        ["shop/a 10.244.0.7:8080", "shop/b 10.244.1.7:8080"]
    );
    assert_eq!(outside(&mut world, "shop/web"), [""; 0]);
    let service = world.service("shop/web");
    assert_eq!(service.ports[0].target, TargetPort::Number(8080));
    assert!(service.has_endpoint(&name("shop/a")) && !service.has_endpoint(&name("shop/c")));
}

#[test]
fn endpoints_that_are_not_ready_are_known_and_not_led_to() {
    let mut world = two();
    put_slice(
        &mut world,
        slice(
            "shop/web-1",
            "web",
            8080,
            json!([
                of_pod(
                    "10.244.0.7",
                    "a",
                    json!({"ready": false, "serving": false, "terminating": false})
                ),
                of_pod("10.244.1.7", "b", ready()),
            ]),
        ),
    );
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/b 10.244.1.7:8080"]);
    assert!(world.service("shop/web").has_endpoint(&name("shop/a")));
}

#[test]
fn who_is_ready_is_the_slices_word() {
    // `publishNotReadyAddresses` has unready pods be ready endpoints; no conditions at all mean ready.
    let mut world = two();
    world.put(
        "pods",
        with(
            pod("shop/a", HERE, &["10.244.0.7"]),
            "/status/conditions/0/status",
            json!("False"),
        ),
    );
    assert!(!world.workload("shop/a").unwrap().ready);
    put_slice(
        &mut world,
        slice(
            "shop/web-1",
            "web",
            8080,
            json!([of_pod("10.244.0.7", "a", json!({}))]),
        ),
    );
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/a 10.244.0.7:8080"]);
}

#[test]
fn who_is_on_its_way_out_serves_when_nobody_else_does() {
    let leaving = || json!({"ready": false, "serving": true, "terminating": true});
    let stopped = || json!({"ready": false, "serving": false, "terminating": true});
    let mut world = two();
    let endpoints = json!([
        of_pod("10.244.0.7", "a", leaving()),
        of_pod("10.244.1.7", "b", ready())
    ]);
    put_slice(&mut world, slice("shop/web-1", "web", 8080, endpoints));
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/b 10.244.1.7:8080"]);
    let endpoints = json!([
        of_pod("10.244.0.7", "a", leaving()),
        of_pod("10.244.1.7", "b", stopped())
    ]);
    put_slice(&mut world, slice("shop/web-1", "web", 8080, endpoints));
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/a 10.244.0.7:8080"]);
}

#[test]
fn a_port_may_be_another_number_on_each_workload() {
    let mut world = two();
    put_slice(
        &mut world,
        slice(
            "shop/web-1",
            "web",
            8080,
            json!([of_pod("10.244.0.7", "a", ready())]),
        ),
    );
    put_slice(
        &mut world,
        slice(
            "shop/web-2",
            "web",
            9090,
            json!([of_pod("10.244.1.7", "b", ready())]),
        ),
    );
    assert_eq!(
        leads_to(&mut world, "shop/web"),
        ["shop/a 10.244.0.7:8080", "shop/b 10.244.1.7:9090"]
    );
    // One that doesn't have the port at all isn't led to.
    let other = with(
        slice(
            "shop/web-2",
            "web",
            9090,
            json!([of_pod("10.244.1.7", "b", ready())]),
        ),
        "/ports/0/name",
        json!("admin"),
    );
    put_slice(&mut world, other);
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/a 10.244.0.7:8080"]);
    assert!(world.service("shop/web").has_endpoint(&name("shop/b")));
}

#[test]
fn ports_of_one_number_and_two_protocols_are_two() {
    let mut world = two();
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    world.put(
        "services",
        with(service("shop/dns", &["10.96.0.10"]), "/spec/ports", ports),
    );
    let ports = json!([
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 5454, "protocol": "TCP"},
    ]);
    let endpoints = json!([of_pod("10.244.0.7", "a", ready())]);
    put_slice(
        &mut world,
        with(slice("shop/dns-1", "dns", 0, endpoints), "/ports", ports),
    );
    let service = world.service("shop/dns");
    let targets: Vec<_> = service
        .ports
        .iter()
        .map(|port| (port.protocol, port.target.clone()))
        .collect();
    assert_eq!(
        targets,
        [
            (Protocol::Udp, TargetPort::Number(5353)),
            (Protocol::Tcp, TargetPort::Number(5454))
        ]
    );
}

#[test]
fn endpoints_that_are_no_workloads_are_outside() {
    let mut world = two();
    world.put(
        "pods",
        with(
            pod("shop/host", HERE, &["192.0.2.1"]),
            "/spec/hostNetwork",
            json!(true),
        ),
    );
    // The API server's own service, and others by hand: no pod is named.
    put_slice(
        &mut world,
        slice(
            "shop/web-1",
            "web",
            6443,
            json!([
                {"addresses": ["192.0.2.250"], "conditions": {"ready": true}},
                {"addresses": ["192.0.2.251"], "conditions": {"ready": false}},
                of_pod("192.0.2.1", "host", ready()),
                of_pod("10.244.0.7", "a", ready()),
            ]),
        ),
    );
    assert_eq!(
        outside(&mut world, "shop/web"),
        ["192.0.2.1:6443", "192.0.2.250:6443"]
    );
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/a 10.244.0.7:6443"]);
}

#[test]
fn an_address_written_by_hand_may_be_a_pods() {
    let mut world = two();
    put_slice(
        &mut world,
        slice("shop/web-1", "web", 8080, json!([{"addresses": ["10.244.0.9"]}])),
    );
    assert_eq!(outside(&mut world, "shop/web"), ["10.244.0.9:8080"]);
    world.put("pods", pod("bank/c", HERE, &["10.244.0.9"]));
    assert_eq!(outside(&mut world, "shop/web"), [""; 0]);
    assert_eq!(leads_to(&mut world, "shop/web"), ["bank/c 10.244.0.9:8080"]);
    world.delete("pods", "bank/c");
    assert_eq!(outside(&mut world, "shop/web"), ["10.244.0.9:8080"]);
}

#[test]
fn an_endpoint_whose_pod_is_not_known_yet_is_nobody() {
    let mut world = two();
    put_slice(
        &mut world,
        slice(
            "shop/web-1",
            "web",
            8080,
            json!([of_pod("10.244.0.8", "c", ready())]),
        ),
    );
    assert_eq!(leads_to(&mut world, "shop/web"), [""; 0]);
    assert_eq!(
        outside(&mut world, "shop/web"),
        [""; 0],
        "it isn't taken for a host"
    );
    world.put("pods", pod("shop/c", HERE, &["10.244.0.8"]));
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/c 10.244.0.8:8080"]);
    // The pod came back with another address, and the slice is behind.
    world.put("pods", pod("shop/c", HERE, &["10.244.0.88"]));
    assert_eq!(leads_to(&mut world, "shop/web"), [""; 0]);
    assert_eq!(outside(&mut world, "shop/web"), [""; 0]);
}

#[test]
fn internal_traffic_policy_local_leads_to_this_node_alone() {
    let mut world = two();
    world.put(
        "services",
        with(
            service("shop/web", &["10.96.0.9"]),
            "/spec/internalTrafficPolicy",
            json!("Local"),
        ),
    );
    let far = with(of_pod("10.244.1.7", "b", ready()), "/nodeName", json!("far"));
    put_slice(
        &mut world,
        slice(
            "shop/web-1",
            "web",
            8080,
            json!([of_pod("10.244.0.7", "a", ready()), far]),
        ),
    );
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/a 10.244.0.7:8080"]);
}

#[test]
fn services_of_both_ip_versions_lead_to_the_same_workloads() {
    let mut world = World::with_nodes();
    world.put("pods", pod("shop/a", HERE, &["10.244.0.7", "fd00::7"]));
    world.put("services", service("shop/web", &["10.96.0.9", "fd00:96::9"]));
    put_slice(
        &mut world,
        slice(
            "shop/web-4",
            "web",
            8080,
            json!([of_pod("10.244.0.7", "a", ready())]),
        ),
    );
    let v6 = slice(
        "shop/web-6",
        "web",
        8080,
        json!([of_pod("fd00::7", "a", ready())]),
    );
    put_slice(&mut world, with(v6, "/addressType", json!("IPv6")));
    let snapshot = world.model.state().snapshot;
    let service = &snapshot.services[&name("shop/web")];
    assert_eq!(service.endpoints.len(), 1);
    for (dialled, expected) in [
        ("10.96.0.9:80", "10.244.0.7:8080"),
        ("[fd00:96::9]:80", "[fd00::7]:8080"),
    ] {
        let found: Vec<_> = service
            .ready_endpoints(&snapshot, dialled.parse().unwrap(), Protocol::Tcp)
            .unwrap()
            .collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, expected.parse().unwrap());
    }
}

#[test]
fn headless_services_have_endpoints_and_no_address() {
    let mut world = two();
    world.put("services", service("shop/web", &["None"]));
    let service = world.service("shop/web");
    assert!(service.addresses.is_empty());
    assert_eq!(service.endpoints.len(), 2);
}

#[test]
fn what_is_no_service_and_no_slice() {
    let mut world = two();
    assert!(world.put(
        "services",
        with(service("shop/web", &[]), "/spec/type", json!("ExternalName"))
    ));
    assert!(world.model.state().snapshot.services.is_empty());
    let unnamed = with(
        slice("shop/x", "web", 1, json!([])),
        "/metadata/labels",
        json!({}),
    );
    assert!(!put_slice(&mut world, unnamed));
    let names = with(
        slice("shop/x", "web", 1, json!([{"addresses": ["example.com"]}])),
        "/addressType",
        json!("FQDN"),
    );
    assert!(!put_slice(&mut world, names));
}

#[test]
fn slices_come_before_their_service_or_move_to_another() {
    let mut world = two();
    put_slice(
        &mut world,
        slice(
            "shop/other-1",
            "other",
            7070,
            json!([of_pod("10.244.0.7", "a", ready())]),
        ),
    );
    world.put("services", service("shop/other", &["10.96.0.10"]));
    assert_eq!(leads_to(&mut world, "shop/other"), ["shop/a 10.244.0.7:7070"]);
    put_slice(
        &mut world,
        slice(
            "shop/other-1",
            "web",
            7070,
            json!([of_pod("10.244.0.7", "a", ready())]),
        ),
    );
    assert_eq!(leads_to(&mut world, "shop/other"), [""; 0]);
    world.delete("endpointslices.discovery.k8s.io", "shop/web-1");
    assert_eq!(leads_to(&mut world, "shop/web"), ["shop/a 10.244.0.7:7070"]);
}

#[test]
fn a_service_that_did_not_change_is_the_same_one() {
    let mut world = two();
    let before = world.service("shop/web");
    world.put("pods", pod("bank/c", HERE, &["10.244.0.9"]));
    world.put(
        "pods",
        with(
            pod("shop/a", HERE, &["10.244.0.7"]),
            "/metadata/labels",
            json!({"app": "new"}),
        ),
    );
    assert!(Arc::ptr_eq(&before, &world.service("shop/web")));
    world.delete("services", "shop/web");
    assert!(world.model.state().snapshot.services.is_empty());
}
