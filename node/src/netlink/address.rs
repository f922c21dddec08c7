//! Addresses of an interface.

use std::io;
use std::net::IpAddr;

use super::Rtnetlink;
use super::message::{IpFamily, Request, attributes, octets, read_ip, read_u32};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;

const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// Bytes of `struct ifaddrmsg`: family u8, prefix length u8, flags u8, scope u8, index u32.
const BODY: usize = 8;

/// `RT_SCOPE_UNIVERSE`: an address that is not of the link or the host alone.
const SCOPE_UNIVERSE: u8 = 0;

/// An address that others can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    /// Bits of its network.
    pub(crate) prefix: u8,
    /// Of IPv4, where it has one.
    pub(crate) broadcast: Option<IpAddr>,
}

impl Address {
    /// The address and the index of its interface; `None` for addresses of the link or the host alone.
    fn parse(body: &[u8]) -> Option<(u32, Self)> {
        let [_, prefix, _, SCOPE_UNIVERSE, ..] = *body else {
            return None;
        };
        let index = read_u32(body, 4)?;
        let (mut local, mut peer, mut broadcast) = (None, None, None);
        for (attribute, payload) in attributes(body.get(BODY..)?) {
            match attribute {
                IFA_LOCAL => local = read_ip(payload),
                IFA_ADDRESS => peer = read_ip(payload),
                IFA_BROADCAST => broadcast = read_ip(payload),
                _ => {}
            }
        }
        // IPv6 has IFA_LOCAL only where the other end of the link is named, which is IFA_ADDRESS then.
        let ip = local.or(peer)?;
        let address = Self {
            ip,
            prefix,
            broadcast,
        };
        Some((index, address))
    }
}

impl Rtnetlink {
    /// Global addresses of every interface, with the interface's index.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<(u32, Address)>> {
        self.socket
            .dump(&Request::list(RTM_GETADDR, &[0; BODY]), Address::parse)
    }

    /// Adds an address, without duplicate detection: nobody else is on the link.
    pub(crate) fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        self.socket.call(&address(index, ip, prefix, IFA_F_NODAD))
    }

    /// Adds an address, without the route to its network that the kernel would add. One that is there stays.
    pub(crate) fn ensure_bare_address(&mut self, index: u32, added: &Address) -> io::Result<()> {
        let request = address(index, added.ip, added.prefix, IFA_F_NODAD | IFA_F_NOPREFIXROUTE);
        self.socket.ensure(&match added.broadcast {
            Some(broadcast) => request.attribute(IFA_BROADCAST, &octets(broadcast)),
            None => request,
        })
    }
}

fn address(index: u32, ip: IpAddr, prefix: u8, flags: u32) -> Request {
    let mut body = [0; BODY];
    body[0] = IpFamily::of(ip) as u8;
    body[1] = prefix;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let ip = octets(ip);
    Request::create(RTM_NEWADDR, &body)
        .attribute(IFA_LOCAL, &ip)
        .attribute(IFA_ADDRESS, &ip)
        .attribute(IFA_FLAGS, &flags.to_ne_bytes())
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_duplicate_detection() {
        assert_eq!(
            address(2, "10.77.0.2".parse().unwrap(), 32, IFA_F_NODAD).finish(1),
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
    fn an_address_reads_back_and_those_of_the_link_are_left_out() {
        let mut bytes = address(3, "fd00::5".parse().unwrap(), 64, 0).finish(1);
        let (index, found) = Address::parse(&bytes[16..]).unwrap();
        assert_eq!((index, found.prefix, found.broadcast), (3, 64, None));
        assert_eq!(found.ip, "fd00::5".parse::<IpAddr>().unwrap());
        bytes[19] = 253; // RT_SCOPE_LINK
        assert_eq!(Address::parse(&bytes[16..]), None);
    }
}
