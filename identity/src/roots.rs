use std::time::{Duration, SystemTime};

use crate::{CaError, CertificateAuthority, InvalidBundle, TrustBundle, TrustDomain};

/// The roots of an authority that outlives each of them: one signs, another may be on its way in or out.
///
/// ```text
///            made               signs                              no SVID of it is left
///  new root    ├──── spread ─────┼─────────────── … ────────────────┤
///  old root  ──┼─ signs ─────────┼──── outlives what it signed ─────┤ gone
///  bundle      │    both                        both              new alone
/// ```
///
/// Agents learn the bundle with each SVID, so a root must be in every bundle (`spread`) before it signs the first SVID that
/// a peer may see, and stay as long as an SVID of its may live. All of it follows from when the roots were made and the time:
/// there is no state to lose but the roots themselves.
#[derive(Debug)]
pub struct Roots {
    policy: RootPolicy,
    /// In the order in which they were made; never empty.
    roots: Vec<CertificateAuthority>,
}

/// When roots come and go. `life` is longer than `successor` and twice `spread` together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPolicy {
    /// How long a root is valid. Default: a year.
    pub life: Duration,
    /// How long before its end the newest root gets a successor. Default: a third of the year.
    pub successor: Duration,
    /// How long a root is in the bundle before it signs, and after. At least as long as the longest-lived SVID: an agent
    /// renews within that time, and gets the new bundle with it. Default: two days.
    pub spread: Duration,
}

impl Default for RootPolicy {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            life: DAY * 365,
            successor: DAY * 120,
            spread: DAY * 2,
        }
    }
}

impl Roots {
    /// One new root, which signs at once.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn new(trust_domain: TrustDomain, policy: RootPolicy, now: SystemTime) -> Result<Self, CaError> {
        let root = CertificateAuthority::with_ttl(trust_domain, now, policy.life)?;
        Ok(Self {
            policy,
            roots: vec![root],
        })
    }

    /// The roots that [`to_pem`](Self::to_pem) wrote.
    ///
    /// # Errors
    /// A text that isn't certificates, each followed by its key.
    pub fn from_pem(trust_domain: &TrustDomain, policy: RootPolicy, text: &str) -> Result<Self, CaError> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        let mut roots = Vec::new();
        for part in text.split(BEGIN).skip(1) {
            let root = CertificateAuthority::from_pem(trust_domain.clone(), &format!("{BEGIN}{part}"))?;
            roots.push(root);
        }
        if roots.is_empty() {
            // Says what is wrong with it.
            roots.push(CertificateAuthority::from_pem(trust_domain.clone(), text)?);
        }
        roots.sort_by_key(CertificateAuthority::made_at);
        let roots = Self { policy, roots };
        roots.try_bundle().map_err(|source| CaError::BadRoot {
            trust_domain: trust_domain.clone(),
            source,
        })?;
        Ok(roots)
    }

    /// All roots with their keys. **A secret**: whoever has it is every workload.
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(CertificateAuthority::to_pem).collect()
    }

    /// Makes what is due and drops what is over. Returns whether anything changed: the roots are then to be stored before
    /// anybody is told of them.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn advance(&mut self, now: SystemTime) -> Result<bool, CaError> {
        let before = self.roots.len();
        // Whatever was signed before the successor took over has had its time when it has signed for `spread`.
        if let Some(signing_for) = self.signing_for(now)
            && signing_for >= self.policy.spread
        {
            self.roots.drain(..self.signer_index(now));
        }
        let newest = self.roots.last().expect("there is always a root");
        let changed = self.roots.len() != before;
        if newest.not_after() > now + self.policy.successor {
            return Ok(changed);
        }
        let trust_domain = newest.trust_domain().clone();
        let successor = CertificateAuthority::with_ttl(trust_domain, now, self.policy.life)?;
        self.roots.push(successor);
        Ok(true)
    }

    /// The root that signs at `now`.
    pub fn signer(&self, now: SystemTime) -> &CertificateAuthority {
        &self.roots[self.signer_index(now)]
    }

    /// What peers are to trust: all roots.
    pub fn bundle(&self) -> TrustBundle {
        self.try_bundle()
            .expect("what was read was checked, and each that was made since replaces another")
    }

    fn try_bundle(&self) -> Result<TrustBundle, InvalidBundle> {
        let roots = self.roots.iter().flat_map(|root| root.bundle().roots().to_vec());
        let trust_domain = self.roots[0].trust_domain().clone();
        TrustBundle::new(trust_domain, roots)
    }

    /// The newest that everybody has heard of; any that is valid rather than none.
    fn signer_index(&self, now: SystemTime) -> usize {
        let known = |root: &CertificateAuthority| now >= root.made_at() + self.policy.spread;
        let valid = |root: &CertificateAuthority| now < root.not_after();
        let newest_known = self.roots.iter().rposition(|root| known(root) && valid(root));
        newest_known
            .or_else(|| self.roots.iter().position(valid))
            .unwrap_or(self.roots.len() - 1)
    }

    /// How long the signer has been signing; `None` for the first of all, which has no one to outlive.
    fn signing_for(&self, now: SystemTime) -> Option<Duration> {
        let index = self.signer_index(now);
        let began = self.roots[index].made_at() + self.policy.spread;
        (index > 0).then(|| now.duration_since(began).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expected, PeerRole, Svid, verify};

    const DAY: Duration = Duration::from_secs(24 * 3600);
    /// An SVID's life, as long as `spread` allows.
    const TTL: Duration = Duration::from_secs(2 * 24 * 3600);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn domain() -> TrustDomain {
        "demo.local".parse().unwrap()
    }

    fn roots() -> Roots {
        Roots::new(domain(), RootPolicy::default(), start()).unwrap()
    }

    fn count(roots: &Roots) -> usize {
        roots.bundle().roots().len()
    }

    #[test]
    fn the_first_root_signs_at_once_and_alone() {
        let mut roots = roots();
        assert!(!roots.advance(start()).unwrap());
        let id = "spiffe://demo.local/ns/shop/sa/web".parse().unwrap();
        assert!(roots.signer(start()).issue(&id, start(), TTL).is_ok());
        assert_eq!(count(&roots), 1);
    }

    #[test]
    fn a_successor_is_announced_then_signs_then_is_alone() {
        let mut roots = roots();
        let first = roots.signer(start()).bundle().clone();
        assert!(!roots.advance(start() + DAY * 244).unwrap());
        let made = start() + DAY * 246;
        assert!(roots.advance(made).unwrap());
        assert_eq!(count(&roots), 2);
        assert_eq!(*roots.signer(made).bundle(), first, "nobody knows the second yet");
        assert!(!roots.advance(made + DAY).unwrap(), "one successor is enough");
        let takes_over = made + DAY * 2;
        assert_ne!(*roots.signer(takes_over).bundle(), first);
        assert!(
            !roots.advance(takes_over + DAY).unwrap(),
            "SVIDs of the first live"
        );
        assert!(roots.advance(takes_over + DAY * 2).unwrap());
        assert_eq!(count(&roots), 1);
    }

    #[test]
    fn roots_are_stored_and_found_again_in_the_middle_of_a_change() {
        let mut roots = roots();
        let made = start() + DAY * 246;
        roots.advance(made).unwrap();
        let again = Roots::from_pem(&domain(), RootPolicy::default(), &roots.to_pem()).unwrap();
        assert_eq!(again.bundle(), roots.bundle());
        for days in [0, 1, 2, 3] {
            let now = made + DAY * days;
            assert_eq!(
                again.signer(now).bundle(),
                roots.signer(now).bundle(),
                "day {days}"
            );
        }
        assert!(Roots::from_pem(&domain(), RootPolicy::default(), "junk").is_err());
        assert!(Roots::from_pem(&domain(), RootPolicy::default(), "").is_err());
    }

    #[test]
    fn an_authority_that_slept_through_it_goes_on() {
        let mut roots = roots();
        let late = start() + DAY * 400;
        assert!(roots.advance(late).unwrap());
        let id = "spiffe://demo.local/ns/shop/sa/web".parse().unwrap();
        assert!(
            roots.signer(late).issue(&id, late, TTL).is_ok(),
            "a root that is valid signs, known or not"
        );
    }

    /// Over three years: whatever SVID is in force anywhere, whoever renewed last within the life of an SVID accepts it.
    #[test]
    fn no_svid_in_force_is_ever_unknown_to_a_peer() {
        let mut roots = roots();
        let id = "spiffe://demo.local/ns/shop/sa/web".parse().unwrap();
        let mut held: Vec<(Svid, TrustBundle)> = Vec::new();
        let mut most = 0;
        for half_days in 0..(3 * 365 * 2) {
            let now = start() + DAY / 2 * half_days;
            roots.advance(now).unwrap();
            most = most.max(count(&roots));
            let svid = roots.signer(now).issue(&id, now, TTL).unwrap();
            held.push((svid, roots.bundle()));
            held.retain(|(svid, _)| svid.not_after() > now);
            for (_, bundle) in &held {
                for (svid, _) in &held {
                    let seen = verify(svid.chain(), PeerRole::Client, bundle, Expected::Id(&id), now);
                    seen.unwrap_or_else(|error| panic!("after {} days: {error:?}", half_days / 2));
                }
            }
        }
        assert_eq!(most, 2);
    }
}
