//! The five rtnetlink requests that make a pod's network: link settings, an address, a default route.
//!
//! Written by hand, because a request is a few dozen bytes of fixed layout, this needs no `unsafe` (the ioctls that do
//! the same would), and the privileged helper is the place for the fewest dependencies. Encoding is pure and tested
//! against bytes; [`Route`] is the socket.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_MTU: u16 = 4;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// An rtnetlink socket of the network namespace it was made in.
pub(crate) struct Route {
    socket: OwnedFd,
    sequence: u32,
}

impl Route {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is protocol 0
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface's index.
    pub(crate) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.socket, name)?)
    }

    /// Brings a link up, with another MTU if given.
    pub(crate) fn set_up(&mut self, index: u32, mtu: Option<u16>) -> io::Result<()> {
        self.call(&link_up(index, mtu))
    }

    /// Adds an address, without duplicate detection: nobody else is on the link.
    pub(crate) fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        self.call(&address(index, ip, prefix))
    }

    /// Sends everything of the family of `source` out through the link, from `source` unless bound otherwise.
    pub(crate) fn add_default_route(&mut self, index: u32, source: IpAddr) -> io::Result<()> {
        self.call(&default_route(index, source))
    }

    /// Sends one request and waits for the kernel's verdict, which it gives before `send` returns.
    fn call(&mut self, request: &Request) -> io::Result<()> {
        self.sequence += 1;
        rustix::net::send(&self.socket, &request.finish(self.sequence), SendFlags::empty())?;
        let mut reply = [0; 1024];
        loop {
            let (len, _) = rustix::net::recv(&self.socket, &mut reply, RecvFlags::empty())?;
            if let Some(verdict) = parse_verdict(&reply[..len], self.sequence) {
                return verdict;
            }
        }
    }
}

/// A request without its header's length and sequence.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    /// Appends an attribute; all of ours are multiples of four bytes, so there is no padding to write.
    fn attribute(mut self, kind: u16, payload: &[u8]) -> Self {
        debug_assert_eq!(payload.len() % 4, 0);
        let len = 4 + payload.len() as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self
    }

    fn finish(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let len = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

/// `struct ifinfomsg`: family u8, pad u8, type u16, index i32, flags u32, change mask u32.
fn link_up(index: u32, mtu: Option<u16>) -> Request {
    let mut body = [0; 16];
    body[0] = AF_UNSPEC;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    let request = Request::new(RTM_NEWLINK, 0, &body);
    match mtu {
        Some(mtu) => request.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes()),
        None => request,
    }
}

/// `struct ifaddrmsg`: family u8, prefix length u8, flags u8, scope u8, index u32.
fn address(index: u32, ip: IpAddr, prefix: u8) -> Request {
    let mut body = [0; 8];
    body[0] = family(ip);
    body[1] = prefix;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let ip = octets(ip);
    Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body)
        .attribute(IFA_LOCAL, &ip)
        .attribute(IFA_ADDRESS, &ip)
        .attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes())
}

/// `struct rtmsg`: family, destination bits, source bits, TOS, table, protocol, scope, type (all u8), flags u32.
fn default_route(index: u32, source: IpAddr) -> Request {
    let mut body = [0; 12];
    body[0] = family(source);
    body[4] = RT_TABLE_MAIN;
    body[5] = RTPROT_STATIC;
    body[6] = if source.is_ipv4() {
        RT_SCOPE_LINK
    } else {
        RT_SCOPE_UNIVERSE
    };
    body[7] = RTN_UNICAST;
    Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &body)
        .attribute(RTA_OIF, &index.to_ne_bytes())
        .attribute(RTA_PREFSRC, &octets(source))
}

/// The verdict on request `sequence`, if this is it: `struct nlmsgerr` begins with a negative errno, or 0.
fn parse_verdict(reply: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let kind = u16::from_ne_bytes(reply.get(4..6)?.try_into().ok()?);
    let answered = u32::from_ne_bytes(reply.get(8..12)?.try_into().ok()?);
    let error = i32::from_ne_bytes(reply.get(HEADER..HEADER + 4)?.try_into().ok()?);
    match (kind, answered == sequence) {
        (NLMSG_ERROR, true) if error == 0 => Some(Ok(())),
        (NLMSG_ERROR, true) => Some(Err(io::Error::from_raw_os_error(error.saturating_neg()))),
        _ => None,
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_brought_up_with_its_mtu() {
        assert_eq!(
            link_up(2, Some(65520)).finish(7),
            [
                40, 0, 0, 0, 16, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, // header
                0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, // ifinfomsg
                8, 0, 4, 0, 0xf0, 0xff, 0, 0, // IFLA_MTU
            ]
        );
    }

    #[test]
    fn an_address_has_no_duplicate_detection() {
        assert_eq!(
            address(2, "10.77.0.2".parse().unwrap(), 32).finish(1),
            [
                48, 0, 0, 0, 20, 0, 5, 6, 1, 0, 0, 0, 0, 0, 0, 0, // header
                2, 32, 0, 0, 2, 0, 0, 0, // ifaddrmsg
                8, 0, 2, 0, 10, 77, 0, 2, // IFA_LOCAL
                8, 0, 1, 0, 10, 77, 0, 2, // IFA_ADDRESS
                8, 0, 8, 0, 2, 0, 0, 0, // IFA_FLAGS
            ]
        );
    }

    #[test]
    fn the_default_route_names_device_and_source() {
        let bytes = default_route(2, "fd00:77::2".parse().unwrap()).finish(1);
        assert_eq!(bytes[16..28], [10, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[28..36], [8, 0, 4, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[36..40], [20, 0, 7, 0]);
        assert_eq!(bytes.len(), 56);
    }

    #[test]
    fn verdicts_are_told_from_other_messages() {
        let mut reply = [0; 36];
        reply[4] = 2;
        reply[8] = 9;
        assert!(matches!(parse_verdict(&reply, 9), Some(Ok(()))));
        assert!(parse_verdict(&reply, 8).is_none());
        reply[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        let error = parse_verdict(&reply, 9).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(parse_verdict(&reply[..19], 9).is_none());
    }
}
