//! What is said on the helper's agent socket, and how it is written down. Pure.
//!
//! Messages are framed and bounded as the laptop's are ([`crate::protocol`]): one `SOCK_SEQPACKET` record each, version,
//! kind, fields. Two connections are used: one for requests, each with its reply, and one that has said
//! [`Request::Admissions`], on which the helper asks ([`Reply::Admit`]) and the agent answers ([`Request::Answer`]).
//!
//! Helper, agent and plugin are replaced one after another, so a message may come from an older build or a newer one. It can
//! grow, by these rules:
//!
//! * A new field goes to the end of its message, and its absence means what the message meant before there was such a
//!   field. It's read by `Reader::later`: an older build's message ends before it.
//! * What comes after the last field that a build knows is a newer build's, and not looked at.
//! * An item of a list has no end of its own and can't grow, nor can a field that is there. What can't be said by another
//!   field at the end is a message of another kind; a kind that the other side doesn't know costs the connection.

pub(super) mod plugin;
mod pod;

use crate::codes::Code;
use crate::protocol::codec::{Reader, Writer};
use crate::protocol::{InvalidMessage, MAX_NAME, MAX_TEXT, cut, require};

pub use crate::protocol::PodAddress;
pub(super) use pod::is_uid;
pub use pod::{MAX_UID, Member, PodRef};

/// Sockets in one answer to [`Request::Sockets`], at most: as many descriptors as a message carries.
pub const MAX_SOCKETS: u16 = adit_link::MAX_DESCRIPTORS as u16;

/// Ports of one pod that can be open at a time. Each is a routing rule that every packet to the pod may have to pass.
pub const MAX_PORTS: usize = 256;

/// The last port that can be opened: the kernel's routing rules can't name 65535.
pub const MAX_PORT: u16 = 65_534;

/// Pods in one answer to [`Request::Members`], at most.
pub const MAX_PAGE: usize = 32;

/// Bytes of the reason for refusing a pod, at most; longer ones are cut when written.
pub const MAX_REASON: usize = 512;

/// Which addresses a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6 alone (`IPV6_V6ONLY`).
    V6,
}

/// What a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What the agent says to a pod that is about to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is to be in the mesh: the helper puts it there before the pod's programs start.
    Join,
    /// The same by an Ethernet interface, unless the helper has no choice: what runs the pod may be a sandbox with a network
    /// stack of its own.
    JoinByEthernet,
    /// It is outside the mesh.
    LeaveAlone,
    /// It must not start; the runtime tries again later.
    Refuse {
        /// Why, for the pod's events; at most [`MAX_REASON`] bytes.
        reason: String,
    },
}

/// A pod that waits to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// To be repeated in the answer; unique while the helper runs.
    pub id: u64,
    /// The pod.
    pub pod: PodRef,
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
    /// Requests refused with a code.
    pub requests_refused: u64,
    /// Pods put behind the agent.
    pub pods_joined: u64,
    /// Pods that failed to be.
    pub joins_failed: u64,
    /// Pods given their own interface back.
    pub pods_left: u64,
    /// Pods whose namespace was gone, and what was left of them cleared away.
    pub pods_vanished: u64,
    /// Pods let in, on the agent's word, without joining.
    pub pods_left_alone: u64,
    /// Pods that waited for the agent in vain and have to be tried again by the runtime.
    pub admissions_expired: u64,
    /// Times that the plugin had to be written into the node's list again, since another installer rewrote it.
    pub conflist_healed: u64,
    /// Pods that joined by veth pairs, since no TUN device was to be had.
    pub pods_without_tun: u64,
}

/// What the agent asks for, or answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Become the one that is asked about new pods; whoever was it before is not any more. Answered by
    /// [`Reply::Admitting`] or [`Reply::Dismissed`].
    Admissions,
    /// The answer to an [`Admission`]. Has no reply.
    Answer {
        /// Which.
        id: u64,
        /// What is to be done.
        decision: Decision,
    },
    /// Take the rule of a port away. Answered by [`Reply::PortClosed`], also when there is none.
    ClosePort {
        /// The pod's uid.
        uid: String,
        /// The port, 1 to [`MAX_PORT`].
        port: u16,
    },
    /// Put a running pod behind the agent, or take its queues again if it is. Answered by [`Reply::Joined`].
    Join(PodRef),
    /// Give a pod its own interface back. Answered by [`Reply::Left`].
    Leave {
        /// The pod's uid.
        uid: String,
    },
    /// The pods behind the agent, in order of their uids, of those after one. Answered by [`Reply::Members`].
    Members {
        /// The last uid already known, or empty.
        after: String,
    },
    /// Let agents' connections to a port through to the kernel of O. Answered by [`Reply::PortOpened`].
    OpenPort {
        /// The pod's uid.
        uid: String,
        /// The port, 1 to [`MAX_PORT`].
        port: u16,
    },
    /// Blank sockets of O. Answered by [`Reply::Sockets`].
    Sockets {
        /// The pod's uid.
        uid: String,
        /// For which addresses.
        family: Family,
        /// Streams or datagrams.
        kind: Kind,
        /// How many, 1 to [`MAX_SOCKETS`].
        count: u16,
    },
    /// What was counted. Answered by [`Reply::Stats`].
    Stats,
}

/// What the helper answers, or asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// May this pod start, and where?
    Admit(Admission),
    /// From now on this connection is asked.
    Admitting,
    /// Adit is taken off the node: nobody is asked about any more, and the agent is to let its pods go. Said instead of
    /// [`Self::Admitting`], or later.
    Dismissed,
    /// With two descriptors: the queue of the agent's device in P, and that of the one in O, both of TUN devices or both
    /// packet sockets.
    Joined(Member),
    /// The pod has its own interface again.
    Left,
    /// Some of the pods asked for.
    Members {
        /// Pods, in order of uid, at most [`MAX_PAGE`].
        members: Vec<Member>,
        /// More come after the last of them.
        more: bool,
    },
    /// No connection to the port is let through any more.
    PortClosed,
    /// Connections to the port are let through.
    PortOpened,
    /// The request could not be met; the helper and the connection are fine.
    Refused {
        /// What kind of reason, for `adit explain`.
        code: Code,
        /// The reason.
        message: String,
    },
    /// With as many descriptors as sockets were asked for.
    Sockets,
    /// The counters.
    Stats(Counters),
}

impl Request {
    /// Reads a request, and checks every field against its bounds.
    ///
    /// # Errors
    /// [`InvalidMessage`]; whatever the bytes, never a panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let (kind, mut reader) = Reader::open(bytes)?;
        let request = match kind {
            kind::ADMISSIONS => Self::Admissions,
            kind::ANSWER => Self::Answer {
                id: reader.u64("id")?,
                decision: Decision::read(&mut reader)?,
            },
            kind::CLOSE_PORT => Self::ClosePort {
                uid: pod::read_uid(&mut reader)?,
                port: read_port(&mut reader)?,
            },
            kind::JOIN => Self::Join(PodRef::read(&mut reader)?),
            kind::LEAVE => Self::Leave {
                uid: pod::read_uid(&mut reader)?,
            },
            kind::MEMBERS => Self::Members {
                after: reader.text("after", MAX_UID)?,
            },
            kind::OPEN_PORT => Self::OpenPort {
                uid: pod::read_uid(&mut reader)?,
                port: read_port(&mut reader)?,
            },
            kind::SOCKETS => Self::Sockets {
                uid: pod::read_uid(&mut reader)?,
                family: Family::read(&mut reader)?,
                kind: Kind::read(&mut reader)?,
                count: read_count(&mut reader)?,
            },
            kind::STATS => Self::Stats,
            kind => return Err(InvalidMessage::Kind { kind }),
        };
        Ok(request)
    }

    /// Writes the request. The reason of a refusal is cut to what fits.
    ///
    /// # Errors
    /// The field that [`Request::decode`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, InvalidMessage> {
        let bytes = match self {
            Self::Admissions => Writer::open(kind::ADMISSIONS).close(),
            Self::Answer { id, decision } => {
                let mut writer = Writer::open(kind::ANSWER);
                writer.u64(*id);
                decision.write(&mut writer);
                writer.close()
            }
            Self::ClosePort { uid, port } => port_request(kind::CLOSE_PORT, uid, *port),
            Self::Join(pod) => {
                let mut writer = Writer::open(kind::JOIN);
                pod.write(&mut writer);
                writer.close()
            }
            Self::Leave { uid } => Writer::open(kind::LEAVE).with_text(uid),
            Self::Members { after } => Writer::open(kind::MEMBERS).with_text(after),
            Self::OpenPort { uid, port } => port_request(kind::OPEN_PORT, uid, *port),
            Self::Sockets {
                uid,
                family,
                kind,
                count,
            } => {
                let mut writer = Writer::open(kind::SOCKETS);
                writer.text(uid);
                writer.u8(family.wire());
                writer.u8(kind.wire());
                writer.u16(*count);
                writer.close()
            }
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
            kind::ADMIT => Self::Admit(Admission {
                id: reader.u64("id")?,
                pod: PodRef::read(&mut reader)?,
            }),
            kind::ADMITTING => Self::Admitting,
            kind::DISMISSED => Self::Dismissed,
            kind::JOINED => Self::Joined(Member::read(&mut reader)?),
            kind::LEFT => Self::Left,
            kind::MEMBER_PAGE => Self::Members {
                members: reader.list("members", MAX_PAGE, Member::read)?,
                more: reader.flag("more")?,
            },
            kind::PORT_CLOSED => Self::PortClosed,
            kind::PORT_OPENED => Self::PortOpened,
            kind::REFUSED => Self::Refused {
                code: Code::from_wire(reader.u16("code")?),
                message: reader.text("message", MAX_TEXT)?,
            },
            kind::BLANK_SOCKETS => Self::Sockets,
            kind::COUNTERS => Self::Stats(Counters::read(&mut reader)?),
            kind => return Err(InvalidMessage::Kind { kind }),
        };
        Ok(reply)
    }

    /// Writes the reply. A refusal's message is cut to what fits.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Admit(Admission { id, pod }) => {
                let mut writer = Writer::open(kind::ADMIT);
                writer.u64(*id);
                pod.write(&mut writer);
                writer.close()
            }
            Self::Admitting => Writer::open(kind::ADMITTING).close(),
            Self::Dismissed => Writer::open(kind::DISMISSED).close(),
            Self::Joined(member) => {
                let mut writer = Writer::open(kind::JOINED);
                member.write(&mut writer);
                writer.close()
            }
            Self::Left => Writer::open(kind::LEFT).close(),
            Self::Members { members, more } => {
                let mut writer = Writer::open(kind::MEMBER_PAGE);
                writer.list(&members[..members.len().min(MAX_PAGE)], |writer, member| {
                    member.write(writer);
                });
                writer.u8(u8::from(*more));
                writer.close()
            }
            Self::PortClosed => Writer::open(kind::PORT_CLOSED).close(),
            Self::PortOpened => Writer::open(kind::PORT_OPENED).close(),
            Self::Refused { code, message } => {
                let mut writer = Writer::open(kind::REFUSED);
                writer.u16(code.to_wire());
                writer.text(cut(message, MAX_TEXT));
                writer.close()
            }
            Self::Sockets => Writer::open(kind::BLANK_SOCKETS).close(),
            Self::Stats(counters) => {
                let mut writer = Writer::open(kind::COUNTERS);
                counters.write(&mut writer);
                writer.close()
            }
        }
    }
}

impl Decision {
    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        match reader.u8("decision")? {
            1 => Ok(Self::Join),
            2 => Ok(Self::LeaveAlone),
            3 => Ok(Self::Refuse {
                reason: reader.text("reason", MAX_REASON)?,
            }),
            4 => Ok(Self::JoinByEthernet),
            _ => Err(InvalidMessage::Field {
                field: "decision",
                expected: "1 to 4",
            }),
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Join => writer.u8(1),
            Self::JoinByEthernet => writer.u8(4),
            Self::LeaveAlone => writer.u8(2),
            Self::Refuse { reason } => {
                writer.u8(3);
                writer.text(cut(reason, MAX_REASON));
            }
        }
    }
}

impl Family {
    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        match reader.u8("family")? {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            _ => Err(InvalidMessage::Field {
                field: "family",
                expected: "4 or 6",
            }),
        }
    }

    fn wire(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl Kind {
    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        match reader.u8("socket kind")? {
            1 => Ok(Self::Tcp),
            2 => Ok(Self::Udp),
            _ => Err(InvalidMessage::Field {
                field: "socket kind",
                expected: "1 or 2",
            }),
        }
    }

    fn wire(self) -> u8 {
        match self {
            Self::Tcp => 1,
            Self::Udp => 2,
        }
    }
}

impl Counters {
    /// Every counter with its name, in words: `pods joined`.
    #[must_use]
    pub fn named(mut self) -> Vec<(&'static str, u64)> {
        let fields = self.fields().into_iter();
        fields.map(|(name, count)| (name, *count)).collect()
    }

    /// Those that an older helper doesn't have are 0.
    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        let mut counters = Self::default();
        for (name, field) in counters.fields() {
            *field = reader.later(|reader| reader.u64(name))?.unwrap_or_default();
        }
        Ok(counters)
    }

    fn write(mut self, writer: &mut Writer) {
        for (_, field) in self.fields() {
            writer.u64(*field);
        }
    }

    /// Every counter with its name, in the order of the wire: a new one is the last.
    fn fields(&mut self) -> [(&'static str, &mut u64); 14] {
        let Self {
            clients,
            clients_over_limit,
            clients_of_other_users,
            malformed_messages,
            replies_not_read,
            requests_refused,
            pods_joined,
            joins_failed,
            pods_left,
            pods_vanished,
            pods_left_alone,
            admissions_expired,
            conflist_healed,
            pods_without_tun,
        } = self;
        [
            ("clients", clients),
            ("clients over limit", clients_over_limit),
            ("clients of other users", clients_of_other_users),
            ("malformed messages", malformed_messages),
            ("replies not read", replies_not_read),
            ("requests refused", requests_refused),
            ("pods joined", pods_joined),
            ("joins failed", joins_failed),
            ("pods left", pods_left),
            ("pods vanished", pods_vanished),
            ("pods left alone", pods_left_alone),
            ("admissions expired", admissions_expired),
            ("conflist healed", conflist_healed),
            ("pods without tun", pods_without_tun),
        ]
    }
}

fn read_port(reader: &mut Reader<'_>) -> Result<u16, InvalidMessage> {
    let port = reader.u16("port")?;
    require((1..=MAX_PORT).contains(&port), "port", "1 to 65534")?;
    Ok(port)
}

fn read_count(reader: &mut Reader<'_>) -> Result<u16, InvalidMessage> {
    let count = reader.u16("count")?;
    require((1..=MAX_SOCKETS).contains(&count), "count", "1 to 64 sockets")?;
    Ok(count)
}

fn port_request(kind: u8, uid: &str, port: u16) -> Vec<u8> {
    let mut writer = Writer::open(kind);
    writer.text(uid);
    writer.u16(port);
    writer.close()
}

/// The largest message is a full page of pods.
const _: () = assert!(
    8 + MAX_PAGE * (2 * (2 + MAX_NAME) + 2 + MAX_UID + 2 + 16 * 18 + 5 + 2 + 2 * MAX_PORTS)
        <= crate::protocol::MAX_MESSAGE
);

mod kind {
    pub(super) const JOIN: u8 = 1;
    pub(super) const LEAVE: u8 = 2;
    pub(super) const MEMBERS: u8 = 3;
    pub(super) const SOCKETS: u8 = 4;
    pub(super) const OPEN_PORT: u8 = 5;
    pub(super) const CLOSE_PORT: u8 = 6;
    pub(super) const ADMISSIONS: u8 = 7;
    pub(super) const ANSWER: u8 = 8;
    pub(super) const STATS: u8 = 9;
    pub(super) const JOINED: u8 = 129;
    pub(super) const LEFT: u8 = 130;
    pub(super) const MEMBER_PAGE: u8 = 131;
    pub(super) const BLANK_SOCKETS: u8 = 132;
    pub(super) const PORT_OPENED: u8 = 133;
    pub(super) const PORT_CLOSED: u8 = 134;
    pub(super) const ADMITTING: u8 = 135;
    pub(super) const ADMIT: u8 = 136;
    pub(super) const COUNTERS: u8 = 137;
    pub(super) const DISMISSED: u8 = 138;
    pub(super) const REFUSED: u8 = 255;
}

#[cfg(test)]
mod tests;
