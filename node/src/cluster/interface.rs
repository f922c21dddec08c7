//! A pod's real interface, as it was before it was moved: what has to be made again wherever it goes.

use std::io;

use super::protocol::PodAddress;
use crate::netlink::{Address, Link, MAIN_TABLE, MAX_LINK_ADDRESS, Neighbour, Route, Rtnetlink};
use crate::protocol::codec::{Reader, Writer};
use crate::protocol::{InvalidMessage, MAX_ADDRESSES, require};

/// Longest name of an interface, in bytes.
const MAX_NAME: usize = 15;

/// Routes and neighbours of one interface, at most. CNIs make a handful.
const MAX_ENTRIES: usize = 64;

/// Bytes of one route as the kernel writes it down, at most.
const MAX_ROUTE: usize = 512;

/// An interface and all that goes when it is moved. The kernel forgets addresses, routes and neighbours then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// Bytes.
    pub(super) mtu: u16,
    /// Those that others can reach.
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
    pub(super) neighbours: Vec<Neighbour>,
}

impl Interface {
    /// Writes down what `link` has.
    pub(super) fn of(link: &Link, netlink: &mut Rtnetlink) -> io::Result<Self> {
        let addresses = netlink.addresses()?;
        let ours = addresses.into_iter().filter(|(index, _)| *index == link.index);
        let interface = Self {
            name: link.name.clone(),
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            addresses: ours.map(|(_, address)| address).collect(),
            routes: netlink.routes_of(link.index)?,
            neighbours: netlink.neighbours_of(link.index)?,
        };
        let sizes = [
            ("addresses", interface.addresses.len(), MAX_ADDRESSES),
            ("routes", interface.routes.len(), MAX_ENTRIES),
            ("permanent neighbours", interface.neighbours.len(), MAX_ENTRIES),
        ];
        for (what, got, most) in sizes {
            if got > most {
                return Err(io::Error::other(format!(
                    "{} has {got} {what}, expected at most {most}",
                    link.name
                )));
            }
        }
        Ok(interface)
    }

    /// Gives a link of this namespace the MTU and the addresses, brings it up, and adds routes and neighbours. What is
    /// there stays. `every_table` says whether routes of other tables than the main one are wanted.
    pub(super) fn apply(&self, netlink: &mut Rtnetlink, index: u32, every_table: bool) -> io::Result<()> {
        for address in &self.addresses {
            netlink.ensure_bare_address(index, address)?;
        }
        netlink.set_up(index, Some(self.mtu))?;
        let wanted = || {
            self.routes
                .iter()
                .filter(|route| every_table || route.table() == MAIN_TABLE)
        };
        let (direct, through) = (
            wanted().filter(|route| route.is_direct()),
            wanted().filter(|route| !route.is_direct()),
        );
        for route in direct.chain(through) {
            netlink.ensure_route(index, route)?;
        }
        for neighbour in &self.neighbours {
            netlink.set_neighbour(index, neighbour)?;
        }
        Ok(())
    }

    pub(super) fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|address| address.ip.is_ipv6())
    }

    pub(super) fn pod_addresses(&self) -> Vec<PodAddress> {
        let addresses = self.addresses.iter();
        addresses
            .map(|address| PodAddress {
                ip: address.ip,
                prefix: address.prefix,
            })
            .collect()
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        Ok(Self {
            name: reader.plain("interface", MAX_NAME, "1 to 15 printable ASCII bytes")?,
            mtu: reader.u16("mtu")?,
            addresses: reader.list("addresses", MAX_ADDRESSES, read_address)?,
            routes: reader.list("routes", MAX_ENTRIES, |reader| {
                let bytes = reader.content("route", MAX_ROUTE)?.to_vec();
                Route::from_bytes(bytes).ok_or(InvalidMessage::Truncated { field: "route" })
            })?,
            neighbours: reader.list("neighbours", MAX_ENTRIES, |reader| {
                Ok(Neighbour {
                    ip: reader.address()?,
                    link_address: reader.content("link address", MAX_LINK_ADDRESS)?.to_vec(),
                })
            })?,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.text(&self.name);
        writer.u16(self.mtu);
        writer.list(&self.addresses, |writer, address| {
            writer.address(address.ip);
            writer.u8(address.prefix);
            writer.u8(u8::from(address.broadcast.is_some()));
            if let Some(broadcast) = address.broadcast {
                writer.address(broadcast);
            }
        });
        writer.list(&self.routes, |writer, route| writer.content(route.as_bytes()));
        writer.list(&self.neighbours, |writer, neighbour| {
            writer.address(neighbour.ip);
            writer.content(&neighbour.link_address);
        });
    }
}

fn read_address(reader: &mut Reader<'_>) -> Result<Address, InvalidMessage> {
    let ip = reader.host_address()?;
    let prefix = reader.u8("prefix")?;
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    require(prefix <= bits, "prefix", "at most 32 bits for IPv4, 128 for IPv6")?;
    let broadcast = match reader.flag("broadcast")? {
        true => Some(reader.address()?),
        false => None,
    };
    Ok(Address {
        ip,
        prefix,
        broadcast,
    })
}
