//! Requests out, messages and attributes in: nothing here knows what they are about.

use std::io;
use std::net::IpAddr;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;

/// `NLA_F_NESTED`: an attribute has others inside. Families that are younger than rtnetlink insist on it.
pub(super) const NESTED: u16 = 0x8000;

/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`, which some kernels set in an attribute's kind.
const NLA_FLAGS: u16 = 0xc000;

/// Bytes of `struct nlmsghdr`: length u32, kind u16, flags u16, sequence u32, port u32.
const HEADER: usize = 16;

/// A family of addresses, as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum IpFamily {
    V4 = 2,
    V6 = 10,
}

impl IpFamily {
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A request without its header's length and sequence.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Changes what is there, or removes it.
    pub(super) fn change(kind: u16, body: &[u8]) -> Self {
        Self::new(kind, NLM_F_ACK, body)
    }

    /// Adds what must not be there yet.
    pub(super) fn create(kind: u16, body: &[u8]) -> Self {
        Self::new(kind, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)
    }

    /// Adds what may be there, in which case it is replaced.
    pub(super) fn replace(kind: u16, body: &[u8]) -> Self {
        Self::new(kind, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body)
    }

    /// Asks for all of a kind.
    pub(super) fn list(kind: u16, body: &[u8]) -> Self {
        Self::new(kind, NLM_F_DUMP, body)
    }

    /// What goes into an attribute of another request by its [`payload`](Self::payload).
    pub(super) fn nested(body: &[u8]) -> Self {
        Self::new(0, 0, body)
    }

    /// All but the header.
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    /// Appends an attribute, padded to four bytes.
    pub(super) fn attribute(mut self, kind: u16, payload: &[u8]) -> Self {
        let len = 4 + payload.len() as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn finish(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let len = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

/// One message from the kernel.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    /// The list that it belongs to changed while it was read.
    pub(super) interrupted: bool,
    pub(super) body: &'a [u8],
}

/// The messages of one read.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = read_u32(self.rest, 0)? as usize;
        let message = self.rest.get(..len)?;
        let flags = read_u16(message, 6)?;
        let parsed = Message {
            kind: read_u16(message, 4)?,
            sequence: read_u32(message, 8)?,
            interrupted: flags & NLM_F_DUMP_INTR != 0,
            body: message.get(HEADER..)?,
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(parsed)
    }
}

/// The kernel's word on a request: `struct nlmsgerr` begins with a negative errno, or 0.
pub(super) fn verdict(body: &[u8]) -> io::Result<()> {
    match read_u32(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "rtnetlink verdict without an error number",
        )),
    }
}

/// The attributes after a body's fixed part, as kind and payload; ends at the first that isn't whole.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(read_u16(rest, 0)?);
        let kind = read_u16(rest, 2)? & !NLA_FLAGS;
        let payload = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What is before the zero that ends a text.
pub(super) fn read_bytes(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A text that ends with a zero.
pub(super) fn read_text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(read_bytes(bytes)).ok()
}

pub(super) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A text as the kernel wants it.
pub(super) fn zero_terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn verdicts_are_errors_or_not() {
        assert!(verdict(&[0; 4]).is_ok());
        let error = verdict(&(-17_i32).to_ne_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(verdict(&[0; 3]).is_err());
    }

    #[test]
    fn one_read_holds_several_messages() {
        let first = Request::change(16, &[1, 2, 3]).finish(5);
        let mut bytes = first.clone();
        bytes.resize(first.len().next_multiple_of(4), 0);
        bytes.extend(Request::list(18, &[9; 4]).finish(6));
        let found = Messages::new(&bytes)
            .map(|message| (message.kind, message.sequence, message.body.to_vec()))
            .collect::<Vec<_>>();
        assert_eq!(found, [(16, 5, vec![1, 2, 3]), (18, 6, vec![9; 4])]);
    }

    #[test]
    fn attributes_are_padded_and_read_back() {
        let request = Request::change(16, &[])
            .attribute(3, b"eth0\0")
            .attribute(4, &[7; 4]);
        let bytes = request.finish(1);
        assert_eq!(bytes.len(), 16 + 12 + 8);
        let found = attributes(&bytes[16..]).collect::<Vec<_>>();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (4, &[7; 4][..])]);
        assert_eq!(read_text(found[0].1), Some("eth0"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_left(bytes: Vec<u8>) {
            for message in Messages::new(&bytes).take(100) {
                prop_assert!(attributes(message.body).take(1000).count() <= bytes.len());
            }
            prop_assert!(attributes(&bytes).take(1000).count() <= bytes.len());
        }
    }
}
