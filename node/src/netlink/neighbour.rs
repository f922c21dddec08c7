//! Neighbours that somebody wrote down for good, as some CNIs do for the gateway.

use std::io;
use std::net::IpAddr;

use super::Rtnetlink;
use super::message::{IpFamily, Request, attributes, octets, read_ip, read_u16, read_u32};

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// Bytes of `struct ndmsg`: family u8, pads u8 and u16, index i32, state u16, flags u8, type u8.
const BODY: usize = 12;

/// Bytes of a link-layer address, at most (`MAX_ADDR_LEN`).
pub(crate) const MAX_LINK_ADDRESS: usize = 32;

/// A neighbour whose link-layer address is known for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) ip: IpAddr,
    /// 6 bytes on Ethernet, at most 32 anywhere.
    pub(crate) link_address: Vec<u8>,
}

impl Neighbour {
    fn parse(body: &[u8]) -> Option<(u32, Self)> {
        let index = read_u32(body, 4)?;
        if read_u16(body, 8)? & NUD_PERMANENT == 0 {
            return None;
        }
        let find = |wanted| {
            let mut all = attributes(body.get(BODY..).unwrap_or_default());
            all.find_map(move |(kind, payload)| (kind == wanted).then_some(payload))
        };
        let link_address = find(NDA_LLADDR)?;
        let neighbour = Self {
            ip: read_ip(find(NDA_DST)?)?,
            link_address: link_address
                .get(..link_address.len().min(MAX_LINK_ADDRESS))?
                .to_vec(),
        };
        Some((index, neighbour))
    }
}

impl Rtnetlink {
    /// The permanent neighbours of one interface.
    pub(crate) fn neighbours_of(&mut self, index: u32) -> io::Result<Vec<Neighbour>> {
        let all = self
            .socket
            .dump(&Request::list(RTM_GETNEIGH, &[0; BODY]), Neighbour::parse)?;
        let ours = all.into_iter().filter(|(on, _)| *on == index);
        Ok(ours.map(|(_, neighbour)| neighbour).collect())
    }

    /// Writes a neighbour down for good, also where the kernel has just found it by itself.
    pub(crate) fn set_neighbour(&mut self, index: u32, neighbour: &Neighbour) -> io::Result<()> {
        self.socket.call(&permanent(index, neighbour))
    }
}

fn permanent(index: u32, neighbour: &Neighbour) -> Request {
    let mut body = [0; BODY];
    body[0] = IpFamily::of(neighbour.ip) as u8;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    Request::replace(RTM_NEWNEIGH, &body)
        .attribute(NDA_DST, &octets(neighbour.ip))
        .attribute(NDA_LLADDR, &neighbour.link_address)
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_permanent_neighbour_reads_back_and_others_are_left_out() {
        let neighbour = Neighbour {
            ip: "169.254.1.1".parse().unwrap(),
            link_address: vec![2, 0, 0, 0, 0, 1],
        };
        let mut bytes = permanent(4, &neighbour).finish(1);
        assert_eq!(Neighbour::parse(&bytes[16..]), Some((4, neighbour)));
        bytes[24] = 2; // NUD_REACHABLE
        assert_eq!(Neighbour::parse(&bytes[16..]), None);
    }
}
