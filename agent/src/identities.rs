//! The SVIDs of the workloads that this agent serves: had from the embedded CA or a signer, renewed before they run out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use adit_control::Snapshot;
use adit_flow::WorkloadName;
use adit_identity::{
    IssuedSvid, Obtaining, Rotation, RotationPolicy, RotationStep, SourceError, SpiffeId, Svid, SvidSource,
    TrustBundle,
};
use adit_tunnel::{BadCredentials, Credentials};
use arc_swap::ArcSwap;
use tokio::sync::mpsc;

/// The credentials in force, read by every worker, replaced whole by [`Issuer`].
#[derive(Default)]
pub(crate) struct Identities {
    current: ArcSwap<HashMap<SpiffeId, Arc<Credentials>>>,
}

impl Identities {
    /// The newest credentials of an identity that a workload here has.
    pub(crate) fn credentials(&self, id: &SpiffeId) -> Option<Arc<Credentials>> {
        self.current.load().get(id).cloned()
    }
}

/// Owns the schedule of each identity, and asks the source when one is due.
pub(crate) struct Issuer {
    source: Box<dyn SvidSource>,
    /// The newest, shared by all who were given an equal one.
    bundle: Option<Arc<TrustBundle>>,
    held: HashMap<SpiffeId, Held>,
    published: Arc<Identities>,
    answers: mpsc::Sender<Answer>,
    seed: u64,
}

/// What a source that took its time says.
pub(crate) struct Answer {
    id: SpiffeId,
    outcome: Result<IssuedSvid, SourceError>,
}

/// Answers that wait to be taken: more than one for each identity there can't be, and who brings one waits.
const MAX_ANSWERS: usize = 64;

/// One identity's SVID and schedule.
struct Held {
    rotation: Rotation,
    in_force: Option<(Arc<Svid>, Arc<Credentials>)>,
    rotations: u64,
    error: Option<String>,
}

/// One SVID as `adit identity` shows it.
#[derive(Clone, Debug)]
pub(crate) struct IdentityStatus {
    /// Whose it is.
    pub(crate) id: SpiffeId,
    /// The SVID in force, unless none could be issued.
    pub(crate) svid: Option<Arc<Svid>>,
    /// How many times it was renewed.
    pub(crate) rotations: u64,
    /// Why the last renewal failed, if it did.
    pub(crate) error: Option<String>,
}

impl Issuer {
    /// An issuer of SVIDs from `source`. `seed` spreads renewals over time. Whoever has the receiver hands
    /// [`answered`](Self::answered) what comes.
    pub(crate) fn new(source: Box<dyn SvidSource>, seed: u64) -> (Self, mpsc::Receiver<Answer>) {
        let (answers, incoming) = mpsc::channel(MAX_ANSWERS);
        let issuer = Self {
            source,
            bundle: None,
            held: HashMap::new(),
            published: Arc::default(),
            answers,
            seed,
        };
        (issuer, incoming)
    }

    /// What workers read.
    pub(crate) fn identities(&self) -> Arc<Identities> {
        Arc::clone(&self.published)
    }

    /// Holds SVIDs for exactly the identities of the local workloads of `snapshot` that are in the mesh or about to join it.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, joining: &[WorkloadName], now: SystemTime) {
        let joining: HashSet<&WorkloadName> = joining.iter().collect();
        let local = snapshot
            .workloads
            .values()
            .filter(|workload| workload.is_local() && (workload.in_mesh || joining.contains(&workload.name)));
        let wanted: HashSet<&SpiffeId> = local.map(|workload| &workload.identity).collect();
        self.held.retain(|id, _| wanted.contains(id));
        for id in wanted {
            if !self.held.contains_key(id) {
                self.seed = self.seed.wrapping_add(1);
                let rotation = Rotation::new(RotationPolicy::default(), self.seed);
                self.held.insert(
                    id.clone(),
                    Held {
                        rotation,
                        in_force: None,
                        rotations: 0,
                        error: None,
                    },
                );
            }
        }
        self.renew(now);
    }

    /// Asks for what is due, takes what is answered at once, and publishes. Returns when to come again, at the latest.
    pub(crate) fn renew(&mut self, now: SystemTime) -> Option<SystemTime> {
        let mut due = Vec::new();
        for (id, held) in &mut self.held {
            if held.rotation.poll(now) == RotationStep::Renew {
                due.push(id.clone());
            }
        }
        for id in due {
            let mut obtaining = self.source.obtain(&id, now);
            match obtaining.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => self.take(Answer { id, outcome }, now),
                Poll::Pending => self.wait(id, obtaining),
            }
        }
        self.publish();
        let waiting = self.held.values().filter(|held| !held.rotation.is_renewing());
        waiting.map(|held| held.rotation.next_attempt()).min()
    }

    /// Takes an answer that came later.
    pub(crate) fn answered(&mut self, answer: Answer, now: SystemTime) {
        self.take(answer, now);
        self.publish();
    }

    fn wait(&self, id: SpiffeId, obtaining: Obtaining) {
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let outcome = obtaining.await;
            // Nobody takes it any more when the agent ends.
            let _ = answers.send(Answer { id, outcome }).await;
        });
    }

    fn take(&mut self, answer: Answer, now: SystemTime) {
        let Answer { id, outcome } = answer;
        let Some(held) = self.held.get_mut(&id) else {
            return;
        };
        let outcome = outcome.map_err(IssueError::Source).and_then(|issued| {
            let bundle = match &self.bundle {
                Some(bundle) if **bundle == issued.bundle => Arc::clone(bundle),
                _ => Arc::clone(self.bundle.insert(Arc::new(issued.bundle))),
            };
            let credentials = Credentials::new(&issued.svid, bundle)?;
            Ok((issued.svid, credentials))
        });
        match outcome {
            Ok((svid, credentials)) => held.renewed(svid, credentials, now),
            Err(error) => held.failed(&id, error, now),
        }
    }

    fn publish(&self) {
        let current = self.held.iter().filter_map(|(id, held)| {
            let (_, credentials) = held.in_force.as_ref()?;
            Some((id.clone(), Arc::clone(credentials)))
        });
        self.published.current.store(Arc::new(current.collect()));
    }

    /// Every identity held, in order of id.
    pub(crate) fn status(&self) -> Vec<IdentityStatus> {
        let mut all: Vec<_> = self
            .held
            .iter()
            .map(|(id, held)| IdentityStatus {
                id: id.clone(),
                svid: held.in_force.as_ref().map(|(svid, _)| Arc::clone(svid)),
                rotations: held.rotations,
                error: held.error.clone(),
            })
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

impl Held {
    fn renewed(&mut self, svid: Svid, credentials: Credentials, now: SystemTime) {
        self.rotation.on_success(now, svid.not_after());
        self.rotations += u64::from(self.in_force.is_some());
        self.in_force = Some((Arc::new(svid), Arc::new(credentials)));
        self.error = None;
    }

    fn failed(&mut self, id: &SpiffeId, error: IssueError, now: SystemTime) {
        self.rotation.on_failure(now);
        let failures = self.rotation.failures();
        tracing::warn!(%id, %error, failures, "renewing an SVID; the one in force serves while it's valid");
        self.error = Some(error.to_string());
    }
}

/// Why an SVID could not be put in force.
#[derive(Debug, thiserror::Error)]
enum IssueError {
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    #[error("{0}")]
    Source(SourceError),
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Mutex;
    use std::time::Duration;

    use adit_identity::{CertificateAuthority, EmbeddedSource};
    use tokio::sync::oneshot;

    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    fn snapshot(accounts: &[&str]) -> Snapshot {
        let services: String = accounts
            .iter()
            .map(|name| {
                format!("  - {{namespace: shop, name: {name}, serviceAccountName: {name}, command: [sleep, '9']}}\n")
            })
            .collect();
        let text = format!(
            "apiVersion: adit.dev/v1alpha1\nkind: Mesh\nname: demo\nnamespaces:\n  - name: shop\nworkloads:\n{services}"
        );
        let loaded =
            adit_control::parse("demo.yaml".as_ref(), &text).unwrap_or_else(|report| panic!("{report:?}"));
        let view = adit_control::View {
            node: None,
            ready: &|_| true,
            joined: &[],
            generation: 1,
        };
        adit_control::build(&loaded.mesh, view)
    }

    fn embedded(domain: &adit_identity::TrustDomain, now: SystemTime) -> EmbeddedSource {
        EmbeddedSource::new(CertificateAuthority::new(domain.clone(), now).unwrap(), TTL)
    }

    fn issuer(domain: &adit_identity::TrustDomain, now: SystemTime) -> Issuer {
        Issuer::new(Box::new(embedded(domain, now)), 7).0
    }

    /// One who waits for an answer.
    type Asked = oneshot::Sender<Result<IssuedSvid, SourceError>>;

    /// Answers when the test has it answer, in the order asked.
    #[derive(Clone, Default)]
    struct Slow {
        asked: Arc<Mutex<Vec<Asked>>>,
    }

    impl SvidSource for Slow {
        fn obtain(&self, _: &SpiffeId, _: SystemTime) -> Obtaining {
            let (answer, answered) = oneshot::channel();
            self.asked.lock().unwrap().push(answer);
            Box::pin(async move { answered.await? })
        }
    }

    impl Slow {
        fn answer(&self, outcome: Result<IssuedSvid, SourceError>) {
            let asked = self.asked.lock().unwrap().remove(0);
            assert!(asked.send(outcome).is_ok());
        }
    }

    #[tokio::test]
    async fn a_source_that_takes_its_time_is_asked_once_and_heard_later() {
        let now = SystemTime::now();
        let mesh = snapshot(&["web"]);
        let slow = Slow::default();
        let (mut issuer, mut answers) = Issuer::new(Box::new(slow.clone()), 7);
        issuer.follow(&mesh, &[], now);
        assert_eq!(
            issuer.renew(now),
            None,
            "nothing to come again for: the answer wakes"
        );
        let id = issuer.status()[0].id.clone();
        assert!(issuer.identities().credentials(&id).is_none());
        assert_eq!(slow.asked.lock().unwrap().len(), 1);

        slow.answer(Err("the signer is away".into()));
        issuer.answered(answers.recv().await.unwrap(), now);
        assert_eq!(issuer.status()[0].error.as_deref(), Some("the signer is away"));
        let again = issuer.renew(now).expect("it's tried again");
        assert!(again > now && again <= now + Duration::from_secs(1));

        assert_eq!(issuer.renew(again), None);
        slow.answer(embedded(&mesh.trust_domain, now).obtain(&id, now).await);
        issuer.answered(answers.recv().await.unwrap(), again);
        assert!(issuer.identities().credentials(&id).is_some());
        assert_eq!(issuer.status()[0].error, None);
    }

    #[tokio::test]
    async fn an_answer_for_who_is_gone_is_let_go() {
        let now = SystemTime::now();
        let mesh = snapshot(&["web"]);
        let slow = Slow::default();
        let (mut issuer, mut answers) = Issuer::new(Box::new(slow.clone()), 7);
        issuer.follow(&mesh, &[], now);
        let id = issuer.status()[0].id.clone();
        issuer.follow(&snapshot(&[]), &[], now);
        slow.answer(embedded(&mesh.trust_domain, now).obtain(&id, now).await);
        issuer.answered(answers.recv().await.unwrap(), now);
        assert!(issuer.identities().credentials(&id).is_none() && issuer.status().is_empty());
    }

    #[test]
    fn a_failed_renewal_leaves_what_is_in_force() {
        struct Fails;
        impl SvidSource for Fails {
            fn obtain(&self, _: &SpiffeId, _: SystemTime) -> Obtaining {
                Box::pin(ready(Err("no".into())))
            }
        }
        let now = SystemTime::now();
        let mesh = snapshot(&["web"]);
        let mut issuer = issuer(&mesh.trust_domain, now);
        issuer.follow(&mesh, &[], now);
        let due = issuer.renew(now).unwrap();
        issuer.source = Box::new(Fails);
        assert!(issuer.renew(due).is_some_and(|next| next > due));
        let status = issuer.status().remove(0);
        assert!(issuer.identities().credentials(&status.id).is_some());
        assert_eq!((status.rotations, status.error.as_deref()), (0, Some("no")));
    }

    #[test]
    fn each_local_identity_is_held_and_others_are_let_go() {
        let now = SystemTime::now();
        let two = snapshot(&["web", "api"]);
        let mut issuer = issuer(&two.trust_domain, now);
        issuer.follow(&two, &[], now);
        assert_eq!(issuer.status().len(), 2);
        let api = issuer.status()[0].id.clone();
        issuer.follow(&snapshot(&["web"]), &[], now);
        assert_eq!(issuer.status().len(), 1);
        assert!(issuer.identities().credentials(&api).is_none());
    }

    /// A pod that is outside the mesh still, and has its SVID when it joins.
    #[test]
    fn who_is_about_to_join_is_asked_for_already() {
        let now = SystemTime::now();
        let mut mesh = snapshot(&["web", "api"]);
        for workload in mesh.workloads.values_mut() {
            Arc::make_mut(workload).in_mesh = false;
        }
        let web = mesh
            .workloads
            .keys()
            .find(|name| name.name.starts_with("web"))
            .unwrap()
            .clone();
        let mut issuer = issuer(&mesh.trust_domain, now);
        issuer.follow(&mesh, &[], now);
        assert!(issuer.status().is_empty());
        issuer.follow(&mesh, &[web], now);
        let held = issuer.status();
        assert_eq!(held.len(), 1);
        assert!(issuer.identities().credentials(&held[0].id).is_some());
    }

    #[test]
    fn an_svid_is_renewed_before_it_runs_out_and_keeps_its_identity() {
        let start = SystemTime::now();
        let mesh = snapshot(&["web"]);
        let mut issuer = issuer(&mesh.trust_domain, start);
        issuer.follow(&mesh, &[], start);
        let first = issuer.status().remove(0);
        let due = issuer.renew(start).expect("a renewal is scheduled");
        assert!(due < first.svid.as_ref().unwrap().not_after());
        issuer.renew(due);
        let second = issuer.status().remove(0);
        assert_eq!((second.id, second.rotations), (first.id, 1));
        assert!(second.svid.unwrap().not_after() > first.svid.unwrap().not_after());
    }
}
