//! `adit policy explain`: one question, both sides, the way to the answer.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use adit_flow::{FourTuple, Protocol, VerdictKind, WorkloadName};
use adit_identity::{SpiffeId, TrustDomain};

use super::eval::protocol;
use crate::flow::{Flow, Icmp};
use crate::set::PolicySet;
use crate::verdict::{Decision, Trace};

/// One end of a question: a workload or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By address.
    Address(IpAddr),
    /// By name.
    Workload(WorkloadName),
}

/// A question: may this reach that?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Who opens the flow.
    pub from: End,
    /// Whom it is opened to.
    pub to: End,
    /// The destination port; 0 for protocols without.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Whether the flow is plain although both ends may be workloads; else two workloads talk over mutual TLS.
    pub plain: bool,
}

/// A question that can't be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The text is neither an address nor a workload's name.
    #[error("expected NAMESPACE/NAME or an IP address, got {0:?}")]
    BadEnd(String),
    /// The destination has no port, or none that fits.
    #[error("expected a destination as TO:PORT, TO:PORT/PROTOCOL or TO/icmp, got {0:?}")]
    BadDestination(String),
    /// The two ends have no IP version in common.
    #[error("{from} and {to} have no addresses of one IP version")]
    NoCommonVersion {
        /// Who would open the flow.
        from: String,
        /// Whom it would be opened to.
        to: String,
    },
    /// No such workload.
    #[error("no workload {0} is known; the names known are those of the objects given")]
    UnknownWorkload(WorkloadName),
}

impl Query {
    /// Parses `FROM` and `TO:PORT[/proto]`, or `TO/icmp`. IPv6 addresses with a port stand in brackets.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn parse(from: &str, to: &str) -> Result<Self, QueryError> {
        let bad = || QueryError::BadDestination(to.to_owned());
        // A workload's name has a slash of its own; the protocol is what follows the port, or a last `/icmp`.
        let (rest, protocol, has_ports) = match to.rsplit_once('/') {
            Some((rest, word)) if ["icmp", "icmpv6"].contains(&word) => {
                (rest, protocol(word).ok_or_else(bad)?, false)
            }
            Some((rest, word)) if port_of(rest).is_some() => (rest, protocol(word).ok_or_else(bad)?, true),
            _ => (to, Protocol::Tcp, true),
        };
        let (end, port) = if has_ports {
            port_of(rest).ok_or_else(bad)?
        } else {
            (rest, 0)
        };
        Ok(Self {
            from: parse_end(from)?,
            to: parse_end(end)?,
            port,
            protocol,
            plain: false,
        })
    }
}

fn port_of(text: &str) -> Option<(&str, u16)> {
    let (end, port) = text.rsplit_once(':')?;
    // `fd00::1:80` would be an address, not one with a port.
    if end.contains(':') && !end.ends_with(']') {
        return None;
    }
    Some((end, port.parse().ok()?))
}

fn parse_end(text: &str) -> Result<End, QueryError> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Ok(End::Address(address));
    }
    text.parse()
        .map(End::Workload)
        .map_err(|_| QueryError::BadEnd(text.to_owned()))
}

/// Asks a set; keeps what all questions have in common.
#[derive(Clone, Debug)]
pub struct Asker<'s> {
    set: &'s PolicySet,
    trust_domain: TrustDomain,
    outside: HashSet<IpAddr>,
}

/// The answer to a question.
#[derive(Debug)]
pub struct Answer {
    /// The flow as it was judged.
    pub flow: Flow,
    /// At the source, if a workload is there.
    pub egress: Option<Decision>,
    /// At the destination, if a workload is there.
    pub ingress: Option<Decision>,
}

impl<'s> Asker<'s> {
    /// Asks `set`, whose workloads have identities in `trust_domain`.
    pub fn new(set: &'s PolicySet, trust_domain: TrustDomain) -> Self {
        Self {
            set,
            trust_domain,
            outside: HashSet::new(),
        }
    }

    /// Takes the workloads at these addresses for ones outside the mesh: flows from and to them are plain.
    #[must_use]
    pub fn with_outside(self, outside: HashSet<IpAddr>) -> Self {
        Self { outside, ..self }
    }

    /// Judges both sides of the flow that the question is about.
    ///
    /// # Errors
    /// If an end isn't known or the two have no IP version in common.
    pub fn ask(&self, query: &Query, trace: Trace) -> Result<Answer, QueryError> {
        let (from, to) = (self.addresses(&query.from)?, self.addresses(&query.to)?);
        let pair = from.iter().find_map(|from| {
            let to = to.iter().find(|to| to.is_ipv4() == from.is_ipv4())?;
            Some((*from, *to))
        });
        let (from, to) = pair.ok_or_else(|| QueryError::NoCommonVersion {
            from: name(&query.from),
            to: name(&query.to),
        })?;
        Ok(self.ask_between(from, to, query.port, query.protocol, query.plain, trace))
    }

    /// As [`Asker::ask`], for ends whose addresses are known.
    pub fn ask_between(
        &self,
        from: IpAddr,
        to: IpAddr,
        port: u16,
        protocol: Protocol,
        plain: bool,
        trace: Trace,
    ) -> Answer {
        let has_left = [from, to].iter().any(|end| self.outside.contains(end));
        let in_mesh = !plain && !has_left && protocol == Protocol::Tcp && self.set.workload_at(to).is_some();
        let flow = Flow {
            // A source port that no policy is likely to be about.
            tuple: FourTuple::new(SocketAddr::new(from, EPHEMERAL), SocketAddr::new(to, port)),
            protocol,
            icmp: match protocol {
                Protocol::Icmp => Some(Icmp { kind: 8, code: 0 }),
                Protocol::Icmpv6 => Some(Icmp { kind: 128, code: 0 }),
                _ => None,
            },
            source_identity: in_mesh.then(|| self.identity(from)).flatten(),
        };
        Answer {
            egress: self.set.workload_at(from).map(|_| self.set.egress(&flow, trace)),
            ingress: self.set.workload_at(to).map(|_| self.set.ingress(&flow, trace)),
            flow,
        }
    }

    fn identity(&self, address: IpAddr) -> Option<SpiffeId> {
        let (workload, account) = self.set.identity_at(address)?;
        SpiffeId::new(self.trust_domain.clone(), &workload.namespace, account).ok()
    }

    fn addresses(&self, end: &End) -> Result<Vec<IpAddr>, QueryError> {
        match end {
            End::Address(address) => Ok(vec![*address]),
            End::Workload(name) => {
                // A name stands for its first replica, as everywhere: policies can't tell replicas apart.
                let known: BTreeMap<&WorkloadName, Vec<IpAddr>> =
                    self.set
                        .workloads()
                        .fold(BTreeMap::new(), |mut known, (address, name)| {
                            known.entry(name).or_insert_with(Vec::new).push(address);
                            known
                        });
                let owned = known.get(name).or_else(|| {
                    let replica = known
                        .keys()
                        .find(|known| known.namespace == name.namespace && known.is_called(&name.name))?;
                    known.get(*replica)
                });
                let mut addresses = owned
                    .cloned()
                    .ok_or_else(|| QueryError::UnknownWorkload(name.clone()))?;
                addresses.sort_unstable();
                Ok(addresses)
            }
        }
    }
}

const EPHEMERAL: u16 = 40_000;

fn name(end: &End) -> String {
    match end {
        End::Address(address) => address.to_string(),
        End::Workload(name) => name.to_string(),
    }
}

impl Answer {
    /// Whether both sides allow it.
    pub fn is_allowed(&self) -> bool {
        self.sides().all(Decision::is_allowed)
    }

    /// The sides that have a workload, the source's first.
    pub fn sides(&self) -> impl Iterator<Item = &Decision> {
        self.egress.iter().chain(&self.ingress)
    }

    /// What decided: the side that denies, or all sides, each as `egress|ingress` and what decided there.
    pub fn decided_by(&self) -> String {
        let text =
            |side: &Decision| format!("{} {}", side.verdict().direction(), side.verdict().decided_by());
        match self.sides().find(|side| !side.is_allowed()) {
            Some(side) => text(side),
            None => self.sides().map(text).collect::<Vec<_>>().join("; "),
        }
    }

    /// What staged and dry-run policies would make of it, where any concerns it.
    pub fn pending(&self) -> Option<VerdictKind> {
        let concerned = self.sides().any(|side| side.verdict().pending().is_some());
        let allows = |side: &Decision| {
            let verdict = side.verdict();
            verdict.pending().unwrap_or_else(|| verdict.kind()) == VerdictKind::Allow
        };
        concerned.then(|| {
            if self.sides().all(allows) {
                VerdictKind::Allow
            } else {
                VerdictKind::Deny
            }
        })
    }

    /// The answer for people: the verdict, then each side with its reason and every rule that was looked at.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let word = if self.is_allowed() { "ALLOWED" } else { "DENIED" };
        let identity = match &self.flow.source_identity {
            Some(id) => format!("mutual TLS as {id}"),
            None => "no verified identity".to_owned(),
        };
        // Writing to a String can't fail.
        _ = writeln!(
            out,
            "{word}  {} {}  ({identity})",
            self.flow.tuple, self.flow.protocol
        );
        if self.sides().next().is_none() {
            _ = writeln!(out, "  neither end is a workload: no policy is about this flow");
        }
        for side in self.sides() {
            let verdict = side.verdict();
            let word = if side.is_allowed() { "allow" } else { "deny" };
            _ = writeln!(
                out,
                "  {}: {word} by {}",
                verdict.direction(),
                verdict.decided_by()
            );
            _ = writeln!(out, "    {}", verdict.reason());
            for step in verdict.steps() {
                _ = writeln!(out, "    - {step}");
            }
            for audit in verdict.audits() {
                _ = writeln!(out, "    audited by {audit}");
            }
            if let Some(pending) = verdict.pending() {
                let by = verdict.pending_decided_by().unwrap_or_default();
                let word = if pending == VerdictKind::Allow {
                    "allow"
                } else {
                    "deny"
                };
                _ = writeln!(out, "    with staged policies: {word} by {by}");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_people_write_them() {
        for (to, port, protocol) in [
            ("shop/db-0:5432", 5432, Protocol::Tcp),
            ("shop/db-0:53/udp", 53, Protocol::Udp),
            ("shop/db-0/icmp", 0, Protocol::Icmp),
            ("10.0.0.1:80", 80, Protocol::Tcp),
            ("[fd00::1]:80/sctp", 80, Protocol::Sctp),
        ] {
            let query = Query::parse("shop/web-0", to).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((query.port, query.protocol), (port, protocol), "{to}");
        }
        for bad in [
            "shop/db-0",
            "10.0.0.1",
            "shop/db-0:99999",
            "shop/db-0:80/tpc",
            "fd00::1:80",
        ] {
            assert!(Query::parse("shop/web-0", bad).is_err(), "{bad} was taken");
        }
        assert!(Query::parse("web", "shop/db-0:1").is_err());
    }
}
