//! As much of a Kubernetes API server as a node's agent asks for: a node, a namespace and two pods that belong in the mesh. What
//! it's told of pods counts as their capture.
//!
//! Lists are short and watches stay open. All that changes is the annotations of pods, by the agent, and that of pods tells so.
//! A thread a connection: an agent has some twenty.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Map, Value, json};

use super::node::NODE;

/// The longest body that is read, in bytes.
const MAX_BODY: u64 = 1 << 20;

const PODS: &str = "/api/v1/pods";

/// A certificate whose key was thrown away.
pub(super) const ROOTS: &str = include_str!("nobody.pem");

/// A pod of the node.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) address: String,
}

/// The pods' annotations, by name.
#[derive(Default)]
struct Annotations {
    by_pod: Mutex<BTreeMap<String, Map<String, Value>>>,
    changed: Condvar,
}

/// The server, on a port of the loopback, for as long as the process lives.
pub(super) struct Api {
    address: SocketAddr,
    annotations: Arc<Annotations>,
}

impl Api {
    pub(super) fn start(pods: &[Pod]) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let annotations = Arc::new(Annotations::default());
        let (pods, ours) = (pods.to_vec(), Arc::clone(&annotations));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (pods, annotations) = (pods.clone(), Arc::clone(&ours));
                // A client that breaks off has what it wanted.
                thread::spawn(move || serve(connection, &pods, &annotations));
            }
        });
        Ok(Self { address, annotations })
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
        let annotations = self.annotations.lock();
        annotations.values().filter(|of_pod| is_captured(of_pod)).count()
    }
}

impl Annotations {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Map<String, Value>>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A merge patch (RFC 7386) of a pod's annotations.
    fn patch(&self, pod: &str, body: &[u8]) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut by_pod = self.lock();
        let of_pod = by_pod.entry(pod.to_owned()).or_default();
        for (key, value) in body["metadata"]["annotations"].as_object().into_iter().flatten() {
            match value {
                Value::Null => drop(of_pod.remove(key)),
                value => drop(of_pod.insert(key.clone(), value.clone())),
            }
        }
        self.changed.notify_all();
    }

    /// Tells of each pod whose annotations change, for as long as somebody listens.
    fn tell(&self, writer: &mut TcpStream, pods: &[Pod]) -> io::Result<()> {
        let mut told = BTreeMap::new();
        let mut by_pod = self.lock();
        loop {
            for of in pods {
                let of_pod = by_pod.get(&of.name).cloned().unwrap_or_default();
                let known: &mut Map<_, _> = told.entry(&of.name).or_default();
                if *known == of_pod {
                    continue;
                }
                let event = json!({"type": "MODIFIED", "object": pod(of, &of_pod)}).to_string();
                write!(writer, "{:x}\r\n{event}\n\r\n", event.len() + 1)?;
                *known = of_pod;
            }
            by_pod = self.changed.wait(by_pod).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn is_captured(annotations: &Map<String, Value>) -> bool {
    annotations.values().any(|value| value == "enabled")
}

/// Answers one request after another.
fn serve(connection: TcpStream, pods: &[Pod], annotations: &Annotations) -> io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection;
    while let Some(Request { method, path, body }) = Request::read(&mut reader)? {
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        if query.contains("watch=1") {
            // Its body has a beginning, and no end.
            writer.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            if path == PODS {
                return annotations.tell(&mut writer, pods);
            }
            continue;
        }
        let of_pod = path.strip_prefix("/api/v1/namespaces/test/pods/");
        if let Some(of_pod) = of_pod
            && method == "PATCH"
        {
            annotations.patch(of_pod.split('/').next().unwrap_or_default(), &body);
        }
        let (status, answer) = match (method.as_str(), objects(path, pods, &annotations.lock())) {
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
fn objects(
    path: &str,
    pods: &[Pod],
    annotations: &BTreeMap<String, Map<String, Value>>,
) -> Option<Vec<Value>> {
    Some(match path {
        "/api/v1/namespaces" => vec![json!({
            "metadata": {"name": "test", "labels": {"istio.io/dataplane-mode": "ambient"}, "resourceVersion": "1"},
        })],
        "/api/v1/nodes" => vec![json!({
            "metadata": {"name": NODE, "resourceVersion": "1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.66.0.1"}]},
        })],
        PODS => pods
            .iter()
            .map(|of| pod(of, &annotations.get(&of.name).cloned().unwrap_or_default()))
            .collect(),
        "/api/v1/serviceaccounts"
        | "/api/v1/services"
        | "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        | "/apis/discovery.k8s.io/v1/endpointslices"
        | "/apis/networking.k8s.io/v1/networkpolicies" => Vec::new(),
        _ => return None,
    })
}

fn pod(pod: &Pod, annotations: &Map<String, Value>) -> Value {
    let Pod { name, address } = pod;
    json!({
        "metadata": {"name": name, "namespace": "test", "uid": format!("uid-{name}"), "resourceVersion": "1", "labels": {}, "annotations": annotations},
        "spec": {"nodeName": NODE, "serviceAccountName": name, "containers": [{"name": "main"}]},
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}
