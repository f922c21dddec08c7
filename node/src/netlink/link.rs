//! Interfaces: make pairs, find them, bring them up, rename, move and remove them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use adit_link::ethernet::MacAddress;

use super::Rtnetlink;
use super::message::{Request, attributes, read_bytes, read_text, read_u32, zero_terminated};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// Bytes of `struct ifinfomsg`: family u8, pad u8, type u16, index i32, flags u32, change mask u32.
const BODY: usize = 16;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// What made it, `veth` or `tun` say; empty for hardware and the loopback.
    pub(crate) kind: String,
    /// Bytes of the largest packet.
    pub(crate) mtu: u32,
    pub(crate) loopback: bool,
    /// Of Ethernet; `None` where addresses have another length, or there are none.
    pub(crate) mac_address: Option<MacAddress>,
    /// The interface that it stands on, as a macvlan does; a veth's other end.
    pub(crate) lower: Option<Lower>,
}

/// One end of a veth pair that is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac_address: MacAddress,
    /// Bytes of the largest packet.
    pub(crate) mtu: u16,
    /// Pieces of a super-packet that the end hands on, at most; the kernel's usual bound if `None`. With 1 packets are cut
    /// before they leave it: whoever reads them at the other end gets no super-packet.
    pub(crate) segments: Option<u32>,
}

/// An interface as another one names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lower {
    pub(crate) index: u32,
    /// The number of its network namespace, if that is another one.
    pub(crate) namespace: Option<u32>,
}

impl Link {
    /// Whether this is a TUN or TAP device.
    pub(crate) fn is_tun(&self) -> bool {
        self.kind == "tun"
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut link = Self {
            index: read_u32(body, 4)?,
            name: String::new(),
            kind: String::new(),
            mtu: 0,
            loopback: read_u32(body, 8)? & IFF_LOOPBACK != 0,
            mac_address: None,
            lower: None,
        };
        let (mut lower, mut namespace) = (None, None);
        for (attribute, payload) in attributes(body.get(BODY..)?) {
            match attribute {
                // A pod may name its links as it likes; one of bytes that are no text is there all the same.
                IFLA_IFNAME => link.name = String::from_utf8_lossy(read_bytes(payload)).into_owned(),
                IFLA_ADDRESS => link.mac_address = payload.try_into().ok().map(MacAddress),
                IFLA_LINK => lower = read_u32(payload, 0),
                IFLA_LINK_NETNSID => namespace = read_u32(payload, 0),
                IFLA_MTU => link.mtu = read_u32(payload, 0)?,
                IFLA_LINKINFO => {
                    let kind = attributes(payload).find(|(nested, _)| *nested == IFLA_INFO_KIND);
                    if let Some(kind) = kind.and_then(|(_, payload)| read_text(payload)) {
                        kind.clone_into(&mut link.kind);
                    }
                }
                _ => {}
            }
        }
        link.lower = lower.map(|index| Lower { index, namespace });
        (!link.name.is_empty()).then_some(link)
    }
}

impl Rtnetlink {
    /// Every interface of the namespace.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        self.socket
            .dump(&Request::list(RTM_GETLINK, &[0; BODY]), Link::parse)
    }

    /// Makes two links that are each other's wire, both down. Neither name may be taken.
    pub(crate) fn create_veth(&mut self, name: &str, peer: &str) -> io::Result<()> {
        self.socket.call(&veth(name, peer))
    }

    /// Makes a pair with one end here and the other in `there`. Neither name may be taken.
    pub(crate) fn create_wire(
        &mut self,
        here: &VethEnd<'_>,
        other: &VethEnd<'_>,
        there: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.socket.call(&wire(here, other, there))
    }

    /// Brings a link up, with another MTU if given.
    pub(crate) fn set_up(&mut self, index: u32, mtu: Option<u16>) -> io::Result<()> {
        self.socket.call(&set_flags(index, IFF_UP, mtu))
    }

    pub(crate) fn set_down(&mut self, index: u32) -> io::Result<()> {
        self.socket.call(&set_flags(index, 0, None))
    }

    /// Gives a link another name. Kernels before 6.2 refuse it (`EBUSY`) while the link is up.
    pub(crate) fn rename(&mut self, index: u32, name: &str) -> io::Result<()> {
        let request = Request::change(RTM_NEWLINK, &body(index, 0, 0));
        self.socket
            .call(&request.attribute(IFLA_IFNAME, &zero_terminated(name)))
    }

    /// Moves a link into another network namespace. It is down there, and has neither addresses nor routes.
    pub(crate) fn move_link(&mut self, index: u32, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let request = Request::change(RTM_NEWLINK, &body(index, 0, 0));
        self.socket
            .call(&request.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes()))
    }

    /// Removes a link that software made.
    pub(crate) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.socket
            .call(&Request::change(RTM_DELLINK, &body(index, 0, 0)))
    }
}

fn body(index: u32, flags: u32, mask: u32) -> [u8; BODY] {
    let mut body = [0; BODY];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&mask.to_ne_bytes());
    body
}

fn veth(name: &str, peer: &str) -> Request {
    // The peer is a message of its own: `ifinfomsg`, and attributes after it.
    let peer = Request::nested(&body(0, 0, 0)).attribute(IFLA_IFNAME, &zero_terminated(peer));
    Request::create(RTM_NEWLINK, &body(0, 0, 0))
        .attribute(IFLA_IFNAME, &zero_terminated(name))
        .attribute(IFLA_LINKINFO, pair_with(&peer).payload())
}

fn wire(here: &VethEnd<'_>, other: &VethEnd<'_>, there: BorrowedFd<'_>) -> Request {
    let described = |request: Request, end: &VethEnd<'_>| {
        let request = request
            .attribute(IFLA_IFNAME, &zero_terminated(end.name))
            .attribute(IFLA_ADDRESS, &end.mac_address.0)
            .attribute(IFLA_MTU, &u32::from(end.mtu).to_ne_bytes());
        match end.segments {
            Some(segments) => request.attribute(IFLA_GSO_MAX_SEGS, &segments.to_ne_bytes()),
            None => request,
        }
    };
    let peer = described(Request::nested(&body(0, 0, 0)), other)
        .attribute(IFLA_NET_NS_FD, &there.as_raw_fd().to_ne_bytes());
    described(Request::create(RTM_NEWLINK, &body(0, 0, 0)), here)
        .attribute(IFLA_LINKINFO, pair_with(&peer).payload())
}

fn pair_with(peer: &Request) -> Request {
    let data = Request::nested(&[]).attribute(VETH_INFO_PEER, peer.payload());
    Request::nested(&[])
        .attribute(IFLA_INFO_KIND, b"veth")
        .attribute(IFLA_INFO_DATA, data.payload())
}

fn set_flags(index: u32, up: u32, mtu: Option<u16>) -> Request {
    let request = Request::change(RTM_NEWLINK, &body(index, up, IFF_UP));
    match mtu {
        Some(mtu) => request.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes()),
        None => request,
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_link_is_brought_up_with_its_mtu() {
        assert_eq!(
            set_flags(2, IFF_UP, Some(65520)).finish(7),
            [
                40, 0, 0, 0, 16, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, // header
                0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, // ifinfomsg
                8, 0, 4, 0, 0xf0, 0xff, 0, 0, // IFLA_MTU
            ]
        );
    }

    #[test]
    fn a_veth_is_asked_for_with_its_peer_inside() {
        assert_eq!(
            veth("eth0", "p0").finish(1),
            [
                88, 0, 0, 0, 16, 0, 5, 6, 1, 0, 0, 0, 0, 0, 0, 0, // header, create and excl
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ifinfomsg
                9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0, // IFLA_IFNAME
                44, 0, 18, 0, // IFLA_LINKINFO
                8, 0, 1, 0, b'v', b'e', b't', b'h', // IFLA_INFO_KIND
                32, 0, 2, 0, // IFLA_INFO_DATA
                28, 0, 1, 0, // VETH_INFO_PEER
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // its ifinfomsg
                7, 0, 3, 0, b'p', b'0', 0, 0, // its IFLA_IFNAME
            ]
        );
    }

    #[test]
    fn a_wire_leads_to_another_namespace() {
        let there = std::fs::File::open("/dev/null").unwrap();
        let end = |name, mtu, segments| VethEnd {
            name,
            mac_address: MacAddress([2, 0, 0, 0, 0, 9]),
            mtu,
            segments,
        };
        let [fd, ..] = there.as_raw_fd().to_ne_bytes();
        let bytes = wire(
            &end("p0", 1500, None),
            &end("eth0", 65520, Some(1)),
            there.as_fd(),
        )
        .finish(1);
        assert_eq!(
            bytes[32..],
            [
                7, 0, 3, 0, b'p', b'0', 0, 0, // IFLA_IFNAME
                10, 0, 1, 0, 2, 0, 0, 0, 0, 9, 0, 0, // IFLA_ADDRESS
                8, 0, 4, 0, 0xdc, 5, 0, 0, // IFLA_MTU
                84, 0, 18, 0, // IFLA_LINKINFO
                8, 0, 1, 0, b'v', b'e', b't', b'h', // IFLA_INFO_KIND
                72, 0, 2, 0, // IFLA_INFO_DATA
                68, 0, 1, 0, // VETH_INFO_PEER
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // its ifinfomsg
                9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0, // its IFLA_IFNAME
                10, 0, 1, 0, 2, 0, 0, 0, 0, 9, 0, 0, // its IFLA_ADDRESS
                8, 0, 4, 0, 0xf0, 0xff, 0, 0, // its IFLA_MTU
                8, 0, 40, 0, 1, 0, 0, 0, // its IFLA_GSO_MAX_SEGS
                8, 0, 28, 0, fd, 0, 0, 0, // its IFLA_NET_NS_FD
            ]
        );
    }

    #[test]
    fn a_link_is_read_with_what_made_it() {
        let nested = [8, 0, 1, 0, b't', b'u', b'n', 0];
        let bytes = Request::change(RTM_NEWLINK, &body(7, 0x49, 0))
            .attribute(IFLA_IFNAME, b"eth0\0")
            .attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9])
            .attribute(IFLA_MTU, &1500_u32.to_ne_bytes())
            .attribute(IFLA_LINKINFO, &nested)
            .attribute(IFLA_LINK, &2_u32.to_ne_bytes())
            .attribute(IFLA_LINK_NETNSID, &5_u32.to_ne_bytes())
            .finish(1);
        let link = Link::parse(&bytes[16..]).unwrap();
        assert_eq!(
            link,
            Link {
                index: 7,
                name: "eth0".into(),
                kind: "tun".into(),
                mtu: 1500,
                loopback: true,
                mac_address: Some(MacAddress([2, 0, 0, 0, 0, 9])),
                lower: Some(Lower {
                    index: 2,
                    namespace: Some(5),
                }),
            }
        );
        assert!(link.is_tun());
        assert_eq!(Link::parse(&bytes[16..24]), None);
    }

    #[test]
    fn a_link_whose_name_is_no_text_is_not_overlooked() {
        let bytes = Request::change(RTM_NEWLINK, &body(7, 0, 0))
            .attribute(IFLA_IFNAME, b"m\xff\0")
            .attribute(IFLA_LINK, &2_u32.to_ne_bytes())
            .finish(1);
        let link = Link::parse(&bytes[16..]).unwrap();
        let here = Lower {
            index: 2,
            namespace: None,
        };
        assert_eq!((link.name.as_str(), link.lower), ("m\u{fffd}", Some(here)));
    }
}
