//! The cells, and what is expected of each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a cell's process may do, and what it finds around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// uid 0 with every capability.
    Root,
    /// uid 1000 without any.
    User,
    /// As a container of a pod that must not run as root: uid 65532, no capability to be had, no new privileges, parts of
    /// /proc hidden or read-only, /sys read-only, no device but the harmless ones.
    Container,
    /// The same as uid 0, as containers run by themselves.
    ContainerRoot,
    /// Every file system read-only but /run and /tmp, and a seccomp filter that forbids what container runtimes forbid,
    /// but for namespaces and mounts. On a node it's the agent that has the filter, as the chart has it.
    ReadOnly,
    /// `user.max_user_namespaces` is 0.
    NoUserNamespaces,
    /// /dev/net/tun is root's alone.
    ClosedTun,
    /// The kernel was started with `ipv6.disable=1`.
    NoIpv6,
    /// A root file system that holds the adit program, the test's, and nothing else: no shell, no library, no /etc.
    Bare,
}

/// Which of adit's two paths is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// A mesh on one machine: `adit up`.
    Laptop,
    /// A cluster's node: helper and agent, with pods that run already.
    Node,
}

/// What pods' packets go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// A TUN device.
    Tun,
    /// A veth pair with a packet socket.
    Packet,
}

/// One thing to try on a kernel. Shown, and read, as `laptop/tun/user`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cell {
    /// Under which condition.
    pub condition: Condition,
    /// Which path.
    pub path: Path,
    /// Over which link.
    pub link: Link,
}

/// What a cell should come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It works.
    Works,
    /// It can't, and this code says why: of the command that fails.
    Refused(&'static str),
}

/// A kernel's version, as far as anything depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// `6` of 6.1.
    pub major: u32,
    /// `1` of it.
    pub minor: u32,
}

/// From this version on nobody maps root into a user namespace without CAP_SETFCAP: 5.12 brought it, and stable releases of 5.10
/// have it, Debian's among them.
const MAPPING_ROOT_IS_PRIVILEGED: Version = Version { major: 5, minor: 10 };

impl Condition {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Root,
        Self::User,
        Self::Container,
        Self::ContainerRoot,
        Self::ReadOnly,
        Self::NoUserNamespaces,
        Self::ClosedTun,
        Self::NoIpv6,
        Self::Bare,
    ];

    /// Its name in a cell's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::User => "user",
            Self::Container => "container",
            Self::ContainerRoot => "container-root",
            Self::ReadOnly => "read-only",
            Self::NoUserNamespaces => "no-userns",
            Self::ClosedTun => "tun-0600",
            Self::NoIpv6 => "no-ipv6",
            Self::Bare => "bare",
        }
    }

    /// The kernel's parameters that it takes: its cells have a boot of their own then.
    pub fn kernel_parameter(self) -> Option<&'static str> {
        (self == Self::NoIpv6).then_some("ipv6.disable=1")
    }
}

impl Path {
    /// Its name in a cell's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Laptop => "laptop",
            Self::Node => "node",
        }
    }
}

impl Link {
    /// Its name in a cell's, and on adit's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::Packet => "packet",
        }
    }
}

impl Cell {
    /// All cells of a kernel, in the order in which they are shown.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for path in [Path::Laptop, Path::Node] {
            for link in [Link::Tun, Link::Packet] {
                all.extend(Condition::ALL.map(|condition| Self {
                    condition,
                    path,
                    link,
                }));
            }
        }
        all
    }

    /// What should come of it.
    pub fn expected(self, kernel: Version) -> Expected {
        use Expected::{Refused, Works};
        match (self.path, self.condition, self.link) {
            (Path::Laptop, Condition::NoUserNamespaces, _) => Refused("ADIT-N001"),
            (Path::Laptop, Condition::ContainerRoot, _) if kernel >= MAPPING_ROOT_IS_PRIVILEGED => {
                Refused("ADIT-N002")
            }
            (
                Path::Laptop,
                Condition::Container | Condition::ContainerRoot | Condition::ClosedTun,
                Link::Tun,
            ) => Refused("ADIT-N004"),
            // The helper needs root of the node.
            (Path::Node, Condition::User | Condition::Container | Condition::ContainerRoot, _) => {
                Refused("ADIT-N039")
            }
            _ => Works,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, link) = (self.path.name(), self.link.name());
        write!(f, "{path}/{link}/{}", self.condition.name())
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::all().into_iter().find(|cell| cell.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is no cell, expected one such as laptop/tun/user"))
    }
}

impl From<Cell> for String {
    fn from(cell: Cell) -> Self {
        cell.to_string()
    }
}

impl TryFrom<String> for Cell {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Version {
    /// Of what `uname -r` says; 0.0 where that isn't a version.
    pub fn of_release(release: &str) -> Self {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        Self {
            major: number(),
            minor: number(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let all = Cell::all();
        assert_eq!(all.len(), 36);
        for cell in all {
            assert_eq!(cell.to_string().parse(), Ok(cell));
        }
        assert!("laptop/tun/nobody".parse::<Cell>().is_err());
    }

    #[test]
    fn versions_are_read_from_releases() {
        let version = |major, minor| Version { major, minor };
        assert_eq!(Version::of_release("5.10.0-32-cloud-amd64"), version(5, 10));
        assert_eq!(Version::of_release("6.12+deb13"), version(6, 12));
        assert!(version(5, 12) > version(5, 10) && version(6, 1) > version(5, 12));
        assert_eq!(Version::of_release("none"), version(0, 0));
    }

    #[test]
    fn an_older_kernel_lets_a_containers_root_map_itself() {
        let cell: Cell = "laptop/packet/container-root".parse().unwrap();
        assert_eq!(cell.expected(Version::of_release("5.9.0")), Expected::Works);
        assert_eq!(
            cell.expected(Version::of_release("6.1.0")),
            Expected::Refused("ADIT-N002")
        );
    }
}
