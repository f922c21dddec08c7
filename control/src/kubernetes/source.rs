//! The tasks of the source, and what they share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_identity::TrustDomain;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, sleep_until};

use super::api::with_causes;
use super::discovery::{self, Served};
use super::health::{Health, Record};
use super::kind::{BUILT_IN, FAMILIES, Kind, Role};
use super::list_watch::{Change, Watcher, What};
use super::model::Model;
use super::object::{self, Object};
use super::state::State;

/// Changes that wait for the model. When it's full the watches wait, and the API server with them.
const MAX_CHANGES: usize = 1024;
/// Changes that come within this time become one state.
const BATCH: Duration = Duration::from_millis(20);
/// The pause after a state is this many times as long as it took to make, if that is longer: a cluster in which much
/// happens costs the node at most a tenth of a CPU for it.
const REST: u32 = 9;
/// How often it's asked which kinds there are, besides whenever a custom resource definition changes.
const DISCOVERY: Duration = Duration::from_secs(30);
/// A kind that isn't served any more is forgotten when it's still so after this time: an API server that is just
/// starting may not serve all that it will.
const GRACE: Duration = Duration::from_secs(20);

/// What the source needs to know.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The name of the node that the agent serves, as the API has it.
    pub node: String,
    /// The trust domain of the cluster's identities.
    pub trust_domain: TrustDomain,
}

/// The Kubernetes API, watched. Dropping it ends the watches.
#[derive(Debug)]
pub struct Source {
    states: watch::Receiver<Option<Arc<State>>>,
    captured: watch::Sender<BTreeSet<Arc<str>>>,
    health: Arc<Record>,
    task: AbortHandle,
}

/// A client for the API server of the pod that this process runs in or, outside a cluster, of the kubeconfig file.
///
/// # Errors
/// There is neither, or it makes no sense.
pub async fn connect() -> Result<Client, kube::Error> {
    client_of(Config::infer().await.map_err(kube::Error::InferConfig)?)
}

/// Why there is no client for people's commands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The client can't be made.
    #[error("{}", with_causes(.0))]
    Client(#[from] kube::Error),
    /// The kubeconfig can't be read, or has no such context.
    #[error("{}", with_causes(.0))]
    Kubeconfig(#[from] kube::config::KubeconfigError),
}

/// A client by the kubeconfig at `path`, or kubectl's own, and a context of it by name. Without either, as [`connect`].
///
/// # Errors
/// The file can't be read, has no such context, or what it says of the server or the user makes no sense.
pub async fn connect_as(path: Option<&Path>, context: Option<&str>) -> Result<Client, ConnectError> {
    if path.is_none() && context.is_none() {
        return Ok(connect().await?);
    }
    let kubeconfig = match path {
        Some(path) => Kubeconfig::read_from(path)?,
        None => Kubeconfig::read()?,
    };
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    Ok(client_of(
        Config::from_custom_kubeconfig(kubeconfig, &options).await?,
    )?)
}

fn client_of(mut config: Config) -> Result<Client, kube::Error> {
    // Watches are silent for as long as nothing happens, and this crate has its own idea of too long.
    config.read_timeout = None;
    // Retries are this crate's too: it counts and shows them.
    config.default_retry = false;
    Client::try_from(config)
}

impl Source {
    /// Starts to list and watch, on the tokio runtime that this is called on.
    pub fn start(client: Client, options: SourceOptions) -> Self {
        let (publish, states) = watch::channel(None);
        let (captured, captures) = watch::channel(BTreeSet::new());
        let health = Arc::new(Record::default());
        let (changes, incoming) = mpsc::channel(MAX_CHANGES);
        let collector = Collector {
            model: Model::new(&options.node, options.trust_domain.clone()),
            watches: Watches {
                client,
                trust_domain: options.trust_domain,
                health: Arc::clone(&health),
                changes,
                tasks: JoinSet::new(),
                running: BTreeMap::new(),
            },
            health: Arc::clone(&health),
            discovered: false,
            absent: BTreeMap::new(),
            publish,
        };
        let task = tokio::spawn(collector.run(incoming, captures)).abort_handle();
        Self {
            states,
            captured,
            health,
            task,
        }
    }

    /// The newest state; `None` until everything was listed once. It is never taken back: what happens to the API
    /// server shows in [`health`](Self::health).
    pub fn states(&self) -> watch::Receiver<Option<Arc<State>>> {
        self.states.clone()
    }

    /// Which pods of this node the agent has captured, by uid: these are in the mesh, whatever they say of themselves. The
    /// next state has it so.
    pub fn set_captured(&self, uids: BTreeSet<Arc<str>>) {
        self.captured.send_replace(uids);
    }

    /// How it is now.
    pub fn health(&self) -> Health {
        self.health.at(Instant::now())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Owns the model: takes changes in, gives states out.
struct Collector {
    model: Model,
    watches: Watches,
    health: Arc<Record>,
    /// Whether it was ever known which kinds there are.
    discovered: bool,
    /// Kinds that are watched and aren't served any more, and since when.
    absent: BTreeMap<Kind, Instant>,
    publish: watch::Sender<Option<Arc<State>>>,
}

impl Collector {
    async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Change<Object>>,
        mut captures: watch::Receiver<BTreeSet<Arc<str>>>,
    ) {
        for kind in BUILT_IN {
            self.watches.start(kind);
        }
        let mut ask = interval(DISCOVERY);
        let mut asked: JoinSet<Served> = JoinSet::new();
        let mut due: Option<Instant> = None;
        let mut rested = Instant::now();
        loop {
            let changed = tokio::select! {
                Some(change) = incoming.recv() => {
                    if change.kind.role == Role::Definition && concerns_us(&change) {
                        ask.reset_immediately();
                    }
                    self.take(change)
                }
                Ok(()) = captures.changed() => {
                    let captured = captures.borrow_and_update().clone();
                    self.model.set_captured(captured)
                }
                _ = ask.tick() => {
                    if asked.is_empty() {
                        let (client, watched) = (self.watches.client.clone(), self.watches.optional());
                        asked.spawn(async move { discovery::served(&client, &watched).await });
                    }
                    false
                }
                Some(Ok(served)) = asked.join_next() => self.follow(served),
                () = sleep_until(due.unwrap_or(rested)), if due.is_some() => {
                    let began = Instant::now();
                    self.publish.send_replace(Some(Arc::new(self.model.state())));
                    self.health.published();
                    rested = Instant::now() + began.elapsed() * REST;
                    due = None;
                    false
                }
            };
            if changed && due.is_none() && self.is_complete() {
                due = Some((Instant::now() + BATCH).max(rested));
            }
        }
    }

    /// Returns whether there is something new to publish.
    fn take(&mut self, change: Change<Object>) -> bool {
        let Some(running) = self.watches.running.get_mut(&change.kind) else {
            // Of a kind that was given up meanwhile.
            return false;
        };
        // With the last list the first state is complete, even if that list is empty.
        let first = matches!(change.what, What::Listed(_)) && !std::mem::replace(&mut running.listed, true);
        self.model.apply(change) || first
    }

    fn is_complete(&self) -> bool {
        if self.publish.borrow().is_some() {
            return true;
        }
        let mut running = self.watches.running.iter();
        // Without the right to see definitions, kinds are found a little later: no reason to wait for ever.
        self.discovered && running.all(|(kind, running)| running.listed || kind.role == Role::Definition)
    }

    /// Watches what is served, and forgets what isn't any more. Returns whether there is something new to publish.
    fn follow(&mut self, served: Served) -> bool {
        if let Some(error) = &served.error {
            tracing::warn!(%error, "asking the API server for its kinds");
        }
        let first = !self.discovered && served.error.is_none();
        self.discovered |= first;
        self.health.discovered(served.error);
        for kind in &served.kinds {
            self.absent.remove(kind);
            if self.watches.start(*kind) {
                tracing::info!(%kind, "watching a kind of policy that the API server has");
            }
        }
        let now = Instant::now();
        let mut changed = first;
        for kind in self.watches.optional() {
            if served.kinds.contains(&kind) {
                continue;
            }
            let since = *self.absent.entry(kind).or_insert(now);
            if now.duration_since(since) >= GRACE {
                tracing::info!(%kind, "the API server has this kind no more: its objects are forgotten");
                self.absent.remove(&kind);
                self.watches.stop(kind);
                changed |= self.model.forget(kind);
            }
        }
        changed
    }
}

/// Whether a change of definitions may be one of the kinds that are looked for.
fn concerns_us(change: &Change<Object>) -> bool {
    let mut groups = FAMILIES.iter().flat_map(|family| family.served_as);
    match &change.what {
        What::Changed(item) => groups.any(|(group, _)| item.key.name.ends_with(group)),
        What::Listed(_) => true,
    }
}

/// The task of each kind.
struct Watches {
    client: Client,
    trust_domain: TrustDomain,
    health: Arc<Record>,
    changes: mpsc::Sender<Change<Object>>,
    tasks: JoinSet<()>,
    running: BTreeMap<Kind, Running>,
}

struct Running {
    task: AbortHandle,
    listed: bool,
}

impl Watches {
    /// Returns whether it wasn't watched before.
    fn start(&mut self, kind: Kind) -> bool {
        if self.running.contains_key(&kind) {
            return false;
        }
        let watcher = Watcher {
            client: self.client.clone(),
            kind,
            trust_domain: self.trust_domain.clone(),
            health: Arc::clone(&self.health),
            changes: self.changes.clone(),
            read: object::read,
        };
        let task = self.tasks.spawn(watcher.run());
        self.running.insert(kind, Running { task, listed: false });
        true
    }

    fn stop(&mut self, kind: Kind) {
        if let Some(running) = self.running.remove(&kind) {
            running.task.abort();
            self.health.ended(kind);
        }
    }

    /// What is watched and isn't in every cluster.
    fn optional(&self) -> BTreeSet<Kind> {
        let kinds = self.running.keys().copied();
        kinds.filter(|kind| !BUILT_IN.contains(kind)).collect()
    }
}
