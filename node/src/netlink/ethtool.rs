//! What a link's device is left to do, by ethtool's own family of generic netlink (Linux 5.7 or later).

use std::io;

use rustix::net::netlink;

use super::message::{NESTED, Request, attributes, read_u16, zero_terminated};
use super::socket::Socket;

/// The family that knows the others' numbers, and what it is asked and answers.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// Bytes of `struct genlmsghdr`: command u8, version u8, reserved u16.
const BODY: usize = 4;

/// A socket of the family. It stays in the network namespace that it was made in.
pub(crate) struct Ethtool {
    socket: Socket,
    family: u16,
}

impl Ethtool {
    /// # Errors
    /// `NotFound` where the kernel was built without it (`CONFIG_ETHTOOL_NETLINK`); the kernel's own otherwise.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::open(Some(netlink::GENERIC))?;
        let mut family = None;
        let request = Request::change(GENL_ID_CTRL, &[CTRL_CMD_GETFAMILY, 1, 0, 0])
            .attribute(CTRL_ATTR_FAMILY_NAME, &zero_terminated("ethtool"));
        socket.call_with(&request, |kind, body| {
            if kind == GENL_ID_CTRL {
                family = family_id(body);
            }
        })?;
        let family = family.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { socket, family })
    }

    /// Has the kernel do itself what the link's device does otherwise: features by the names that `ethtool -k` shows. One
    /// that is off stays so.
    pub(crate) fn turn_off(&mut self, index: u32, features: &[&str]) -> io::Result<()> {
        self.socket.call(&without(self.family, index, features))
    }
}

fn family_id(body: &[u8]) -> Option<u16> {
    let mut all = attributes(body.get(BODY..)?);
    let (_, payload) = all.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)?;
    read_u16(payload, 0)
}

/// A bit that is named without a value is to be unset, and those that aren't named stay as they are.
fn without(family: u16, index: u32, features: &[&str]) -> Request {
    let header = Request::nested(&[]).attribute(ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes());
    let bits = features.iter().fold(Request::nested(&[]), |bits, name| {
        let bit = Request::nested(&[]).attribute(ETHTOOL_A_BITSET_BIT_NAME, &zero_terminated(name));
        bits.attribute(ETHTOOL_A_BITSET_BITS_BIT | NESTED, bit.payload())
    });
    let wanted = Request::nested(&[]).attribute(ETHTOOL_A_BITSET_BITS | NESTED, bits.payload());
    Request::change(family, &[ETHTOOL_MSG_FEATURES_SET, 1, 0, 0])
        .attribute(ETHTOOL_A_FEATURES_HEADER | NESTED, header.payload())
        .attribute(ETHTOOL_A_FEATURES_WANTED | NESTED, wanted.payload())
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn features_are_turned_off_by_name() {
        let bytes = without(20, 3, &["tx-udp", "ab"]).finish(1);
        assert_eq!(bytes[4..8], [20, 0, 5, 0], "the family, request and ack");
        assert_eq!(
            bytes[16..],
            [
                12, 1, 0, 0, // genlmsghdr: FEATURES_SET
                12, 0, 1, 0x80, // ETHTOOL_A_FEATURES_HEADER
                8, 0, 1, 0, 3, 0, 0, 0, // ETHTOOL_A_HEADER_DEV_INDEX
                36, 0, 3, 0x80, // ETHTOOL_A_FEATURES_WANTED
                32, 0, 3, 0x80, // ETHTOOL_A_BITSET_BITS
                16, 0, 1, 0x80, // ETHTOOL_A_BITSET_BITS_BIT
                11, 0, 2, 0, b't', b'x', b'-', b'u', b'd', b'p', 0, 0, // its name
                12, 0, 1, 0x80, // ETHTOOL_A_BITSET_BITS_BIT
                7, 0, 2, 0, b'a', b'b', 0, 0, // its name
            ]
        );
    }

    #[test]
    fn the_family_has_a_number() {
        let answer = Request::change(GENL_ID_CTRL, &[1, 2, 0, 0])
            .attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0")
            .attribute(CTRL_ATTR_FAMILY_ID, &21_u16.to_ne_bytes())
            .finish(1);
        assert_eq!(family_id(&answer[16..]), Some(21));
        assert_eq!((family_id(&[]), family_id(&answer[16..24])), (None, None));
    }
}
