use adit_flow::VerdictKind;

use crate::flow::Flow;
use crate::verdict::{Decision, Trace, Verdict};

/// Compiled policies and the workloads they are about: immutable, shared behind an `Arc`, replaced whole.
#[derive(Clone, Debug)]
pub struct PolicySet {
    generation: u64,
}

impl PolicySet {
    /// The set without any policy, of generation 0: every flow is allowed by default.
    pub fn allow_all() -> Self {
        Self { generation: 0 }
    }

    /// Rises by one with every set that one compiler publishes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Judges `flow` where it leaves its source.
    pub fn egress(&self, _flow: &Flow, _trace: Trace) -> Decision {
        Decision::new(Verdict::new(self.generation, VerdictKind::Allow))
    }

    /// Judges `flow` where it enters its destination, mesh authorization included.
    pub fn ingress(&self, _flow: &Flow, _trace: Trace) -> Decision {
        Decision::new(Verdict::new(self.generation, VerdictKind::Allow))
    }
}

impl Default for PolicySet {
    fn default() -> Self {
        Self::allow_all()
    }
}
