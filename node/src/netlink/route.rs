//! Routes: those that a pod needs, and those that an interface had and is to have again elsewhere.

use std::io;
use std::net::IpAddr;

use super::Rtnetlink;
use super::message::{IpFamily, Request, attributes, octets, read_u32};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_EXPIRES: u16 = 23;

const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;

/// The table of ordinary routes.
pub(crate) const MAIN_TABLE: u32 = 254;

/// The table of the host's own addresses.
pub(crate) const LOCAL_TABLE: u32 = 255;

/// Bytes of `struct rtmsg`: family, destination bits, source bits, TOS, table, protocol, scope, type (all u8), flags
/// u32.
const BODY: usize = 12;

/// A unicast route of one interface, as the kernel wrote it down, so that what we don't know of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// `struct rtmsg` and attributes, less those about the interface and about the moment.
    bytes: Vec<u8>,
}

impl Route {
    /// A route that was written down by this machine's kernel; `None` when it is not whole.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() >= BODY).then_some(Self { bytes })
    }

    /// As [`from_bytes`](Self::from_bytes) reads it. For this machine only: numbers are in its own order.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The route and the index of its interface, if it is one to take along.
    fn parse(body: &[u8]) -> Option<(u32, Self)> {
        let head = body.first_chunk::<BODY>()?;
        let flags = read_u32(head, 8)?;
        if head[7] != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
            return None;
        }
        let mut index = None;
        let mut bytes = head.to_vec();
        // What else is in there says how the link is at the moment: dead, down, offloaded.
        bytes[8..].copy_from_slice(&(flags & RTNH_F_ONLINK).to_ne_bytes());
        let mut kept = Request::change(RTM_NEWROUTE, &bytes);
        for (attribute, payload) in attributes(&body[BODY..]) {
            match attribute {
                RTA_OIF => index = read_u32(payload, 0),
                RTA_CACHEINFO | RTA_EXPIRES => {}
                _ => kept = kept.attribute(attribute, payload),
            }
        }
        let bytes = kept.finish(0).split_off(16);
        Some((index?, Self { bytes }))
    }

    /// Whether it leads to neighbours without a gateway: such routes come first, for gateways are found through them.
    pub(crate) fn is_direct(&self) -> bool {
        self.attribute(RTA_GATEWAY).is_none() && self.attribute(RTA_VIA).is_none()
    }

    /// The number of its table.
    pub(crate) fn table(&self) -> u32 {
        let long = self.attribute(RTA_TABLE).and_then(|payload| read_u32(payload, 0));
        long.unwrap_or_else(|| u32::from(self.bytes[4]))
    }

    fn attribute(&self, wanted: u16) -> Option<&[u8]> {
        attributes(&self.bytes[BODY..]).find_map(|(kind, payload)| (kind == wanted).then_some(payload))
    }
}

impl Rtnetlink {
    /// The unicast routes of both families through one interface, but for those of the local table; routes with several
    /// ways are not among them.
    pub(crate) fn routes_of(&mut self, index: u32) -> io::Result<Vec<Route>> {
        let all = self
            .socket
            .dump(&Request::list(RTM_GETROUTE, &[0; BODY]), Route::parse)?;
        let ours = all
            .into_iter()
            .filter(|(through, route)| *through == index && route.table() != LOCAL_TABLE);
        Ok(ours.map(|(_, route)| route).collect())
    }

    /// Adds a route through an interface as it was; one that is there stays.
    pub(crate) fn ensure_route(&mut self, index: u32, route: &Route) -> io::Result<()> {
        let request = Request::create(RTM_NEWROUTE, &route.bytes);
        self.socket
            .ensure(&request.attribute(RTA_OIF, &index.to_ne_bytes()))
    }

    /// Sends everything of the family of `source` out through the link, from `source` unless bound otherwise. A gateway
    /// is taken for one of the link's whatever its address.
    pub(crate) fn add_default_route(
        &mut self,
        index: u32,
        source: IpAddr,
        gateway: Option<IpAddr>,
    ) -> io::Result<()> {
        self.socket.call(&default_route(index, source, gateway, None))
    }

    /// The same as a last resort: a route of a lower metric goes before it. One that is there stays.
    pub(crate) fn ensure_default_route(
        &mut self,
        index: u32,
        source: IpAddr,
        gateway: Option<IpAddr>,
        metric: u32,
    ) -> io::Result<()> {
        self.socket
            .ensure(&default_route(index, source, gateway, Some(metric)))
    }

    /// Sends what is for one address out through the link, by a table of its own. One that is there stays.
    pub(crate) fn ensure_host_route(
        &mut self,
        index: u32,
        ip: IpAddr,
        gateway: Option<IpAddr>,
        table: u8,
    ) -> io::Result<()> {
        self.socket.ensure(&host_route(index, ip, gateway, table))
    }
}

/// A route through a link, to neighbours themselves or by a gateway.
fn through(index: u32, ip: IpAddr, bits: u8, gateway: Option<IpAddr>, table: u8) -> Request {
    let mut body = [0; BODY];
    body[0] = IpFamily::of(ip) as u8;
    body[1] = bits;
    body[4] = table;
    body[5] = RTPROT_STATIC;
    body[6] = match (ip, gateway) {
        (IpAddr::V4(_), None) => RT_SCOPE_LINK,
        _ => RT_SCOPE_UNIVERSE,
    };
    body[7] = RTN_UNICAST;
    let Some(gateway) = gateway else {
        return Request::create(RTM_NEWROUTE, &body).attribute(RTA_OIF, &index.to_ne_bytes());
    };
    body[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    Request::create(RTM_NEWROUTE, &body)
        .attribute(RTA_OIF, &index.to_ne_bytes())
        .attribute(RTA_GATEWAY, &octets(gateway))
}

fn default_route(index: u32, source: IpAddr, gateway: Option<IpAddr>, metric: Option<u32>) -> Request {
    let request =
        through(index, source, 0, gateway, MAIN_TABLE as u8).attribute(RTA_PREFSRC, &octets(source));
    match metric {
        Some(metric) => request.attribute(RTA_PRIORITY, &metric.to_ne_bytes()),
        None => request,
    }
}

fn host_route(index: u32, ip: IpAddr, gateway: Option<IpAddr>, table: u8) -> Request {
    let ip_bytes = octets(ip);
    let bits = ip_bytes.len() as u8 * 8;
    through(index, ip, bits, gateway, table).attribute(RTA_DST, &ip_bytes)
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_names_device_and_source() {
        let bytes = default_route(2, "fd00:77::2".parse().unwrap(), None, None).finish(1);
        assert_eq!(bytes[16..28], [10, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[28..36], [8, 0, 4, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[36..40], [20, 0, 7, 0]);
        assert_eq!(bytes.len(), 56);
    }

    #[test]
    fn a_default_route_by_a_gateway_is_on_the_link() {
        let bytes = default_route(2, [10, 77, 0, 2].into(), Some([169, 254, 1, 1].into()), Some(7)).finish(1);
        assert_eq!(
            bytes[16..],
            [
                2, 0, 0, 0, 254, 4, 0, 1, 4, 0, 0, 0, // rtmsg: universe, unicast, onlink
                8, 0, 4, 0, 2, 0, 0, 0, // RTA_OIF
                8, 0, 5, 0, 169, 254, 1, 1, // RTA_GATEWAY
                8, 0, 7, 0, 10, 77, 0, 2, // RTA_PREFSRC
                8, 0, 6, 0, 7, 0, 0, 0, // RTA_PRIORITY
            ]
        );
    }

    #[test]
    fn a_host_route_has_a_table_of_its_own() {
        let bytes = host_route(2, [10, 77, 0, 2].into(), None, 101).finish(1);
        assert_eq!(
            bytes[16..],
            [
                2, 32, 0, 0, 101, 4, 253, 1, 0, 0, 0, 0, // rtmsg: link, unicast
                8, 0, 4, 0, 2, 0, 0, 0, // RTA_OIF
                8, 0, 1, 0, 10, 77, 0, 2, // RTA_DST
            ]
        );
    }

    #[test]
    fn a_route_is_kept_but_for_the_moment_and_the_interface() {
        let body = [2, 24, 0, 0, 254, 2, 0, 1, 20, 0, 0, 0]; // flags: onlink, link down
        let bytes = Request::create(RTM_NEWROUTE, &body)
            .attribute(RTA_DST, &[10, 244, 0, 0])
            .attribute(RTA_OIF, &5_u32.to_ne_bytes())
            .attribute(RTA_GATEWAY, &[10, 244, 0, 1])
            .attribute(20, &[1]) // RTA_PREF, one byte
            .attribute(RTA_CACHEINFO, &[0; 32])
            .finish(1);
        let (index, route) = Route::parse(&bytes[16..]).unwrap();
        assert_eq!((index, route.table(), route.is_direct()), (5, 254, false));
        assert_eq!(
            route.as_bytes(),
            [
                2, 24, 0, 0, 254, 2, 0, 1, 4, 0, 0, 0, // flags: onlink
                8, 0, 1, 0, 10, 244, 0, 0, // RTA_DST
                8, 0, 5, 0, 10, 244, 0, 1, // RTA_GATEWAY
                5, 0, 20, 0, 1, 0, 0, 0, // RTA_PREF, padded
            ]
        );
        assert_eq!(Route::from_bytes(route.as_bytes().to_vec()), Some(route));
        assert_eq!(Route::from_bytes(vec![2; 11]), None);
    }

    #[test]
    fn broadcast_and_local_routes_are_not_taken_along() {
        let mut body = [2, 32, 0, 0, 255, 2, 254, 2, 0, 0, 0, 0];
        let with = |body: &[u8]| {
            let request = Request::create(RTM_NEWROUTE, body).attribute(RTA_OIF, &[1, 0, 0, 0]);
            Route::parse(&request.finish(1)[16..]).is_some()
        };
        assert!(!with(&body));
        body[7] = RTN_UNICAST;
        assert!(with(&body));
    }
}
