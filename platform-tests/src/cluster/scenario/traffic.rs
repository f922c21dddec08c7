//! Small requests.

use std::net::Ipv4Addr;

use serde::Deserialize;

use crate::cluster::Namespace;
use crate::cluster::objects::{SHELL, WEB_PORT};
use crate::process::Finished;

/// What agnhost's dialler says.
#[derive(Deserialize)]
struct Dialled {
    #[serde(default)]
    responses: Vec<String>,
    #[serde(default)]
    errors: Vec<String>,
}

/// An HTTP request from a pod's shell; the whole answer, headers included.
pub fn http(namespace: &Namespace<'_>, pod: &str, host: &str, port: u16, path: &str) -> Finished {
    let script = format!("printf '%s\\r\\n\\r\\n' 'GET {path} HTTP/1.0' | nc -w 10 {host} {port}");
    namespace.exec(pod, SHELL, ["sh", "-c", &script])
}

/// Lets the web server in `client`, which must have a shell too, ask another so many times; what was answered.
///
/// `request` is a path of agnhost's netexec: `hostname`, `clientip`, `echo?msg=...`. `protocol` is `http` or `udp`.
///
/// # Panics
/// If a request fails.
#[track_caller]
pub fn dial(
    namespace: &Namespace<'_>,
    client: &str,
    protocol: &str,
    (host, port): (&str, u16),
    request: &str,
    tries: u32,
) -> Vec<String> {
    let request = request.replace(['?', '='], "%3F").replace("msg%3F", "msg%3D");
    let path = format!("/dial?host={host}&port={port}&protocol={protocol}&request={request}&tries={tries}");
    let answer = http(
        namespace,
        client,
        &Ipv4Addr::LOCALHOST.to_string(),
        WEB_PORT,
        &path,
    );
    let text = answer.stdout();
    let body = text
        .split_once("\r\n\r\n")
        .map_or(text.as_str(), |(_, body)| body);
    let dialled: Dialled = serde_json::from_str(body.trim())
        .unwrap_or_else(|error| panic!("{error} in the answer of agnhost: {answer}"));
    assert!(
        dialled.errors.is_empty() && dialled.responses.len() == tries as usize,
        "{tries} {protocol} requests from {client} to {host}:{port} for {request}: {body}"
    );
    dialled.responses
}
