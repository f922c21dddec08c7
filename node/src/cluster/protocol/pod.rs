//! What the helper and the agent know of a pod.

use std::net::IpAddr;

use crate::protocol::codec::{Reader, Writer};
use crate::protocol::{InvalidMessage, MAX_ADDRESSES, MAX_NAME, PodAddress, require};

use super::MAX_PORTS;

/// Bytes of a pod's uid, at most. Kubernetes' have 36, or 32 for static pods.
pub const MAX_UID: usize = 63;

/// A pod as Kubernetes names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Its uid: 1 to [`MAX_UID`] letters, digits, `-` and `_`.
    pub uid: String,
    /// Its namespace, 1 to [`MAX_NAME`] printable ASCII bytes.
    pub namespace: String,
    /// Its name, 1 to [`MAX_NAME`] printable ASCII bytes.
    pub name: String,
    /// Its addresses, 1 to [`MAX_ADDRESSES`]. By these a running pod's network namespace is found.
    pub addresses: Vec<IpAddr>,
}

/// A pod that is behind the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its uid, namespace and name.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Addresses of its interface that others can reach, with the prefixes that they had; no link-local ones.
    pub addresses: Vec<PodAddress>,
    /// MTU in bytes of the real interface and of the agent's device in O.
    pub wire_mtu: u16,
    /// MTU in bytes of the agent's device in P.
    pub pod_mtu: u16,
    /// The pod has a global IPv6 address, and O carries IPv6.
    pub ipv6: bool,
    /// Ports that agents' connections are let through to, in order; at most [`MAX_PORTS`].
    pub open_ports: Vec<u16>,
}

impl PodRef {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        let pod = Self {
            uid: read_uid(reader)?,
            namespace: reader.plain("namespace", MAX_NAME, "1 to 253 printable ASCII bytes")?,
            name: reader.name()?,
            addresses: reader.list("addresses", MAX_ADDRESSES, Reader::host_address)?,
        };
        require(!pod.addresses.is_empty(), "addresses", "1 to 16 addresses")?;
        Ok(pod)
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.text(&self.uid);
        writer.text(&self.namespace);
        writer.text(&self.name);
        writer.list(&self.addresses, |writer, ip| writer.address(*ip));
    }
}

impl Member {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        Ok(Self {
            uid: read_uid(reader)?,
            namespace: reader.plain("namespace", MAX_NAME, "1 to 253 printable ASCII bytes")?,
            name: reader.name()?,
            addresses: reader.list("addresses", MAX_ADDRESSES, PodAddress::read)?,
            wire_mtu: reader.u16("wire mtu")?,
            pod_mtu: reader.u16("pod mtu")?,
            ipv6: reader.flag("ipv6")?,
            open_ports: reader.list("open ports", MAX_PORTS, |reader| reader.u16("port"))?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.text(&self.uid);
        writer.text(&self.namespace);
        writer.text(&self.name);
        writer.list(&self.addresses, |writer, address| address.write(writer));
        writer.u16(self.wire_mtu);
        writer.u16(self.pod_mtu);
        writer.u8(u8::from(self.ipv6));
        writer.list(&self.open_ports, |writer, port| writer.u16(*port));
    }
}

/// A uid, which is also the name of a file: so nothing in it may mean something to a path.
pub(crate) fn read_uid(reader: &mut Reader<'_>) -> Result<String, InvalidMessage> {
    let uid = reader.text("pod uid", MAX_UID)?;
    require(is_uid(&uid), "pod uid", "1 to 63 letters, digits, '-' and '_'")?;
    Ok(uid)
}

/// Whether `text` can be a pod's uid.
pub(crate) fn is_uid(text: &str) -> bool {
    (1..=MAX_UID).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
