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
    /// Where each is from. Only the one that decides is asked, so that they lie beside and not between the links.
    origins: Arc<[LinkOrigin]>,
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
    /// A chain of `links`, of which those from `egress_at` on are about what leaves, and where each is from.
    pub(crate) fn new(links: &[Link], origins: &[LinkOrigin], egress_at: usize) -> Self {
        Self {
            links: links.into(),
            origins: origins.into(),
            // A link is 16 bytes: memory ends before 32 bits do.
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

    /// Where the link at `place` of [`Chain::links`] is from.
    #[inline]
    pub(crate) fn origin(&self, direction: Direction, place: usize) -> LinkOrigin {
        match direction {
            Direction::Egress => self.origins[self.egress_at as usize + place],
            Direction::Ingress => self.origins[place],
        }
    }
}

/// One step of a [`Chain`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    /// A rule.
    Rule(Gate),
    /// The end of a tier that has policies for the class.
    TierEnd {
        /// Whether a flow that gets here leaves the tier; if not, it is denied.
        passes: bool,
    },
}

/// Where a [`Link`] is from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkOrigin {
    /// Which policy, as an index of the set's policies. At a tier's end the one to name: the first that couldn't be
    /// compiled, as it may be why nothing matched, or the first.
    pub(crate) slot: u32,
    /// Which of the policy's rules of this direction; 0 at a tier's end.
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
    fn a_cache_line_holds_four_links_or_the_chains_of_a_class() {
        assert_eq!((size_of::<Link>(), size_of::<Chains>()), (16, 64));
    }
}
