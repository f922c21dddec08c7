//! How the agent of a node is: what its metrics are taken from, and whether it is live and ready.
//!
//! Readiness holds through outages that the data path holds through. Without the API server the last mesh is in force; without
//! the signer SVIDs go on until they run out. So neither makes an agent unready that was ready before.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_control::kubernetes::Source;
use adit_node::cluster::Counters;
use tokio::time::{Instant, sleep, timeout};

use super::broker::Broker;
use crate::admin::Handler as _;
use crate::agent::handler::Agent;
use crate::identities::IdentityStatus;
use crate::metrics::{Exposition, Subject};

/// How long a worker may be silent. It beats once a second; a busy one is late by milliseconds.
const WORKER_SILENCE: Duration = Duration::from_secs(15);

/// How long the helper may be silent: long enough for one that is started anew, and for a step of its own that hangs.
const HELPER_SILENCE: Duration = Duration::from_secs(30);

/// How often the helper is asked.
const ASK: Duration = Duration::from_secs(5);

/// How long the workers may take to say what they hold. What one that is stuck has counted is read without it.
const WORKERS: Duration = Duration::from_secs(2);

/// A node's agent, as it is asked about over HTTP.
pub(super) struct NodeHealth {
    pub(super) agent: Arc<Agent>,
    pub(super) source: Arc<Source>,
    pub(super) helper: Arc<HelperWatch>,
}

/// What the helper last said, and when.
#[derive(Debug)]
pub(super) struct HelperWatch {
    started: Instant,
    heard: Mutex<Option<(Instant, Counters)>>,
}

impl HelperWatch {
    /// Asks the helper at `socket` again and again, on the runtime that this is called on.
    ///
    /// # Errors
    /// The thread that asks could not be made. It is another than the one that has pods captured, which may wait for that.
    pub(super) fn start(socket: PathBuf) -> std::io::Result<Arc<Self>> {
        let broker = Broker::start(socket)?;
        let watch = Arc::new(Self {
            started: Instant::now(),
            heard: Mutex::default(),
        });
        let writer = Arc::clone(&watch);
        tokio::spawn(async move {
            loop {
                match broker.stats().await {
                    Ok(counters) => writer.hear(counters),
                    Err(error) => tracing::debug!(%error, "the node helper doesn't answer"),
                }
                sleep(ASK).await;
            }
        });
        Ok(watch)
    }

    fn hear(&self, counters: Counters) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), counters));
    }

    fn heard(&self) -> Option<(Instant, Counters)> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silence(&self) -> Duration {
        self.heard().map_or(self.started, |(at, _)| at).elapsed()
    }
}

impl Subject for NodeHealth {
    async fn metrics(&self) -> Exposition {
        let mut all = Exposition::new();
        if let Some(running) = self.agent.running() {
            let counts = match timeout(WORKERS, self.agent.counters()).await {
                Ok(Ok(counts)) => counts,
                _ => running.counters(),
            };
            all.add_counts(&counts);
            for (index, silence) in running.silences().enumerate() {
                let worker = index.to_string();
                all.add(
                    "worker_silence_seconds",
                    &[("worker", &worker)],
                    silence.as_secs_f64(),
                );
            }
            add_identities(&mut all, &running.identities(), SystemTime::now());
        }
        add_source(&mut all, &self.source);
        all.add("helper_silence_seconds", &[], self.helper.silence().as_secs_f64());
        if let Some((_, counters)) = self.helper.heard() {
            for (name, count) in counters.named() {
                all.add(
                    &format!("helper_{}_total", name.replace(' ', "_")),
                    &[],
                    count as f64,
                );
            }
        }
        all
    }

    fn live(&self) -> Result<(), String> {
        let running = self.agent.running();
        live(running.into_iter().flat_map(|running| running.silences()))
    }

    fn ready(&self) -> Result<(), String> {
        let Some(running) = self.agent.running() else {
            return Err("no mesh is in force yet: the Kubernetes API was not listed once".to_owned());
        };
        ready(
            self.helper.heard().map(|(at, _)| at.elapsed()),
            &running.identities(),
            SystemTime::now(),
        )
    }
}

/// Whether every worker works on, by how long each has been silent.
fn live(silences: impl Iterator<Item = Duration>) -> Result<(), String> {
    for (index, silence) in silences.enumerate() {
        if silence > WORKER_SILENCE {
            return Err(format!(
                "worker {index} has been silent for {} s",
                silence.as_secs()
            ));
        }
    }
    Ok(())
}

/// Whether an agent with a mesh can serve pods.
fn ready(helper: Option<Duration>, identities: &[IdentityStatus], now: SystemTime) -> Result<(), String> {
    match helper {
        None => return Err("the node helper has not answered yet".to_owned()),
        Some(silence) if silence > HELPER_SILENCE => {
            return Err(format!(
                "the node helper has been silent for {} s",
                silence.as_secs()
            ));
        }
        Some(_) => {}
    }
    // One that has an SVID shows that the signer was there; one that lacks it may just have come.
    if identities.iter().any(|identity| is_valid(identity, now)) {
        return Ok(());
    }
    match identities.iter().find_map(|identity| identity.error.as_ref()) {
        Some(error) => Err(format!("no SVID could be had: {error}")),
        None => Ok(()),
    }
}

fn is_valid(identity: &IdentityStatus, now: SystemTime) -> bool {
    identity.svid.as_ref().is_some_and(|svid| svid.not_after() > now)
}

fn add_identities(all: &mut Exposition, identities: &[IdentityStatus], now: SystemTime) {
    let count = |of: &dyn Fn(&IdentityStatus) -> bool| identities.iter().filter(|one| of(one)).count() as f64;
    all.add("svids", &[], count(&|one| is_valid(one, now)));
    all.add("svids_wanted", &[], count(&|_| true));
    all.add("svid_renewals_failing", &[], count(&|one| one.error.is_some()));
    let svids = identities.iter().filter_map(|identity| identity.svid.as_ref());
    if let Some(first) = svids.map(|svid| svid.not_after()).min() {
        let seconds = first.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        all.add("svid_next_expiry_timestamp_seconds", &[], seconds);
    }
}

fn add_source(all: &mut Exposition, source: &Source) {
    let wanted = source
        .states()
        .borrow()
        .as_ref()
        .map_or(0, |state| state.wanted.len());
    all.add("pods_wanted", &[], wanted as f64);
    let health = source.health();
    if let Some(age) = health.age {
        all.add("snapshot_age_seconds", &[], age.as_secs_f64());
    }
    let undiscovered = u8::from(health.discovery_error.is_some());
    all.add("kubernetes_discovery_failed", &[], undiscovered.into());
    all.add("kubernetes_objects_rejected", &[], health.rejected.len() as f64);
    all.add(
        "kubernetes_objects_rejected_total",
        &[],
        health.rejected_total as f64,
    );
    for (kind, watch) in &health.kinds {
        let labels = [("kind", kind.as_str())];
        all.add("kubernetes_listed", &labels, f64::from(u8::from(watch.listed)));
        all.add("kubernetes_watch_age_seconds", &labels, watch.age.as_secs_f64());
        all.add("kubernetes_lists_total", &labels, watch.lists_total as f64);
        all.add("kubernetes_failures_total", &labels, watch.failures_total as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use adit_control::kubernetes::SourceOptions;
    use adit_identity::{CertificateAuthority, TrustDomain};

    use super::*;
    use crate::admin::FlowHub;
    use crate::agent::AgentSettings;
    use crate::metrics::NAMES;

    fn identity(name: &str, valid_for: Option<u64>, error: Option<&str>) -> (IdentityStatus, SystemTime) {
        let now = SystemTime::now();
        let domain: TrustDomain = "demo.local".parse().unwrap();
        let id: adit_identity::SpiffeId = format!("spiffe://demo.local/ns/shop/sa/{name}").parse().unwrap();
        let authority = CertificateAuthority::new(domain, now).unwrap();
        let svid = valid_for.map(|seconds| {
            let issued = authority.issue(&id, now, Duration::from_secs(seconds)).unwrap();
            Arc::new(issued)
        });
        let status = IdentityStatus {
            id,
            svid,
            rotations: 0,
            error: error.map(str::to_owned),
        };
        (status, now)
    }

    #[test]
    fn an_agent_is_live_as_long_as_every_worker_beats() {
        let seconds = |all: &[u64]| live(all.iter().copied().map(Duration::from_secs));
        assert_eq!(seconds(&[]), Ok(()));
        assert_eq!(seconds(&[0, 15, 3]), Ok(()));
        assert_eq!(
            seconds(&[0, 16]),
            Err("worker 1 has been silent for 16 s".to_owned())
        );
    }

    #[test]
    fn an_agent_is_ready_with_a_helper_and_unless_no_svid_can_be_had() {
        let (good, now) = identity("web", Some(3600), Some("the signer is away"));
        let (waiting, _) = identity("api", None, None);
        let (failed, _) = identity("db", None, Some("the signer is away"));
        let helper = Some(Duration::from_secs(29));
        assert_eq!(ready(helper, &[], now), Ok(()), "nobody needs an SVID");
        assert_eq!(
            ready(helper, std::slice::from_ref(&waiting), now),
            Ok(()),
            "asked just now"
        );
        // One pod that the signer has no certificate for is that pod's trouble, and a signer that goes away later no
        // reason to send pods elsewhere.
        assert_eq!(ready(helper, &[good.clone(), failed.clone()], now), Ok(()));
        let unready = ready(helper, &[waiting, failed], now).unwrap_err();
        assert_eq!(unready, "no SVID could be had: the signer is away");
        let later = now + Duration::from_secs(7200);
        assert!(
            ready(helper, std::slice::from_ref(&good), later).is_err(),
            "it has run out"
        );
        for (silence, expected) in [(None, "not answered yet"), (Some(31), "silent for 31 s")] {
            let unready = ready(silence.map(Duration::from_secs), &[], now).unwrap_err();
            assert!(unready.contains(expected), "{unready}");
        }
    }

    /// The real exposition of an agent that serves a mesh, though nobody answers it.
    #[tokio::test]
    async fn every_metric_of_a_node_is_in_the_table() {
        let snapshot = {
            let text = "apiVersion: adit.dev/v1alpha1\nkind: Mesh\nname: demo\nnamespaces: [{name: shop}]\n\
                        workloads: [{namespace: shop, name: web, serviceAccountName: web, command: [sleep, '9']}]\n";
            let loaded =
                adit_control::parse("demo.yaml".as_ref(), text).unwrap_or_else(|report| panic!("{report:?}"));
            adit_control::build(
                &loaded.mesh,
                adit_control::View {
                    node: None,
                    ready: &|_| true,
                    joined: &[],
                    generation: 1,
                },
            )
        };
        let settings = AgentSettings {
            workers: 2,
            ..AgentSettings::default()
        };
        let agent = Arc::new(Agent::new(settings, None, FlowHub::new(16)));
        assert!(agent.publish(Arc::new(snapshot), &[], &[], &[]).await.is_ok());
        let config = adit_control::kubernetes::KubeConfig::new("http://127.0.0.1:1/".parse().unwrap());
        let client = adit_control::kubernetes::KubeClient::try_from(config).unwrap();
        let source = Source::start(
            client,
            SourceOptions {
                node: "one".to_owned(),
                trust_domain: "cluster.local".parse().unwrap(),
            },
        );
        let health = NodeHealth {
            agent,
            source: Arc::new(source),
            helper: HelperWatch::start("/nowhere/agent.sock".into()).unwrap(),
        };
        health.helper.hear(Counters::default());
        // The tasks of the source have begun once they were polled.
        while health.source.health().kinds.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!((health.live(), health.ready()), (Ok(()), Ok(())));
        let samples = health.metrics().await;
        let known: BTreeSet<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        let found: BTreeSet<&str> = samples.names().collect();
        let unknown: Vec<_> = found.difference(&known).collect();
        assert!(
            unknown.is_empty(),
            "without a row in metrics/names.rs: {unknown:?}"
        );
        // Of pods that are captured, of outages, of the endpoint and of the signer.
        let elsewhere = |name: &str| {
            [
                "ca_",
                "http_",
                "link",
                "netstack_",
                "pass",
                "flows_passing",
                "tunnels_ended",
                "tunnels_failed",
                "bad_connects",
            ]
            .iter()
            .any(|start| name.starts_with(start))
                || ["ready", "snapshot_age_seconds"].contains(&name)
        };
        let missing: Vec<_> = known.difference(&found).filter(|name| !elsewhere(name)).collect();
        assert!(missing.is_empty(), "never taken: {missing:?}");
    }
}
