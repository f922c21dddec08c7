//! What others see of the traffic of two pods.

use std::net::{IpAddr, SocketAddr};

use super::traffic::dial;
use crate::cluster::objects::{WEB_PORT, pod, shell, web};
use crate::cluster::{Capture, Namespace, Wire};

/// What the programs say and nobody else shall read.
const MARKER: &str = "adit-marker-9f2c51";

/// Requests from a pod on node 1 to port 8080 of one on node 2, and what went between the nodes meanwhile.
///
/// # Panics
/// If a request fails, or nothing was captured.
#[track_caller]
pub fn wire(namespace: &Namespace<'_>) -> Wire {
    up(namespace);
    wire_between(namespace, "client", "server")
}

/// The same between pods that are there, both with the web server of [`objects`](crate::cluster::objects) and the client
/// with a shell, on different nodes.
///
/// # Panics
/// As [`wire`].
#[track_caller]
pub fn wire_between(namespace: &Namespace<'_>, client: &str, server: &str) -> Wire {
    let address = |pod| namespace.address(pod).into();
    between(namespace, client, address(client), address(server))
}

/// The same to the server's IPv6 address.
///
/// # Panics
/// As [`wire`], and if the cluster has no IPv6.
#[track_caller]
pub fn wire6(namespace: &Namespace<'_>) -> Wire {
    up(namespace);
    let address = |pod| namespace.address6(pod).into();
    between(namespace, "client", address("client"), address("server"))
}

#[track_caller]
fn up(namespace: &Namespace<'_>) {
    namespace.up([pod("client", 1, [web(), shell()]), pod("server", 2, [web()])]);
}

#[track_caller]
fn between(namespace: &Namespace<'_>, pod: &str, client: IpAddr, server: IpAddr) -> Wire {
    let capture = Capture::start(namespace.cluster(), &format!("host {client} and host {server}"));
    let request = format!("echo?msg={MARKER}");
    let answers = dial(
        namespace,
        pod,
        "http",
        (&server.to_string(), WEB_PORT),
        &request,
        5,
    );
    assert_eq!(answers, [MARKER; 5]);
    let seen = dial(
        namespace,
        pod,
        "http",
        (&server.to_string(), WEB_PORT),
        "clientip",
        1,
    );
    assert_eq!(
        seen[0].parse::<SocketAddr>().map(|seen| seen.ip()),
        Ok(client),
        "the server saw {seen:?}"
    );
    let wire = Wire::between(&capture.stop(), client, server, MARKER.as_bytes());
    assert!(wire.packets > 0, "nothing went from {client} to {server}");
    wire
}
