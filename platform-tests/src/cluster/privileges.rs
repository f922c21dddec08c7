//! What a process may do, as its `/proc/PID/status` says.

use std::str::FromStr;

/// The lines of `/proc/PID/status` about privilege.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Real, effective, saved and file system user.
    pub uids: Vec<u32>,
    /// Inheritable, permitted, effective, bounding and ambient capabilities.
    pub capabilities: [u64; 5],
    /// Whether it can't get more by executing a program.
    pub no_new_privileges: bool,
    /// Whether system calls are filtered.
    pub filtered: bool,
}

/// A text lacks a line, which is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidStatus(pub &'static str);

impl Privileges {
    /// What is wrong with them for a process that shall have none, if anything is.
    pub fn fault(&self) -> Option<String> {
        if self.uids.contains(&0) {
            return Some(format!("it runs as root: {self:?}"));
        }
        if self.capabilities != [0; 5] {
            return Some(format!("it has capabilities: {self:x?}"));
        }
        if !(self.no_new_privileges && self.filtered) {
            return Some(format!("it lacks no-new-privileges or seccomp: {self:?}"));
        }
        None
    }
}

impl FromStr for Privileges {
    type Err = InvalidStatus;

    fn from_str(status: &str) -> Result<Self, InvalidStatus> {
        let line = |name: &'static str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
                .ok_or(InvalidStatus(name))
        };
        let set = |name| u64::from_str_radix(line(name)?, 16).map_err(|_| InvalidStatus(name));
        Ok(Self {
            uids: line("Uid")?
                .split_whitespace()
                .map_while(|uid| uid.parse().ok())
                .collect(),
            capabilities: [
                set("CapInh")?,
                set("CapPrm")?,
                set("CapEff")?,
                set("CapBnd")?,
                set("CapAmb")?,
            ],
            no_new_privileges: line("NoNewPrivs")? == "1",
            filtered: line("Seccomp")? == "2",
        })
    }
}

impl std::fmt::Display for InvalidStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected a line `{}:` of /proc/PID/status", self.0)
    }
}

impl std::error::Error for InvalidStatus {}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "Name:\tadit\nUid:\t65532\t65532\t65532\t65532\nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn each_line_counts() {
        let fault = |text: &str| text.parse::<Privileges>().expect("all lines are there").fault();
        assert_eq!(fault(NONE), None);
        for (from, to) in [
            ("Uid:\t65532\t65532", "Uid:\t65532\t0"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000001000"),
            ("CapBnd:\t0000000000000000", "CapBnd:\t00000000a80425fb"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
        ] {
            assert!(fault(&NONE.replace(from, to)).is_some(), "{to}");
        }
        assert_eq!("Name:\tadit".parse::<Privileges>(), Err(InvalidStatus("Uid")));
    }
}
