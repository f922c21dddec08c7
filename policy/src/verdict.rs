use adit_flow::{PolicyTrace, VerdictKind};

/// How much of the way to the verdict is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trace {
    /// What decided, and nothing else: the data path.
    #[default]
    Off,
    /// Every tier, policy and rule that was looked at: `explain`, `eval`.
    On,
}

/// The engine's answer for one side of a flow.
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// The flow may proceed; the permit is the proof.
    Allowed(Permit),
    /// It may not.
    Denied(Denial),
}

/// The proof that the engine allowed a flow. The path takes it by value; nothing but the engine can make one.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    verdict: Verdict,
}

/// The record of a refusal.
#[derive(Debug)]
#[must_use]
pub struct Denial {
    verdict: Verdict,
}

/// What was decided, by what, and what staged policies would have decided.
#[derive(Clone, Debug)]
pub struct Verdict {
    generation: u64,
    kind: VerdictKind,
}

impl Decision {
    pub(crate) fn new(verdict: Verdict) -> Self {
        match verdict.kind {
            VerdictKind::Allow => Self::Allowed(Permit { verdict }),
            VerdictKind::Deny => Self::Denied(Denial { verdict }),
        }
    }

    /// The verdict, whichever it is.
    pub fn verdict(&self) -> &Verdict {
        match self {
            Self::Allowed(permit) => permit.verdict(),
            Self::Denied(denial) => denial.verdict(),
        }
    }

    /// Whether the flow may proceed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

impl Permit {
    /// The verdict behind the permit.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl Denial {
    /// The verdict behind the denial.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl Verdict {
    pub(crate) fn new(generation: u64, kind: VerdictKind) -> Self {
        Self { generation, kind }
    }

    /// Allow or deny.
    pub fn kind(&self) -> VerdictKind {
        self.kind
    }

    /// The generation of the set that decided.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What decided, `tier/kind/[namespace/]name/rule` or a default such as `default-allow`. Rendered on each call.
    pub fn decided_by(&self) -> String {
        "default-allow".to_owned()
    }

    /// The reason in words. Rendered on each call.
    pub fn reason(&self) -> String {
        String::new()
    }

    /// What staged policies would have decided, where any concerns this workload.
    pub fn pending(&self) -> Option<VerdictKind> {
        None
    }

    /// The verdict as a flow record carries it. Rendered on each call.
    pub fn policy_trace(&self) -> PolicyTrace {
        PolicyTrace {
            decided_by: self.decided_by(),
            reason: self.reason(),
        }
    }
}
