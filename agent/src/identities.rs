//! The SVIDs of the workloads that this agent serves: issued by the embedded CA, renewed before they run out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_control::Snapshot;
use adit_identity::{
    CaError, CertificateAuthority, Rotation, RotationPolicy, RotationStep, SpiffeId, Svid, TrustBundle,
};
use adit_tunnel::{BadCredentials, Credentials};
use arc_swap::ArcSwap;

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

/// Owns the CA and the schedule of each identity.
pub(crate) struct Issuer {
    authority: CertificateAuthority,
    bundle: Arc<TrustBundle>,
    ttl: Duration,
    held: HashMap<SpiffeId, Held>,
    published: Arc<Identities>,
    seed: u64,
}

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
    /// An issuer of SVIDs that are valid for `ttl`. `seed` spreads renewals over time.
    pub(crate) fn new(authority: CertificateAuthority, ttl: Duration, seed: u64) -> Self {
        let bundle = Arc::new(authority.bundle().clone());
        Self {
            authority,
            bundle,
            ttl,
            held: HashMap::new(),
            published: Arc::default(),
            seed,
        }
    }

    /// What workers read.
    pub(crate) fn identities(&self) -> Arc<Identities> {
        Arc::clone(&self.published)
    }

    /// Holds SVIDs for exactly the identities of the local workloads of `snapshot`.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, now: SystemTime) {
        let local = snapshot
            .workloads
            .values()
            .filter(|workload| workload.is_local() && workload.in_mesh);
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

    /// Renews what is due and publishes. Returns when to come again, at the latest.
    pub(crate) fn renew(&mut self, now: SystemTime) -> Option<SystemTime> {
        for (id, held) in &mut self.held {
            while held.rotation.poll(now) == RotationStep::Renew {
                match issue(&self.authority, &self.bundle, id, now, self.ttl) {
                    Ok((svid, credentials)) => held.renewed(svid, credentials, now),
                    Err(error) => held.failed(id, error, now),
                }
            }
        }
        let current = self.held.iter().filter_map(|(id, held)| {
            let (_, credentials) = held.in_force.as_ref()?;
            Some((id.clone(), Arc::clone(credentials)))
        });
        self.published.current.store(Arc::new(current.collect()));
        self.held.values().map(|held| held.rotation.next_attempt()).min()
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
    Authority(#[from] CaError),
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
}

fn issue(
    authority: &CertificateAuthority,
    bundle: &Arc<TrustBundle>,
    id: &SpiffeId,
    now: SystemTime,
    ttl: Duration,
) -> Result<(Svid, Credentials), IssueError> {
    let svid = authority.issue(id, now, ttl)?;
    let credentials = Credentials::new(&svid, Arc::clone(bundle))?;
    Ok((svid, credentials))
}

#[cfg(test)]
mod tests {
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

    fn issuer(domain: &adit_identity::TrustDomain, now: SystemTime) -> Issuer {
        Issuer::new(CertificateAuthority::new(domain.clone(), now).unwrap(), TTL, 7)
    }

    #[test]
    fn each_local_identity_is_held_and_others_are_let_go() {
        let now = SystemTime::now();
        let two = snapshot(&["web", "api"]);
        let mut issuer = issuer(&two.trust_domain, now);
        issuer.follow(&two, now);
        assert_eq!(issuer.status().len(), 2);
        let api = issuer.status()[0].id.clone();
        issuer.follow(&snapshot(&["web"]), now);
        assert_eq!(issuer.status().len(), 1);
        assert!(issuer.identities().credentials(&api).is_none());
    }

    #[test]
    fn an_svid_is_renewed_before_it_runs_out_and_keeps_its_identity() {
        let start = SystemTime::now();
        let mesh = snapshot(&["web"]);
        let mut issuer = issuer(&mesh.trust_domain, start);
        issuer.follow(&mesh, start);
        let first = issuer.status().remove(0);
        let due = issuer.renew(start).expect("a renewal is scheduled");
        assert!(due < first.svid.as_ref().unwrap().not_after());
        issuer.renew(due);
        let second = issuer.status().remove(0);
        assert_eq!((second.id, second.rotations), (first.id, 1));
        assert!(second.svid.unwrap().not_after() > first.svid.unwrap().not_after());
    }
}
