//! One kind, listed and then watched, for ever.
//!
//! ```text
//!         ┌──────────── 410: too old to go on ───────────┐
//!         ▼                                              │
//!      listing ──── all pages ────▶ watching ────────────┘
//!       ▲   │ failed: pause          ▲   │ ended, silent, or broken: again from the last version, after a
//!       └───┘                        └───┘ pause if it failed
//! ```
//!
//! Written here rather than taken from kube-runtime: one object that can't be read must not fail a list of
//! thousands, and objects are cut down to what is kept while the text is still in one piece.

use std::sync::Arc;
use std::time::Duration;

use adit_identity::TrustDomain;
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::api::{self, ApiError};
use super::health::Record;
use super::kind::Kind;
use super::object::{self, Key, Malformed};

/// Objects in a page of a list.
const PAGE: usize = 500;
/// How long the server may keep a watch open. It ends it, and the next goes on.
const WATCH_SECONDS: u64 = 290;
/// A watch that says nothing for this long is opened again: the server sends a bookmark about every minute, so it may be
/// that nobody is there any more.
const IDLE: Duration = Duration::from_secs(90);
/// The longest event, in bytes. An object has 1.5 MiB at most where it's stored.
const MAX_EVENT: usize = 16 * 1024 * 1024;
/// The pause after the first failure in a row; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What happened to the objects of a kind.
#[derive(Debug)]
pub(super) struct Change<T> {
    pub(super) kind: Kind,
    pub(super) what: What<T>,
}

/// See [`Change`].
#[derive(Debug)]
pub(super) enum What<T> {
    /// This one is so now.
    Changed(Item<T>),
    /// These are all that there are.
    Listed(Vec<Item<T>>),
}

/// One object; `None` where it's gone, has no bearing, or can't be understood.
#[derive(Debug)]
pub(super) struct Item<T> {
    pub(super) key: Key,
    pub(super) object: Option<T>,
}

/// Reads an object from its JSON; `None` for one that has no bearing.
pub(super) type Read<T> = fn(Kind, &str, &TrustDomain) -> Result<Option<T>, Malformed>;

/// What a task needs.
pub(super) struct Watcher<T> {
    pub(super) client: Client,
    pub(super) kind: Kind,
    pub(super) trust_domain: TrustDomain,
    pub(super) health: Arc<Record>,
    pub(super) changes: mpsc::Sender<Change<T>>,
    pub(super) read: Read<T>,
}

/// Why a watch ended.
enum End {
    /// The version is too old: what came after it is forgotten.
    Compacted,
    /// In good order, or silently.
    Over,
    /// Nobody takes changes any more.
    Unwanted,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    more: String,
}

/// One line of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

#[derive(Deserialize)]
struct Versioned {
    metadata: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    resource_version: String,
}

impl<T> Watcher<T> {
    /// Returns when nobody takes changes any more.
    pub(super) async fn run(self) {
        self.health.started(self.kind, Instant::now());
        let mut pause = Pause::default();
        let mut last_heard = Instant::now();
        let mut version: Option<String> = None;
        while !self.changes.is_closed() {
            let Some(from) = &mut version else {
                match self.list().await {
                    Ok((items, listed)) => {
                        let what = What::Listed(items);
                        if !self.send(what).await {
                            return;
                        }
                        self.health.listed(self.kind);
                        version = Some(listed);
                        last_heard = Instant::now();
                    }
                    Err(error) => self.failed(&error, last_heard, &mut pause).await,
                }
                continue;
            };
            let opened = Instant::now();
            let end = self.watch(from, &mut last_heard, &mut pause).await;
            if opened.elapsed() > LONGEST_PAUSE {
                // Whatever was wrong before is over.
                pause.reset();
            }
            match end {
                Ok(End::Unwanted) => return,
                Ok(End::Over) => {}
                Ok(End::Compacted) => version = None,
                Err(error) => self.failed(&error, last_heard, &mut pause).await,
            }
        }
    }

    async fn failed(&self, error: &ApiError, last_heard: Instant, pause: &mut Pause) {
        let (kind, pause) = (self.kind, pause.next());
        tracing::warn!(%kind, %error, ?pause, "watching the API; the last state stays");
        self.health.failed(kind, error.to_string(), last_heard);
        sleep(pause).await;
    }

    async fn send(&self, what: What<T>) -> bool {
        let change = Change {
            kind: self.kind,
            what,
        };
        self.changes.send(change).await.is_ok()
    }

    /// All objects, and the version as of which they are all.
    async fn list(&self) -> Result<(Vec<Item<T>>, String), ApiError> {
        let path = self.kind.path();
        let mut items = Vec::new();
        let mut more = String::new();
        loop {
            let mut page = format!("{path}?limit={PAGE}");
            if !more.is_empty() {
                page.push_str("&continue=");
                page.extend(more.chars().flat_map(in_query));
            }
            let body = api::get(&self.client, &page).await?;
            let list: List<'_> = serde_json::from_slice(&body)?;
            items.extend(
                list.items
                    .iter()
                    .flatten()
                    .filter_map(|json| self.item(json.get())),
            );
            if list.metadata.more.is_empty() {
                return Ok((items, list.metadata.resource_version));
            }
            more = list.metadata.more;
        }
    }

    async fn watch(
        &self,
        version: &mut String,
        last_heard: &mut Instant,
        pause: &mut Pause,
    ) -> Result<End, ApiError> {
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}",
            self.kind.path()
        );
        let request = api::request(Method::GET, &path, "application/json", Bytes::new());
        let response = match api::open(&self.client, request).await {
            Ok(response) => response,
            Err(error) if error.is(StatusCode::GONE) => return self.compacted(pause).await,
            Err(error) => return Err(error),
        };
        self.health.current(self.kind);
        *last_heard = Instant::now();
        let mut lines = Lines::new(response.into_body());
        loop {
            let line = match timeout(IDLE, lines.next()).await {
                Err(_silent) => return Ok(End::Over),
                Ok(line) => line?,
            };
            let Some(line) = line else {
                // A server that ends every watch at once must not be asked without a break.
                sleep(FIRST_PAUSE).await;
                return Ok(End::Over);
            };
            *last_heard = Instant::now();
            if line.is_empty() {
                continue;
            }
            let event: Event<'_> = serde_json::from_slice(&line)?;
            match event.kind {
                "ERROR" => {
                    let error = ApiError::from_status(serde_json::from_str(event.object.get())?);
                    return match error.is(StatusCode::GONE) {
                        true => self.compacted(pause).await,
                        false => Err(error),
                    };
                }
                "BOOKMARK" => {}
                kind => {
                    let item = match kind {
                        "DELETED" => self.gone(event.object.get()),
                        _ => self.item(event.object.get()),
                    };
                    if let Some(item) = item
                        && !self.send(What::Changed(item)).await
                    {
                        return Ok(End::Unwanted);
                    }
                }
            }
            let Versioned { metadata } = serde_json::from_str(event.object.get())?;
            *version = metadata.resource_version;
            pause.reset();
        }
    }

    /// Once, it's listed again at once; a server that says so again and again is given time.
    async fn compacted(&self, pause: &mut Pause) -> Result<End, ApiError> {
        tracing::info!(kind = %self.kind, "the watch is too old to go on: listing again");
        sleep(pause.next()).await;
        Ok(End::Compacted)
    }

    /// `None` where not even the name can be read.
    fn item(&self, json: &str) -> Option<Item<T>> {
        let key = self.key(json)?;
        let name = || format!("{}/{}", self.kind, display(&key));
        let object = match (self.read)(self.kind, json, &self.trust_domain) {
            Ok(object) => {
                if self.health.has_rejected() {
                    self.health.mended(&name());
                }
                object
            }
            Err(error) => {
                self.health.rejected(name(), error.to_string());
                None
            }
        };
        Some(Item { key, object })
    }

    fn gone(&self, json: &str) -> Option<Item<T>> {
        let key = self.key(json)?;
        if self.health.has_rejected() {
            self.health.mended(&format!("{}/{}", self.kind, display(&key)));
        }
        Some(Item { key, object: None })
    }

    fn key(&self, json: &str) -> Option<Key> {
        match object::key(json) {
            Ok(key) => Some(key),
            Err(error) => {
                self.health
                    .rejected(format!("{}/(unnamed)", self.kind), error.to_string());
                None
            }
        }
    }
}

fn display(key: &Key) -> String {
    match key.namespace.is_empty() {
        true => key.name.clone(),
        false => key.to_string(),
    }
}

/// A character of a continue token in a query (RFC 3986 section 3.4). Tokens are base64.
fn in_query(c: char) -> impl Iterator<Item = char> {
    let kept = c.is_ascii_alphanumeric() || "-_.~".contains(c);
    let plain = kept.then_some(c);
    let mut octets = [0; 4];
    let octets = c.encode_utf8(&mut octets).as_bytes().to_vec();
    let escaped = octets
        .into_iter()
        .filter(move |_| !kept)
        .flat_map(|octet| format!("%{octet:02X}").chars().collect::<Vec<_>>());
    plain.into_iter().chain(escaped)
}

/// Pauses between failures: they double, and are cut by chance, so that nodes that lost one server don't come back together.
#[derive(Default)]
struct Pause {
    failures: u32,
}

impl Pause {
    fn next(&mut self) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(LONGEST_PAUSE).mul_f64(0.5 + 0.5 * chance())
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// In [0, 1), from the keys of the standard library's hasher: enough for jitter.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A body's lines.
struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer has no end of line.
    searched: usize,
}

impl Lines {
    fn new(body: Body) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line without its end; `None` at the end of the body. What stands after the last end of line is a line that was
    /// cut short, and is left out. May be dropped while it waits, without loss.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(at) = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_EVENT {
                return Err(ApiError::TooLong { limit: MAX_EVENT });
            }
            match api::next_piece(&mut self.body).await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }
}
