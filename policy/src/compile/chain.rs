//! What is looked at for one class of workloads: its policies in the order in which they count, nothing else.

use std::sync::Arc;

use crate::model::MtlsMode;

/// The policies of the network layer that select a class, in order, for one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Chain {
    pub(crate) links: Box<[Link]>,
}

/// One policy of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    /// Which tier, as an index of the set's tiers.
    pub(crate) tier: u32,
    /// Which policy, as an index of the set's policies.
    pub(crate) slot: u32,
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
    pub(crate) ingress: Arc<Chain>,
    pub(crate) egress: Arc<Chain>,
    /// The chains as they would be with the staged policies, where some concern the class.
    pub(crate) pending: Option<Box<Pending>>,
    pub(crate) mesh: Option<Arc<MeshChain>>,
}

/// See [`Chains::pending`].
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) ingress: Arc<Chain>,
    pub(crate) egress: Arc<Chain>,
}
