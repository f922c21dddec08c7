//! What a finding is about, for people to read them in groups.

use std::fmt;

use super::Finding;
use crate::codes::Code;

/// A group of findings, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// The kernel, and where it runs.
    Host,
    /// What a pod is made of.
    Namespaces,
    /// What a pod's packets go through.
    Links,
    /// What the agent and programs give up.
    Confinement,
    /// What the host grants.
    Limits,
    /// What a Kubernetes node needs.
    Node,
    /// The container runtime's network plugins.
    Cni,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Namespaces => "namespaces",
            Self::Links => "links",
            Self::Confinement => "confinement",
            Self::Limits => "limits",
            Self::Node => "node",
            Self::Cni => "CNI",
        })
    }
}

impl Finding {
    /// The group that it belongs to.
    #[must_use]
    pub fn section(&self) -> Section {
        match self.code {
            Code::CHECK_USER_NAMESPACE
            | Code::CHECK_POD
            | Code::CHECK_PID_NAMESPACE
            | Code::CHECK_IPV6
            | Code::CHECK_ENTER
            | Code::CHECK_INCOMPLETE => Section::Namespaces,
            Code::CHECK_TUN
            | Code::CHECK_CHECKSUM_OFFLOAD
            | Code::CHECK_PACKET
            | Code::CHECK_PACKET_BUFFER => Section::Links,
            Code::CHECK_PING | Code::CHECK_DESCRIPTORS => Section::Limits,
            Code::CHECK_CNI_FOLDER
            | Code::CHECK_CNI_LIST
            | Code::CHECK_CNI_OTHERS
            | Code::CHECK_CNI_BINARIES => Section::Cni,
            code if code >= Code::CHECK_KERNEL => Section::Host,
            code if code >= Code::CHECK_NODE_ROOT => Section::Node,
            _ => Section::Confinement,
        }
    }

    /// What to do about it: its own fix, or what there is to say of its code. `None` when there is nothing to do.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        let own = self.fix.as_deref();
        own.or_else(|| match self.status {
            super::Status::Ok => None,
            super::Status::Warn | super::Status::Fail => self.code.entry().map(|entry| entry.fix),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Status, finding};
    use super::*;

    #[test]
    fn sections_go_by_codes() {
        for (code, section) in [
            (Code::CHECK_USER_NAMESPACE, Section::Namespaces),
            (Code::CHECK_TUN, Section::Links),
            (Code::CHECK_PACKET_BUFFER, Section::Links),
            (Code::CHECK_PING, Section::Limits),
            (Code::CHECK_SECCOMP, Section::Confinement),
            (Code::CHECK_NODE_JOIN, Section::Node),
            (Code::CHECK_CNI_LIST, Section::Cni),
            (Code::CHECK_NODE_HELPER, Section::Node),
            (Code::CHECK_FARGATE, Section::Host),
        ] {
            assert_eq!(finding(code, Status::Ok, "", "").section(), section, "{code}");
        }
    }

    #[test]
    fn whatever_is_wrong_has_a_fix() {
        let mut found = finding(Code::CHECK_INCOMPLETE, Status::Fail, "", "");
        assert_eq!(found.remedy(), Some("run adit check again"));
        found = found.with_fix("wait");
        assert_eq!(found.remedy(), Some("wait"));
        assert_eq!(finding(Code::CHECK_TUN, Status::Ok, "", "").remedy(), None);
    }
}
