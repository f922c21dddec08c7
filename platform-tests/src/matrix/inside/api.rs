//! As much of a Kubernetes API server as a node's agent asks for: a node, a namespace and two pods that belong in the mesh. What
//! it's told of pods counts as their capture.
//!
//! Lists are short and fixed, watches stay open and say nothing. A thread a connection: an agent has some twenty.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

use super::node::NODE;

/// The longest body that is read, in bytes.
const MAX_BODY: u64 = 1 << 20;

/// A certificate whose key was thrown away.
pub(super) const ROOTS: &str = include_str!("nobody.pem");

/// A pod of the node.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) address: String,
}

/// The server, on a port of the loopback, for as long as the process lives.
pub(super) struct Api {
    address: SocketAddr,
    captured: Arc<Mutex<BTreeSet<String>>>,
}

impl Api {
    pub(super) fn start(pods: &[Pod]) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let captured = Arc::new(Mutex::new(BTreeSet::new()));
        let (pods, ours) = (pods.to_vec(), Arc::clone(&captured));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (pods, captured) = (pods.clone(), Arc::clone(&ours));
                // A client that breaks off has what it wanted.
                thread::spawn(move || serve(connection, &pods, &captured));
            }
        });
        Ok(Self { address, captured })
    }

    /// The kubeconfig by which it's found. It names a file with [`ROOTS`], which nobody is asked for over plain HTTP, but
    /// without which the client wants the machine's own.
    pub(super) fn kubeconfig(&self, roots: &Path) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": NODE,
            "clusters": [{"name": NODE, "cluster": {
                "server": format!("http://{}", self.address), "certificate-authority": roots,
            }}],
            "users": [{"name": NODE, "user": {}}],
            "contexts": [{"name": NODE, "context": {"cluster": NODE, "user": NODE}}],
        })
        .to_string()
    }

    /// How many pods the agent has told to be captured.
    pub(super) fn captured(&self) -> usize {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Answers one request after another.
fn serve(connection: TcpStream, pods: &[Pod], captured: &Mutex<BTreeSet<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection;
    while let Some(Request { method, path, body }) = Request::read(&mut reader)? {
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        if query.contains("watch=1") {
            // Its body has a beginning, and no end.
            writer.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            continue;
        }
        if method == "PATCH" && String::from_utf8_lossy(&body).contains("enabled") {
            let mut captured = captured.lock().unwrap_or_else(PoisonError::into_inner);
            captured.insert(path.to_owned());
        }
        let (status, answer) = match (method.as_str(), objects(path, pods)) {
            ("GET", Some(items)) => ("200 OK", list(items)),
            ("GET", None) => (
                "404 Not Found",
                json!({"kind": "Status", "code": 404, "message": "not found"}),
            ),
            _ => ("200 OK", json!({})),
        };
        let answer = answer.to_string();
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
    Ok(())
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

impl Request {
    /// The next; `None` when the connection has ended.
    fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            match header.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap_or(0);
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = Vec::new();
        reader.take(MAX_BODY.min(length)).read_to_end(&mut body)?;
        Ok(Some(Self { method, path, body }))
    }
}

fn list(items: Vec<Value>) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}

/// The objects of a list; `None` for kinds that this cluster doesn't have.
fn objects(path: &str, pods: &[Pod]) -> Option<Vec<Value>> {
    Some(match path {
        "/api/v1/namespaces" => vec![json!({
            "metadata": {"name": "test", "labels": {"istio.io/dataplane-mode": "ambient"}, "resourceVersion": "1"},
        })],
        "/api/v1/nodes" => vec![json!({
            "metadata": {"name": NODE, "resourceVersion": "1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.66.0.1"}]},
        })],
        "/api/v1/pods" => pods.iter().map(pod).collect(),
        "/api/v1/serviceaccounts"
        | "/api/v1/services"
        | "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        | "/apis/discovery.k8s.io/v1/endpointslices"
        | "/apis/networking.k8s.io/v1/networkpolicies" => Vec::new(),
        _ => return None,
    })
}

fn pod(pod: &Pod) -> Value {
    let Pod { name, address } = pod;
    json!({
        "metadata": {"name": name, "namespace": "test", "uid": format!("uid-{name}"), "resourceVersion": "1", "labels": {}},
        "spec": {"nodeName": NODE, "serviceAccountName": name, "containers": [{"name": "main"}]},
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}
