//! What is remembered of each pod outside of this process: one small file each, replaced whole.
//!
//! The kernel knows how far a pod has been moved, and every step asks it; the file holds what the kernel forgets (what
//! the interface had before it was moved) and what it never knew (whose pod it is, and which way it was going). It is
//! written before the first step of a way and when the way is done, so a helper that finds it goes the same way again,
//! from the start, and steps over what is done.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::failure::{Failure, refused};
use super::interface::Interface;
use super::namespace::Identity;
use super::protocol::{MAX_PORTS, Member, PodRef};
use crate::codes::Code;
use crate::protocol::codec::{Reader, Writer};
use crate::protocol::{InvalidMessage, MAX_MESSAGE, MAX_PATH};

/// The kind of message that an entry is, apart from all on the sockets.
const ENTRY: u8 = 64;

/// Bytes of a container's id, at most.
pub(super) const MAX_CONTAINER: usize = 128;

/// Name of a file that is not written to its end, as a suffix.
const UNFINISHED: &str = ".new";

/// Which way a pod is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Behind the agent, or on the way there.
    Joining,
    /// Behind the agent.
    Joined,
    /// On the way back.
    Leaving,
}

/// All that is remembered of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pod: PodRef,
    pub(super) stage: Stage,
    /// The runtime's name for the sandbox; empty when the pod was running already.
    pub(super) container: String,
    /// Where P is mounted, and which namespace was there.
    pub(super) namespace: PathBuf,
    pub(super) identity: Identity,
    pub(super) interface: Interface,
    /// MTU of the agent's device in P, in bytes.
    pub(super) pod_mtu: u16,
    /// Ports with a rule of their own, in order.
    pub(super) ports: Vec<u16>,
}

impl Entry {
    /// What the agent is told of it.
    pub(super) fn member(&self) -> Member {
        Member {
            uid: self.pod.uid.clone(),
            namespace: self.pod.namespace.clone(),
            name: self.pod.name.clone(),
            addresses: self.interface.pod_addresses(),
            wire_mtu: self.interface.mtu,
            pod_mtu: self.pod_mtu,
            ipv6: self.interface.has_ipv6(),
            open_ports: self.ports.clone(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let (kind, mut reader) = Reader::open(bytes)?;
        if kind != ENTRY {
            return Err(InvalidMessage::Kind { kind });
        }
        let entry = Self {
            pod: PodRef::read(&mut reader)?,
            stage: match reader.u8("stage")? {
                1 => Stage::Joining,
                2 => Stage::Joined,
                3 => Stage::Leaving,
                _ => {
                    return Err(InvalidMessage::Field {
                        field: "stage",
                        expected: "1, 2 or 3",
                    });
                }
            },
            container: reader.text("container", MAX_CONTAINER)?,
            namespace: OsStr::from_bytes(reader.content("namespace path", MAX_PATH)?).into(),
            identity: Identity {
                device: reader.u64("device")?,
                inode: reader.u64("inode")?,
            },
            interface: Interface::read(&mut reader)?,
            pod_mtu: reader.u16("pod mtu")?,
            ports: reader.list("ports", MAX_PORTS, |reader| reader.u16("port"))?,
        };
        reader.close()?;
        Ok(entry)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::open(ENTRY);
        self.pod.write(&mut writer);
        writer.u8(match self.stage {
            Stage::Joining => 1,
            Stage::Joined => 2,
            Stage::Leaving => 3,
        });
        writer.text(&self.container);
        writer.content(self.namespace.as_os_str().as_bytes());
        writer.u64(self.identity.device);
        writer.u64(self.identity.inode);
        self.interface.write(&mut writer);
        writer.u16(self.pod_mtu);
        writer.list(&self.ports, |writer, port| writer.u16(*port));
        writer.close()
    }
}

/// The folder of the files. One helper writes there at a time.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Makes the folder if there is none.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self { folder }),
        }
    }

    /// Every entry; and of those that can't be read, why. Such a file stays where it is, for somebody to look at.
    pub(super) fn load(&self) -> io::Result<(Vec<Entry>, Vec<Failure>)> {
        let (mut entries, mut failures) = (Vec::new(), Vec::new());
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            if path.to_string_lossy().ends_with(UNFINISHED) {
                // Its writer ended before it was done; what it would have replaced holds.
                fs::remove_file(&path)?;
                continue;
            }
            match read(&path) {
                Ok(entry) => entries.push(entry),
                Err(error) => failures.push(Failure::new(
                    Code::JOURNAL,
                    format!("reading the journal entry {}: {error}", path.display()),
                )),
            }
        }
        Ok((entries, failures))
    }

    /// Replaces a pod's entry, whole or not at all.
    pub(super) fn write(&self, entry: &Entry) -> Result<(), Failure> {
        let path = self.folder.join(&entry.pod.uid);
        let unfinished = self.folder.join(format!("{}{UNFINISHED}", entry.pod.uid));
        // No fsync: after a power cut the namespaces that it speaks of are gone as well.
        fs::write(&unfinished, entry.encode())
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(refused(
                Code::JOURNAL,
                format!("writing the journal entry {}", path.display()),
            ))
    }

    /// Removes a pod's entry, if there is one.
    pub(super) fn remove(&self, uid: &str) -> Result<(), Failure> {
        let path = self.folder.join(uid);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(
                Code::JOURNAL,
                format!("removing the journal entry {}", path.display()),
            )(error)),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> io::Result<Entry> {
    let mut bytes = Vec::new();
    let limit = MAX_MESSAGE as u64;
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::other(format!("it has more than {MAX_MESSAGE} bytes")));
    }
    let entry = Entry::decode(&bytes).map_err(io::Error::other)?;
    match path.file_name().is_some_and(|name| *name == *entry.pod.uid) {
        true => Ok(entry),
        false => Err(io::Error::other(format!("it is of pod {}", entry.pod.uid))),
    }
}

/// Entry for `fuzz/`: what is read of an entry is written back the same.
///
/// # Panics
/// When that doesn't hold.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode(), bytes);
        drop(entry.member());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Address, Neighbour, Route};
    use proptest::prelude::*;

    fn entry(uid: &str, stage: Stage) -> Entry {
        Entry {
            pod: PodRef {
                uid: uid.into(),
                namespace: "shop".into(),
                name: "web-0".into(),
                addresses: vec!["10.244.0.5".parse().unwrap()],
            },
            stage,
            container: "c0ffee".into(),
            namespace: "/var/run/netns/cni-1".into(),
            identity: Identity {
                device: 4,
                inode: 4026532281,
            },
            interface: Interface {
                name: "eth0".into(),
                mtu: 1450,
                addresses: vec![
                    Address {
                        ip: "10.244.0.5".parse().unwrap(),
                        prefix: 24,
                        broadcast: Some("10.244.0.255".parse().unwrap()),
                    },
                    Address {
                        ip: "fd00:244::5".parse().unwrap(),
                        prefix: 64,
                        broadcast: None,
                    },
                ],
                routes: vec![Route::from_bytes(vec![7; 40]).unwrap()],
                neighbours: vec![Neighbour {
                    ip: "169.254.1.1".parse().unwrap(),
                    link_address: vec![2, 0, 0, 0, 0, 1],
                }],
            },
            pod_mtu: 65520,
            ports: vec![80, 8080],
        }
    }

    fn journal(name: &str) -> Journal {
        let folder = std::env::temp_dir().join(format!("adit-journal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        Journal::open(folder).unwrap()
    }

    #[test]
    fn what_was_written_last_is_read_back() {
        let journal = journal("last");
        journal.write(&entry("a", Stage::Joining)).unwrap();
        journal.write(&entry("a", Stage::Joined)).unwrap();
        journal.write(&entry("b", Stage::Leaving)).unwrap();
        let (mut entries, failures) = journal.load().unwrap();
        entries.sort_by(|a, b| a.pod.uid.cmp(&b.pod.uid));
        assert_eq!(entries, [entry("a", Stage::Joined), entry("b", Stage::Leaving)]);
        assert_eq!(failures, []);
        journal.remove("a").unwrap();
        journal.remove("a").unwrap();
        assert_eq!(journal.load().unwrap().0, [entry("b", Stage::Leaving)]);
        fs::remove_dir_all(&journal.folder).unwrap();
    }

    #[test]
    fn a_writer_that_ended_in_the_middle_changes_nothing() {
        let journal = journal("middle");
        journal.write(&entry("a", Stage::Joined)).unwrap();
        fs::write(
            journal.folder.join("a.new"),
            &entry("a", Stage::Leaving).encode()[..40],
        )
        .unwrap();
        assert_eq!(journal.load().unwrap().0, [entry("a", Stage::Joined)]);
        assert!(!journal.folder.join("a.new").exists());
        fs::remove_dir_all(&journal.folder).unwrap();
    }

    #[test]
    fn a_broken_entry_is_named_and_the_others_are_read() {
        let journal = journal("broken");
        journal.write(&entry("a", Stage::Joined)).unwrap();
        fs::write(journal.folder.join("b"), b"not one").unwrap();
        fs::write(journal.folder.join("c"), entry("a", Stage::Joined).encode()).unwrap();
        let (entries, failures) = journal.load().unwrap();
        assert_eq!(entries, [entry("a", Stage::Joined)]);
        assert_eq!(failures.len(), 2);
        assert!(failures.iter().all(|failure| failure.code == Code::JOURNAL));
        fs::remove_dir_all(&journal.folder).unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(at in 0_usize..400, to: u8) {
            let mut bytes = entry("a", Stage::Joined).encode();
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }
}
