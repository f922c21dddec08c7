//! What is said on the helper's own socket, by the CNI plugin and by other commands of adit on the node. All are root. They
//! are of one build but for the moments in which it is replaced; messages grow by the rules of [`super`].

use std::time::Duration;

use super::pod::{self, MAX_UID, PodRef};
use crate::cluster::journal::MAX_CONTAINER;
use crate::codes::Code;
use crate::protocol::codec::{Reader, Writer};
use crate::protocol::{InvalidMessage, MAX_MESSAGE, MAX_PATH, MAX_TEXT, cut, require};

/// Attachments that the runtime can call valid at a time, at most.
pub(crate) const MAX_VALID: usize = 400;

/// Bytes of an interface's name, at most.
const MAX_INTERFACE: usize = 15;

/// A pod whose interface was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Add {
    /// The runtime's name for the sandbox.
    pub(crate) container: String,
    /// Where its network namespace is mounted.
    pub(crate) namespace: String,
    /// The interface in it.
    pub(crate) interface: String,
    pub(crate) pod: PodRef,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PluginRequest {
    /// May it start, and where? Answered by `Joined` or `LeftAlone`.
    Add(Add),
    /// Is it still as ADD left it? Answered by `Done`.
    Check { container: String, uid: String },
    /// Forget all pods but these sandboxes'. Answered by `Done`.
    Collect { valid: Vec<String> },
    /// It ends. Answered by `Done`, also when it isn't known.
    Delete {
        container: String,
        /// Empty when the runtime doesn't know it any more.
        namespace: String,
        uid: String,
    },
    /// Adit is taken off the node: let no pod in any more, and those go that are behind the agent. The agent has `grace` to
    /// do it without loss. Answered by `Leaving` until none is left, then by `Done`; said again, it goes on.
    Dismiss {
        /// Whole milliseconds, `u32::MAX` at most.
        grace: Duration,
    },
    /// Is all as it should be? Answered by `Done`, or by `Refused` with what isn't.
    Probe,
}

/// What the helper answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PluginReply {
    Done,
    Joined,
    /// So many pods are behind the agent still.
    Leaving {
        pods: u16,
    },
    LeftAlone,
    Refused {
        code: Code,
        message: String,
    },
}

impl PluginRequest {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let (kind, mut reader) = Reader::open(bytes)?;
        let request = match kind {
            kind::ADD => Self::Add(Add {
                container: read_container(&mut reader)?,
                namespace: read_path(&mut reader)?,
                interface: reader.plain("interface", MAX_INTERFACE, "1 to 15 printable ASCII bytes")?,
                pod: PodRef::read(&mut reader)?,
            }),
            kind::CHECK => Self::Check {
                container: read_container(&mut reader)?,
                uid: pod::read_uid(&mut reader)?,
            },
            kind::COLLECT => Self::Collect {
                valid: reader.list("valid attachments", MAX_VALID, read_container)?,
            },
            kind::DELETE => Self::Delete {
                container: read_container(&mut reader)?,
                namespace: reader.text("namespace path", MAX_PATH)?,
                uid: pod::read_uid(&mut reader)?,
            },
            kind::DISMISS => Self::Dismiss {
                grace: Duration::from_millis(reader.u32("grace")?.into()),
            },
            kind::PROBE => Self::Probe,
            kind => return Err(InvalidMessage::Kind { kind }),
        };
        Ok(request)
    }

    /// Writes the request.
    ///
    /// # Errors
    /// The field that `decode` would refuse.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, InvalidMessage> {
        let bytes = match self {
            Self::Add(add) => {
                let mut writer = Writer::open(kind::ADD);
                writer.text(&add.container);
                writer.text(&add.namespace);
                writer.text(&add.interface);
                add.pod.write(&mut writer);
                writer.close()
            }
            Self::Check { container, uid } => {
                let mut writer = Writer::open(kind::CHECK);
                writer.text(container);
                writer.text(uid);
                writer.close()
            }
            Self::Collect { valid } => {
                let mut writer = Writer::open(kind::COLLECT);
                writer.list(valid, |writer, container| writer.text(container));
                writer.close()
            }
            Self::Delete {
                container,
                namespace,
                uid,
            } => {
                let mut writer = Writer::open(kind::DELETE);
                writer.text(container);
                writer.text(namespace);
                writer.text(uid);
                writer.close()
            }
            Self::Dismiss { grace } => {
                let mut writer = Writer::open(kind::DISMISS);
                writer.u32(u32::try_from(grace.as_millis()).unwrap_or(u32::MAX));
                writer.close()
            }
            Self::Probe => Writer::open(kind::PROBE).close(),
        };
        Self::decode(&bytes)?;
        Ok(bytes)
    }
}

impl PluginReply {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let (kind, mut reader) = Reader::open(bytes)?;
        let reply = match kind {
            kind::DONE => Self::Done,
            kind::JOINED => Self::Joined,
            kind::LEAVING => Self::Leaving {
                pods: reader.u16("pods")?,
            },
            kind::LEFT_ALONE => Self::LeftAlone,
            kind::REFUSED => Self::Refused {
                code: Code::from_wire(reader.u16("code")?),
                message: reader.text("message", MAX_TEXT)?,
            },
            kind => return Err(InvalidMessage::Kind { kind }),
        };
        Ok(reply)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Done => Writer::open(kind::DONE).close(),
            Self::Joined => Writer::open(kind::JOINED).close(),
            Self::Leaving { pods } => {
                let mut writer = Writer::open(kind::LEAVING);
                writer.u16(*pods);
                writer.close()
            }
            Self::LeftAlone => Writer::open(kind::LEFT_ALONE).close(),
            Self::Refused { code, message } => {
                let mut writer = Writer::open(kind::REFUSED);
                writer.u16(code.to_wire());
                writer.text(cut(message, MAX_TEXT));
                writer.close()
            }
        }
    }
}

/// Entry for `fuzz/`: what is read of the plugin's requests and of the replies to it is written back the same, but for what
/// comes after the last field.
///
/// # Panics
/// When that doesn't hold.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(request) = PluginRequest::decode(bytes) {
        let written = request.encode();
        assert!(written.is_ok_and(|written| bytes.starts_with(&written)));
    }
    if let Ok(reply) = PluginReply::decode(bytes) {
        assert!(bytes.starts_with(&reply.encode()));
    }
}

fn read_container(reader: &mut Reader<'_>) -> Result<String, InvalidMessage> {
    reader.plain("container id", MAX_CONTAINER, "1 to 128 printable ASCII bytes")
}

fn read_path(reader: &mut Reader<'_>) -> Result<String, InvalidMessage> {
    let path = reader.text("namespace path", MAX_PATH)?;
    let plain = path.starts_with('/') && !path.contains('\0');
    require(plain, "namespace path", "an absolute path")?;
    Ok(path)
}

/// The largest request is the list of valid attachments.
const _: () = assert!(MAX_VALID * (2 + MAX_CONTAINER) + 2 * MAX_UID + MAX_PATH <= MAX_MESSAGE);

mod kind {
    pub(super) const ADD: u8 = 32;
    pub(super) const DELETE: u8 = 33;
    pub(super) const CHECK: u8 = 34;
    pub(super) const COLLECT: u8 = 35;
    pub(super) const DISMISS: u8 = 36;
    pub(super) const PROBE: u8 = 37;
    pub(super) const DONE: u8 = 160;
    pub(super) const JOINED: u8 = 161;
    pub(super) const LEFT_ALONE: u8 = 162;
    pub(super) const LEAVING: u8 = 163;
    pub(super) const REFUSED: u8 = 255;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn request() -> impl Strategy<Value = PluginRequest> {
        let container = || "[a-f0-9]{1,64}";
        let uid = || "[a-f0-9-]{1,36}";
        prop_oneof![
            (
                container(),
                "/[a-z/]{0,40}",
                "[a-z0-9]{1,15}",
                uid(),
                1_u32..0xe000_0000
            )
                .prop_map(
                    |(container, namespace, interface, uid, ip)| PluginRequest::Add(Add {
                        container,
                        namespace,
                        interface,
                        pod: PodRef {
                            uid,
                            namespace: "shop".into(),
                            name: "web-0".into(),
                            addresses: vec![std::net::Ipv4Addr::from(ip).into()],
                        },
                    })
                ),
            (container(), uid()).prop_map(|(container, uid)| PluginRequest::Check { container, uid }),
            vec(container(), 0..20).prop_map(|valid| PluginRequest::Collect { valid }),
            (container(), "(/[a-z/]{0,40})?", uid()).prop_map(|(container, namespace, uid)| {
                PluginRequest::Delete {
                    container,
                    namespace,
                    uid,
                }
            }),
            any::<u32>().prop_map(|ms| PluginRequest::Dismiss {
                grace: Duration::from_millis(ms.into()),
            }),
            Just(PluginRequest::Probe),
        ]
    }

    proptest! {
        #[test]
        fn requests_read_back_as_they_were(request in request()) {
            prop_assert_eq!(PluginRequest::decode(&request.encode().unwrap()), Ok(request));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300), kind in 30_u8..40) {
            let _ = PluginReply::decode(&bytes);
            let headed = [&[crate::protocol::VERSION, kind], &bytes[..]].concat();
            if let Ok(request) = PluginRequest::decode(&headed) {
                prop_assert!(headed.starts_with(&request.encode().unwrap()));
            }
        }
    }

    #[test]
    fn replies_read_back_as_they_were() {
        for reply in [
            PluginReply::Done,
            PluginReply::Joined,
            PluginReply::Leaving { pods: 1024 },
            PluginReply::LeftAlone,
            PluginReply::Refused {
                code: Code::NO_AGENT,
                message: "no agent".into(),
            },
        ] {
            assert_eq!(PluginReply::decode(&reply.encode()), Ok(reply));
        }
    }
}
