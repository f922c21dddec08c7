//! An API server in this process, without a socket: objects in, lists and watches out, faults on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What is wrong with a path, or with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Watches from an old version are refused with status 410.
    CompactedByStatus,
    /// Watches from an old version begin with an error of code 410.
    CompactedByEvent,
    /// No connection.
    Down,
    /// RBAC forbids it.
    Forbidden,
    /// An aggregated API server is away.
    Unavailable,
}

/// A handle on the server; clones are the same server.
#[derive(Clone, Default)]
pub(crate) struct Api {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    /// By path of the kind, then by `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Each change of a path with its version, for watches that go on.
    history: BTreeMap<String, Vec<(u64, Value)>>,
    /// `group/version` to the plurals that it serves.
    served: BTreeMap<String, BTreeSet<String>>,
    faults: BTreeMap<String, Fault>,
    watches: Vec<(String, UnboundedSender<Result<Bytes, Broken>>)>,
    page: Option<usize>,
    /// Method, path and query of each request.
    log: Vec<String>,
    /// Type and body of each request that had one.
    bodies: Vec<(String, Value)>,
    /// Objects that are read and written by their own paths.
    singles: BTreeMap<String, Value>,
    /// What is said of a token.
    reviews: BTreeMap<String, Value>,
    /// Answers to requests with a body, one each, before anything else is looked at.
    answers: VecDeque<(StatusCode, Value)>,
}

#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection reset by peer")
    }
}

impl std::error::Error for Broken {}

/// A body that is fed as the test goes.
struct Fed(UnboundedReceiver<Result<Bytes, Broken>>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Whether a path is one object's that is read by it.
fn is_single(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts[..],
        ["", "api", "v1", "namespaces", _] | ["", "api", "v1", "namespaces", _, "secrets" | "configmaps", _]
    )
}

/// Merges a patch into an object (RFC 7396 section 2).
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
            value => merge(&mut object[name], value),
        }
    }
}

fn key(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

fn whole(status: StatusCode, body: &Value) -> Response<Fed> {
    let (feed, fed) = unbounded_channel();
    let _ = feed.send(Ok(Bytes::from(body.to_string())));
    Response::builder().status(status).body(Fed(fed)).unwrap()
}

fn failure(status: StatusCode, message: &str) -> Response<Fed> {
    whole(status, &status_object(status, message))
}

fn status_object(status: StatusCode, message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": status.as_u16(), "message": message})
}

fn event(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

impl Api {
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { api.answer(request).await }
        });
        Client::new(service, "default")
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap())
    }

    /// Writes an object, as `kubectl apply` would.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.with(|inner| inner.put(path, object));
    }

    /// Deletes an object, called `namespace/name`.
    pub(crate) fn delete(&self, path: &str, key: &str) {
        self.with(|inner| {
            let object = inner
                .objects
                .get_mut(path)
                .and_then(|objects| objects.remove(key));
            inner.record(
                path,
                "DELETED",
                object.unwrap_or_else(|| panic!("no {key} at {path}")),
            );
        });
    }

    /// Changes an object while nobody hears of it.
    pub(crate) fn change_unheard(&self, path: &str, change: impl FnOnce(&mut BTreeMap<String, Value>)) {
        self.with(|inner| {
            inner.version += 1;
            change(inner.objects.entry(path.to_owned()).or_default());
        });
    }

    /// Has a group serve a kind, or no longer.
    pub(crate) fn serve(&self, version: &str, plural: &str, served: bool) {
        self.with(|inner| {
            let kinds = inner.served.entry(version.to_owned()).or_default();
            match served {
                true => kinds.insert(plural.to_owned()),
                false => kinds.remove(plural),
            };
        });
    }

    /// What is wrong with a path from now on; `/` is all of them.
    pub(crate) fn fault(&self, path: &str, fault: impl Into<Option<Fault>>) {
        self.with(|inner| {
            match fault.into() {
                Some(fault) => inner.faults.insert(path.to_owned(), fault),
                None => inner.faults.remove(path),
            };
        });
    }

    /// Ends the watches of a path, all for `/`: in good order, or by a broken connection.
    pub(crate) fn end_watches(&self, path: &str, broken: bool) {
        self.with(|inner| {
            inner.watches.retain(|(of, feed)| {
                let concerned = path == "/" || of == path;
                if concerned && broken {
                    let _ = feed.send(Err(Broken));
                }
                !concerned
            });
        });
    }

    /// Writes into the watches of a path.
    pub(crate) fn say(&self, path: &str, text: &str) {
        self.with(|inner| {
            for (_, feed) in inner.watches.iter().filter(|(of, _)| of == path) {
                let _ = feed.send(Ok(Bytes::from(text.to_owned())));
            }
        });
    }

    /// The version of the newest change.
    pub(crate) fn version(&self) -> u64 {
        self.with(|inner| inner.version)
    }

    /// Lists come in pages of this many.
    pub(crate) fn page(&self, objects: usize) {
        self.with(|inner| inner.page = Some(objects));
    }

    /// The requests so far whose text contains `part`.
    pub(crate) fn requests(&self, part: &str) -> Vec<String> {
        self.with(|inner| {
            inner
                .log
                .iter()
                .filter(|line| line.contains(part))
                .cloned()
                .collect()
        })
    }

    /// How many watches of a path are open.
    pub(crate) fn open_watches(&self, path: &str) -> usize {
        self.with(|inner| {
            inner.watches.retain(|(_, feed)| !feed.is_closed());
            inner.watches.iter().filter(|(of, _)| of == path).count()
        })
    }

    /// The answer to the next request that has a body.
    pub(crate) fn answer_next(&self, status: StatusCode, body: Value) {
        self.with(|inner| inner.answers.push_back((status, body)));
    }

    /// The object at a path of its own.
    pub(crate) fn single(&self, path: &str) -> Option<Value> {
        self.with(|inner| inner.singles.get(path).cloned())
    }

    /// Puts an object at a path of its own.
    pub(crate) fn put_single(&self, path: &str, mut object: Value) {
        object["metadata"]["resourceVersion"] = json!("1");
        self.with(|inner| inner.singles.insert(path.to_owned(), object));
    }

    /// What a TokenReview of a token says.
    pub(crate) fn review_tokens(&self, token: &str, status: Value) {
        self.with(|inner| inner.reviews.insert(token.to_owned(), status));
    }

    /// Type and body of the requests that had one.
    pub(crate) fn bodies(&self) -> Vec<(String, Value)> {
        self.with(|inner| inner.bodies.clone())
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Fed>, Broken> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let (path, query) = (
            parts.uri.path().to_owned(),
            parts.uri.query().unwrap_or_default().to_owned(),
        );
        self.with(|inner| {
            inner.log.push(format!("{} {path}?{query}", parts.method));
            if !body.is_empty() {
                let content = parts.headers["content-type"].to_str().unwrap().to_owned();
                inner
                    .bodies
                    .push((content, serde_json::from_slice(&body).unwrap()));
                if let Some((status, answer)) = inner.answers.pop_front() {
                    return Ok(whole(status, &answer));
                }
                let sent = &inner.bodies.last().unwrap().1.clone();
                let answer = inner.write(&path, sent);
                return Ok(answer.unwrap_or_else(|| whole(StatusCode::OK, &json!({}))));
            }
            inner.get(&path, &query)
        })
    }
}

impl Inner {
    fn put(&mut self, path: &str, mut object: Value) {
        object["metadata"]["resourceVersion"] = json!((self.version + 1).to_string());
        let known = self
            .objects
            .entry(path.to_owned())
            .or_default()
            .insert(key(&object), object.clone());
        self.record(path, if known.is_some() { "MODIFIED" } else { "ADDED" }, object);
    }

    fn record(&mut self, path: &str, kind: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let change = json!({"type": kind, "object": object});
        for (_, feed) in self.watches.iter().filter(|(of, _)| of == path) {
            let _ = feed.send(Ok(event(kind, &object)));
        }
        self.history
            .entry(path.to_owned())
            .or_default()
            .push((self.version, change));
    }

    /// Writes of single objects, and reviews of tokens.
    fn write(&mut self, path: &str, sent: &Value) -> Option<Response<Fed>> {
        if sent["kind"] == "TokenReview" {
            let unknown = json!({"authenticated": false});
            let status = self
                .reviews
                .get(sent["spec"]["token"].as_str().unwrap())
                .unwrap_or(&unknown);
            return Some(whole(StatusCode::CREATED, &json!({"status": status})));
        }
        if !is_single(path) {
            let name = sent["metadata"]["name"].as_str()?;
            let path = format!("{path}/{name}");
            let mut object = sent.clone();
            object["metadata"]["resourceVersion"] = json!("1");
            self.singles.insert(path, object.clone());
            return Some(whole(StatusCode::CREATED, &object));
        }
        let Some(object) = self.singles.get_mut(path) else {
            return Some(failure(StatusCode::NOT_FOUND, "not found"));
        };
        let version = object["metadata"]["resourceVersion"].clone();
        let expected = &sent["metadata"]["resourceVersion"];
        if !expected.is_null() && *expected != version {
            return Some(failure(StatusCode::CONFLICT, "the object has been modified"));
        }
        merge(object, sent);
        let next: u64 = version.as_str().unwrap().parse().unwrap();
        object["metadata"]["resourceVersion"] = json!((next + 1).to_string());
        Some(whole(StatusCode::OK, object))
    }

    fn get(&mut self, path: &str, query: &str) -> Result<Response<Fed>, Broken> {
        let fault = self.faults.get("/").or_else(|| self.faults.get(path)).copied();
        match fault {
            Some(Fault::Down) => return Err(Broken),
            Some(Fault::Forbidden) => {
                return Ok(failure(
                    StatusCode::FORBIDDEN,
                    "the agent cannot list what it asks for",
                ));
            }
            Some(Fault::Unavailable) => return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, "no endpoint")),
            Some(Fault::CompactedByEvent | Fault::CompactedByStatus) | None => {}
        }
        if is_single(path) {
            return Ok(match self.singles.get(path) {
                Some(object) => whole(StatusCode::OK, object),
                None => failure(StatusCode::NOT_FOUND, "not found"),
            });
        }
        let value = |name: &str| {
            let pair = query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.map(str::to_owned)
        };
        if value("watch").is_some() {
            return Ok(self.watch(path, &value("resourceVersion").unwrap(), fault));
        }
        if let Some(version) = path
            .strip_prefix("/apis/")
            .filter(|rest| rest.split('/').count() == 2)
        {
            return Ok(match self.served.get(version) {
                Some(kinds) if !kinds.is_empty() => {
                    let resources: Vec<Value> = kinds.iter().map(|name| json!({"name": name})).collect();
                    whole(
                        StatusCode::OK,
                        &json!({"kind": "APIResourceList", "resources": resources}),
                    )
                }
                _ => failure(
                    StatusCode::NOT_FOUND,
                    "the server could not find the requested resource",
                ),
            });
        }
        let objects: Vec<Value> = self
            .objects
            .get(path)
            .into_iter()
            .flatten()
            .map(|(_, object)| object.clone())
            .collect();
        let start: usize = value("continue").map_or(0, |token| {
            token.replace("%2B", "+").trim_start_matches('+').parse().unwrap()
        });
        let end = self
            .page
            .map_or(objects.len(), |page| objects.len().min(start + page));
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if end < objects.len() {
            metadata["continue"] = json!(format!("+{end}"));
        }
        Ok(whole(
            StatusCode::OK,
            &json!({"kind": "List", "metadata": metadata, "items": objects[start..end]}),
        ))
    }

    fn watch(&mut self, path: &str, from: &str, fault: Option<Fault>) -> Response<Fed> {
        let from: u64 = from.parse().unwrap();
        let (feed, fed) = unbounded_channel();
        let too_old = from < self.version;
        match fault {
            Some(Fault::CompactedByStatus) if too_old => {
                return failure(StatusCode::GONE, "too old resource version");
            }
            Some(Fault::CompactedByEvent) if too_old => {
                let _ = feed.send(Ok(event("ERROR", &status_object(StatusCode::GONE, "too old"))));
            }
            _ => {
                for (version, change) in self.history.get(path).into_iter().flatten() {
                    if *version > from {
                        let _ = feed.send(Ok(Bytes::from(format!("{change}\n"))));
                    }
                }
                self.watches.push((path.to_owned(), feed));
            }
        }
        Response::builder().status(StatusCode::OK).body(Fed(fed)).unwrap()
    }
}
