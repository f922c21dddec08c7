//! What is said on the helper's socket, and how it is written down. Pure.
//!
//! One message is one request or one reply, at most [`MAX_MESSAGE`] bytes, in a `SOCK_SEQPACKET` record:
//!
//! ```text
//! version u8 (= 1)   kind u8   fields of that kind, in order, nothing after them
//! ```
//!
//! Integers are little-endian; a text is its length in bytes (u16) and UTF-8; content is its length (u32) and bytes;
//! a list is its length (u16) and its items; a flag is 0 or 1. Every length has a bound that is checked before
//! anything is kept. Whoever sends something else is not our client: the connection is closed.
//!
//! It is written by hand because the helper is privileged: this file is all the parsing it does.

pub(crate) mod codec;

use std::net::IpAddr;

use adit_link::LinkKind;
use thiserror::Error;

use crate::codes::Code;
use codec::{Reader, Writer};

/// Bytes of the largest message.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Bytes of a pod's name, at most.
pub const MAX_NAME: usize = 253;

/// Bytes of room in a packet socket below which a stream in full flow loses packets: its window, and the kernel's notes.
pub(crate) const LITTLE_ROOM: u32 = 2 << 20;

/// Bytes of a host name, at most: Linux keeps 64 with none to spare for a label longer than DNS allows.
pub const MAX_HOSTNAME: usize = 63;

/// Addresses of one pod, at most.
pub const MAX_ADDRESSES: usize = 16;

/// Files laid over a pod's own, at most.
pub const MAX_FILES: usize = 16;

/// Bytes of all those files' contents together, at most.
pub const MAX_FILE_BYTES: usize = 48 * 1024;

/// Bytes of the path of such a file, at most.
pub const MAX_PATH: usize = 512;

/// Names in one answer to [`Request::List`], at most.
pub const MAX_LIST: usize = 200;

/// The version this build speaks; a helper and its clients come from one build, so there is no negotiation.
pub const VERSION: u8 = 1;

/// Bytes of a refusal's message, at most; longer ones are cut when written.
pub(crate) const MAX_TEXT: usize = 4096;

/// An address of a pod's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PodAddress {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network, 0 to 32 or 128. A host prefix (32, 128) is the usual one: everything is behind the agent.
    pub prefix: u8,
}

/// A small file that a pod sees instead of the machine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFile {
    /// Absolute path without `.` or `..`, such as `/etc/resolv.conf`.
    pub path: String,
    /// All of it.
    pub content: Vec<u8>,
}

/// What a new pod is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Unique among the helper's pods, 1 to [`MAX_NAME`] printable ASCII bytes.
    pub name: String,
    /// What `gethostname` says inside: 1 to [`MAX_HOSTNAME`] letters, digits, `-` and `.`.
    pub hostname: String,
    /// Addresses of `eth0`, 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<PodAddress>,
    /// MTU of `eth0` in bytes, 1280 to 65,535.
    pub mtu: u16,
    /// Queues of its device, 1 to [`adit_link::MAX_QUEUES`].
    pub queues: u16,
    /// Files laid over the machine's, at most [`MAX_FILES`] and [`MAX_FILE_BYTES`].
    pub files: Vec<PodFile>,
}

/// How a pod came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInfo {
    /// The name it was made with.
    pub name: String,
    /// Number of its device's queues.
    pub queues: u16,
    /// MTU of `eth0` in bytes.
    pub mtu: u16,
    /// IPv6 works inside. False where the kernel has it disabled: the IPv6 addresses were left out then.
    pub ipv6: bool,
    /// What its packets go through.
    pub link: LinkKind,
    /// The kernel leaves TCP and UDP checksums to the agent.
    pub checksum_offload: bool,
    /// Bytes that may wait in each queue, the kernel's own notes among them; `None` where it counts frames instead.
    pub queue_bytes: Option<u32>,
    /// What could not be had but is not needed to carry traffic, one sentence each: a file without a place to
    /// lay it, a kernel setting that could not be written.
    pub warnings: Vec<String>,
}

impl PodInfo {
    /// What to tell of a link in which several streams at once lose packets; the same for each pod of a mesh.
    #[must_use]
    pub fn little_room(&self) -> Option<String> {
        let bytes = self.queue_bytes.filter(|bytes| *bytes < LITTLE_ROOM)?;
        let (code, kib, wanted) = (Code::LITTLE_ROOM, bytes >> 10, LITTLE_ROOM >> 10);
        Some(format!(
            "[{code}] {kib} KiB of a pod's packets may wait for the agent by net.core.rmem_max, expected {wanted} or more: several streams at once lose some"
        ))
    }
}

/// What the helper has counted since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Connections that were accepted and served.
    pub clients: u64,
    /// Connections closed at once because the table of clients was full.
    pub clients_over_limit: u64,
    /// Connections closed at once because the peer was another user.
    pub clients_of_other_users: u64,
    /// Connections closed because of a message that is none.
    pub malformed_messages: u64,
    /// Connections closed because the client did not read its replies.
    pub replies_not_read: u64,
    /// Pods made.
    pub pods_created: u64,
    /// Requests refused with a code.
    pub requests_refused: u64,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make a pod. Answered by [`Reply::Created`].
    CreatePod(PodSpec),
    /// Forget a pod: its namespaces go when their last process and descriptor do. Answered by [`Reply::Deleted`].
    DeletePod {
        /// Its name.
        pod: String,
    },
    /// Names of the pods, in order, of those after a name. Answered by [`Reply::Pods`].
    List {
        /// The last name already known, or empty.
        after: String,
    },
    /// Descriptors of a pod's namespaces. Answered by [`Reply::Namespaces`].
    Namespaces {
        /// Its name.
        pod: String,
    },
    /// Descriptors of a pod's queues. Answered by [`Reply::Queues`].
    OpenQueues {
        /// Its name.
        pod: String,
    },
    /// What was counted. Answered by [`Reply::Stats`].
    Stats,
}

/// What the helper answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The pod is there.
    Created(PodInfo),
    /// The pod is forgotten.
    Deleted,
    /// With five descriptors: user, net, mnt, uts, ipc.
    Namespaces,
    /// Some of the names asked for.
    Pods {
        /// Names, in order, at most [`MAX_LIST`].
        names: Vec<String>,
        /// More come after the last of them.
        more: bool,
    },
    /// With as many descriptors as the pod has queues.
    Queues(PodInfo),
    /// The request could not be met; the helper and the connection are fine.
    Refused {
        /// What kind of reason, for `adit explain`.
        code: Code,
        /// The reason.
        message: String,
    },
    /// The counters.
    Stats(Counters),
}

/// Bytes that are no message of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// It ends in the middle of a field.
    #[error("message ends inside {field}")]
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// It goes on after its last field.
    #[error("message has {extra} bytes after its last field")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// Another version's.
    #[error(
        "message of version {version}, expected {VERSION}: the helper and its client are of different builds"
    )]
    Version {
        /// The version it states.
        version: u8,
    },
    /// A kind that doesn't exist in this direction.
    #[error("message of unknown kind {kind}")]
    Kind {
        /// The kind it states.
        kind: u8,
    },
    /// A field longer, larger or other than allowed.
    #[error("{field}: expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

impl Request {
    /// Reads a request, and checks every field against its bounds.
    ///
    /// # Errors
    /// [`InvalidMessage`]; whatever the bytes, never a panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let (kind, mut reader) = Reader::open(bytes)?;
        let request = match kind {
            kind::CREATE_POD => Self::CreatePod(PodSpec::read(&mut reader)?),
            kind::DELETE_POD => Self::DeletePod { pod: reader.name()? },
            kind::LIST => Self::List {
                after: reader.text("after", MAX_NAME)?,
            },
            kind::NAMESPACES => Self::Namespaces { pod: reader.name()? },
            kind::OPEN_QUEUES => Self::OpenQueues { pod: reader.name()? },
            kind::STATS => Self::Stats,
            kind => return Err(InvalidMessage::Kind { kind }),
        };
        reader.close()?;
        Ok(request)
    }

    /// Writes the request.
    ///
    /// # Errors
    /// The field that [`Request::decode`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, InvalidMessage> {
        let bytes = match self {
            Self::CreatePod(spec) => {
                let mut writer = Writer::open(kind::CREATE_POD);
                spec.write(&mut writer);
                writer.close()
            }
            Self::DeletePod { pod } => Writer::open(kind::DELETE_POD).with_text(pod),
            Self::List { after } => Writer::open(kind::LIST).with_text(after),
            Self::Namespaces { pod } => Writer::open(kind::NAMESPACES).with_text(pod),
            Self::OpenQueues { pod } => Writer::open(kind::OPEN_QUEUES).with_text(pod),
            Self::Stats => Writer::open(kind::STATS).close(),
        };
        // The bounds live in one place, the reader; a request that could not be read back is never sent.
        Self::decode(&bytes)?;
        Ok(bytes)
    }
}

impl Reply {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`InvalidMessage`]; whatever the bytes, never a panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let (kind, mut reader) = Reader::open(bytes)?;
        let reply = match kind {
            kind::CREATED => Self::Created(PodInfo::read(&mut reader)?),
            kind::DELETED => Self::Deleted,
            kind::NAMESPACE_DESCRIPTORS => Self::Namespaces,
            kind::PODS => Self::Pods {
                names: reader.list("names", MAX_LIST, Reader::name)?,
                more: reader.flag("more")?,
            },
            kind::QUEUES => Self::Queues(PodInfo::read(&mut reader)?),
            kind::REFUSED => Self::Refused {
                code: Code::from_wire(reader.u16("code")?),
                message: reader.text("message", MAX_TEXT)?,
            },
            kind::COUNTERS => Self::Stats(Counters::read(&mut reader)?),
            kind => return Err(InvalidMessage::Kind { kind }),
        };
        reader.close()?;
        Ok(reply)
    }

    /// Writes the reply. A refusal's message and a pod's warnings are cut to what fits.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Created(info) => info.encode(kind::CREATED),
            Self::Deleted => Writer::open(kind::DELETED).close(),
            Self::Namespaces => Writer::open(kind::NAMESPACE_DESCRIPTORS).close(),
            Self::Pods { names, more } => {
                let mut writer = Writer::open(kind::PODS);
                writer.list(&names[..names.len().min(MAX_LIST)], |writer, name| {
                    writer.text(name)
                });
                writer.u8(u8::from(*more));
                writer.close()
            }
            Self::Queues(info) => info.encode(kind::QUEUES),
            Self::Refused { code, message } => {
                let mut writer = Writer::open(kind::REFUSED);
                writer.u16(code.to_wire());
                writer.text(cut(message, MAX_TEXT));
                writer.close()
            }
            Self::Stats(counters) => {
                let mut writer = Writer::open(kind::COUNTERS);
                counters.write(&mut writer);
                writer.close()
            }
        }
    }
}

impl PodSpec {
    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        let spec = Self {
            name: reader.name()?,
            hostname: reader.text("hostname", MAX_HOSTNAME)?,
            addresses: reader.list("addresses", MAX_ADDRESSES, PodAddress::read)?,
            mtu: reader.u16("mtu")?,
            queues: reader.u16("queues")?,
            files: reader.list("files", MAX_FILES, PodFile::read)?,
        };
        let hostname_ok = !spec.hostname.is_empty()
            && spec
                .hostname
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
        let bytes = spec.files.iter().map(|file| file.content.len()).sum::<usize>();
        require(hostname_ok, "hostname", "1 to 63 letters, digits, '-' and '.'")?;
        require(!spec.addresses.is_empty(), "addresses", "1 to 16 addresses")?;
        require(spec.mtu >= 1280, "mtu", "1280 to 65535 bytes")?;
        require(
            (1..=adit_link::MAX_QUEUES).contains(&spec.queues),
            "queues",
            "1 to 32 queues",
        )?;
        require(bytes <= MAX_FILE_BYTES, "files", "at most 48 KiB of content")?;
        Ok(spec)
    }

    fn write(&self, writer: &mut Writer) {
        writer.text(&self.name);
        writer.text(&self.hostname);
        writer.list(&self.addresses, |writer, address| address.write(writer));
        writer.u16(self.mtu);
        writer.u16(self.queues);
        writer.list(&self.files, |writer, file| {
            writer.text(&file.path);
            writer.content(&file.content);
        });
    }
}

impl PodAddress {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        let ip = reader.host_address()?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = reader.u8("prefix")?;
        require(prefix <= bits, "prefix", "at most 32 bits for IPv4, 128 for IPv6")?;
        Ok(Self { ip, prefix })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.address(self.ip);
        writer.u8(self.prefix);
    }
}

impl PodFile {
    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        let path = reader.text("path", MAX_PATH)?;
        let plain = path.strip_prefix('/').is_some_and(|rest| {
            !rest.contains('\0') && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
        });
        require(
            plain,
            "path",
            "an absolute path without '.', '..' and empty parts",
        )?;
        Ok(Self {
            path,
            content: reader.content("content", MAX_FILE_BYTES)?.to_vec(),
        })
    }
}

impl PodInfo {
    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        Ok(Self {
            name: reader.name()?,
            queues: reader.u16("queues")?,
            mtu: reader.u16("mtu")?,
            ipv6: reader.flag("ipv6")?,
            link: match reader.flag("packet link")? {
                true => LinkKind::Packet,
                false => LinkKind::Tun,
            },
            checksum_offload: reader.flag("checksum offload")?,
            queue_bytes: match reader.flag("queue bytes known")? {
                true => Some(reader.u32("queue bytes")?),
                false => None,
            },
            warnings: reader.list("warnings", MAX_FILES * 2, |reader| {
                reader.text("warning", MAX_WARNING)
            })?,
        })
    }

    fn encode(&self, kind: u8) -> Vec<u8> {
        let mut writer = Writer::open(kind);
        writer.text(&self.name);
        writer.u16(self.queues);
        writer.u16(self.mtu);
        writer.u8(u8::from(self.ipv6));
        writer.u8(u8::from(self.link == LinkKind::Packet));
        writer.u8(u8::from(self.checksum_offload));
        writer.u8(u8::from(self.queue_bytes.is_some()));
        if let Some(bytes) = self.queue_bytes {
            writer.u32(bytes);
        }
        let warnings = &self.warnings[..self.warnings.len().min(MAX_FILES * 2)];
        writer.list(warnings, |writer, warning| writer.text(cut(warning, MAX_WARNING)));
        writer.close()
    }
}

impl Counters {
    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        Ok(Self {
            clients: reader.u64("clients")?,
            clients_over_limit: reader.u64("clients over limit")?,
            clients_of_other_users: reader.u64("clients of other users")?,
            malformed_messages: reader.u64("malformed messages")?,
            replies_not_read: reader.u64("replies not read")?,
            pods_created: reader.u64("pods created")?,
            requests_refused: reader.u64("requests refused")?,
        })
    }

    fn write(&self, writer: &mut Writer) {
        let Self {
            clients,
            clients_over_limit,
            clients_of_other_users,
            malformed_messages,
            replies_not_read,
            pods_created,
            requests_refused,
        } = *self;
        writer.u64(clients);
        writer.u64(clients_over_limit);
        writer.u64(clients_of_other_users);
        writer.u64(malformed_messages);
        writer.u64(replies_not_read);
        writer.u64(pods_created);
        writer.u64(requests_refused);
    }
}

pub(crate) fn require(
    holds: bool,
    field: &'static str,
    expected: &'static str,
) -> Result<(), InvalidMessage> {
    if holds {
        Ok(())
    } else {
        Err(InvalidMessage::Field { field, expected })
    }
}

/// The longest start of `text` that is at most `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Bytes of one warning, at most: a path, the kernel's words and ours.
const MAX_WARNING: usize = 512;

/// The largest request is one to make a pod; 64 bytes are more than its fixed fields take.
const _: () = assert!(
    64 + MAX_NAME + MAX_HOSTNAME + MAX_ADDRESSES * 18 + MAX_FILES * (2 + MAX_PATH + 4) + MAX_FILE_BYTES
        <= MAX_MESSAGE
);

mod kind {
    pub(super) const CREATE_POD: u8 = 1;
    pub(super) const DELETE_POD: u8 = 2;
    pub(super) const LIST: u8 = 3;
    pub(super) const NAMESPACES: u8 = 4;
    pub(super) const OPEN_QUEUES: u8 = 5;
    pub(super) const STATS: u8 = 6;
    pub(super) const CREATED: u8 = 129;
    pub(super) const DELETED: u8 = 130;
    pub(super) const PODS: u8 = 131;
    pub(super) const NAMESPACE_DESCRIPTORS: u8 = 132;
    pub(super) const QUEUES: u8 = 133;
    pub(super) const COUNTERS: u8 = 134;
    pub(super) const REFUSED: u8 = 255;
}

#[cfg(test)]
mod tests;
