//! What `/proc` says of processes and mounts.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor of all its threads since it began, user and system, to 10 ms.
    pub cpu: Duration,
    /// Memory that it alone keeps resident (anonymous pages), in bytes: what grows with connections.
    pub anonymous: u64,
    /// All resident memory with the pages of files, in bytes.
    pub resident: u64,
}

/// What a process uses now; `None` if there is no such process.
pub fn usage(pid: u32) -> Option<Usage> {
    /// What the kernel calls USER_HZ: 100 on every architecture that Linux exports it on.
    const TICKS: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may have spaces; fields 14 and 15 are the times (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Usage {
        cpu: Duration::from_millis(ticks * 1000 / TICKS),
        anonymous: kib("RssAnon:")? * 1024,
        resident: kib("VmRSS:")? * 1024,
    })
}

/// Packets that the devices of this process' network namespace, loopback apart, have received and sent.
///
/// # Errors
/// `/proc` isn't there, or says something else than what proc_net_dev(5) describes.
pub(crate) fn packets_of_devices() -> io::Result<u64> {
    let table = fs::read_to_string("/proc/self/net/dev")?;
    packets_in(&table).ok_or_else(|| {
        let message = format!("/proc/self/net/dev is no table of devices: {table:?}");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// Two lines of headings, then one for each device: its name, and eight columns for each direction of which the second is
/// packets.
fn packets_in(table: &str) -> Option<u64> {
    table.lines().skip(2).try_fold(0, |sum, line| {
        let (device, columns) = line.split_once(':')?;
        let mut packets = columns.split_whitespace().skip(1).step_by(8);
        let (received, sent) = (
            packets.next()?.parse::<u64>().ok()?,
            packets.next()?.parse::<u64>().ok()?,
        );
        Some(if device.trim() == "lo" {
            sum
        } else {
            sum + received + sent
        })
    })
}

/// The processes, this one apart, that have `path` in their command line, their environment or as their program, with
/// their command lines.
pub fn pids_mentioning(path: &Path) -> Vec<(u32, String)> {
    let needle = path.as_os_str().as_encoded_bytes();
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| mentions(pid, needle).map(|line| (pid, line)))
        .collect()
}

fn mentions(pid: u32, needle: &[u8]) -> Option<String> {
    let dir = format!("/proc/{pid}");
    // A zombie holds nothing and is its parent's to collect.
    let state = fs::read_to_string(format!("{dir}/stat")).ok()?;
    if state.rsplit_once(')')?.1.trim_start().starts_with('Z') {
        return None;
    }
    let command = fs::read(format!("{dir}/cmdline")).unwrap_or_default();
    let environment = fs::read(format!("{dir}/environ")).unwrap_or_default();
    let program = fs::read_link(format!("{dir}/exe")).map(|path| path.into_os_string().into_encoded_bytes());
    let found = contains(&command, needle)
        || contains(&environment, needle)
        || program.is_ok_and(|program| contains(&program, needle));
    let words = command.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    found.then(|| words.collect::<Vec<_>>().join(" "))
}

/// The mounts of this process' namespace below `path`.
pub(crate) fn mounts_below(path: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.to_string_lossy();
    mounts
        .lines()
        .filter(|line| line.contains(&*path))
        .map(str::to_owned)
        .collect()
}

/// Whether `needle` occurs in `bytes`.
pub(crate) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let own = usage(std::process::id()).unwrap();
        assert!(own.resident > 0 && own.anonymous > 0 && own.anonymous <= own.resident);
        assert_eq!(usage(u32::MAX >> 1), None);
    }

    #[test]
    fn packets_are_those_of_all_devices_but_loopback() {
        let table = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0
  eth0: 5000000    4000    1    2    0     0          0         0  7000000    5000    0    0    0     0       0          0
  eth1:       0       0    0    0    0     0          0         0      700       7    0    0    0     0       0          0
";
        assert_eq!(packets_in(table), Some(9007));
        assert_eq!(packets_in("a\nb\neth0: 1 2 3\n"), None);
        assert!(packets_of_devices().is_ok());
    }

    #[test]
    fn processes_are_found_by_their_command_line() {
        let marker = format!("/no-such-place-{}", std::process::id());
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .env("MARKER", &marker)
            .spawn()
            .unwrap();
        let found = crate::process::wait_quietly(Duration::from_secs(5), || {
            pids_mentioning(Path::new(&marker))
                .iter()
                .any(|(pid, _)| *pid == child.id())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
        assert_eq!(pids_mentioning(Path::new(&marker)), []);
    }
}
