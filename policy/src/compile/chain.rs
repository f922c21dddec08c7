//! What is looked at for one class of workloads: its policies in the order in which they count, nothing else.

use std::sync::{Arc, OnceLock};

use super::ports::PortIndex;
use crate::flow::Direction;
use crate::gate::Gate;
use crate::model::MtlsMode;

/// What the network layer asks of a class: for each direction the gates of all rules in order, each tier's end behind
/// its rules. They lie one behind the other, so that a verdict reads on instead of going from policy to policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    /// Those of ingress, then those of egress.
    links: Arc<[Link]>,
    egress_at: u32,
    /// By port, where there are many links: made when a flow first asks, as most chains are never asked.
    long: Option<Arc<Long>>,
}

/// Both directions of a long chain by port.
#[derive(Debug, Default)]
struct Long {
    ingress: OnceLock<PortIndex>,
    egress: OnceLock<PortIndex>,
}

/// Chains of more links than this are looked at by port. Shorter ones are read faster than an index is.
const LONG: usize = 64;

impl Chain {
    /// A chain of `links`, of which those from `egress_at` on are about what leaves.
    pub(crate) fn new(links: &[Link], egress_at: usize) -> Self {
        Self {
            links: links.into(),
            // A link is 32 bytes: memory ends before 32 bits do.
            egress_at: egress_at as u32,
            long: (links.len() > LONG).then(Arc::default),
        }
    }

    /// The links of one direction by port, where there are many.
    pub(crate) fn by_port(&self, direction: Direction) -> Option<&PortIndex> {
        let long = self.long.as_deref()?;
        let index = match direction {
            Direction::Egress => &long.egress,
            Direction::Ingress => &long.ingress,
        };
        Some(index.get_or_init(|| PortIndex::new(self.links(direction))))
    }

    #[inline]
    pub(crate) fn links(&self, direction: Direction) -> &[Link] {
        let (ingress, egress) = self.links.split_at(self.egress_at as usize);
        match direction {
            Direction::Egress => egress,
            Direction::Ingress => ingress,
        }
    }
}

/// One step of a [`Chain`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    /// A rule.
    Rule(RuleLink),
    /// The end of a tier that has policies for the class.
    TierEnd {
        /// Whether a flow that gets here leaves the tier; if not, it is denied.
        passes: bool,
        /// The policy to name: the first that couldn't be compiled, as it may be why nothing matched, or the first.
        slot: u32,
    },
}

/// A rule of a [`Chain`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuleLink {
    pub(crate) gate: Gate,
    /// Which policy, as an index of the set's policies.
    pub(crate) slot: u32,
    /// Which of the policy's rules of this direction.
    pub(crate) rule: u32,
}

/// Istio's policies that select a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MeshChain {
    /// DENY policies: looked at first.
    pub(crate) deny: Box<[u32]>,
    /// ALLOW policies.
    pub(crate) allow: Box<[u32]>,
    /// AUDIT policies: noted.
    pub(crate) audit: Box<[u32]>,
    /// Policies that only report what they would do.
    pub(crate) dry_run: Box<[u32]>,
    /// Policies with rules that layer 4 can't enforce.
    pub(crate) unenforced: Box<[u32]>,
    /// Which ports take plaintext.
    pub(crate) mtls: PortModes,
}

/// The mode of each port after inheritance, and the policy that set it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortModes {
    /// Single ports, sorted.
    pub(crate) ports: Box<[(u16, MtlsMode, u32)]>,
    /// The others; `None` where nothing is set: both are taken.
    pub(crate) other: Option<(MtlsMode, u32)>,
}

impl PortModes {
    /// The mode of `port` and the policy that set it.
    pub(crate) fn of(&self, port: u16) -> Option<(MtlsMode, u32)> {
        match self.ports.binary_search_by_key(&port, |(port, _, _)| *port) {
            Ok(index) => Some((self.ports[index].1, self.ports[index].2)),
            Err(_) => self.other,
        }
    }
}

impl MeshChain {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All chains of a class.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chains {
    pub(crate) enforced: Chain,
    /// The chain as it would be with the staged policies, where some concern the class.
    pub(crate) pending: Option<Arc<Chain>>,
    pub(crate) mesh: Option<Arc<MeshChain>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_line_holds_two_links() {
        assert!(size_of::<Link>() <= 32, "{} bytes", size_of::<Link>());
    }
}
