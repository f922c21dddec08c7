//! The netlink requests that make a pod's network: links, addresses, routes, permanent neighbours, routing rules
//! ([`Rtnetlink`]), and what a link leaves to others ([`Ethtool`]).
//!
//! Written by hand, because a request is a few dozen bytes of fixed layout, this needs no `unsafe` (the ioctls that do
//! the same would), and the privileged helper is the place for the fewest dependencies. Encoding and decoding are pure
//! and tested against bytes; [`Socket`] is all the input and output. What the kernel's answers leave out or get wrong is an
//! error or skipped, never a panic.

mod address;
mod ethtool;
mod link;
mod message;
mod namespace;
mod neighbour;
mod route;
mod rule;
mod socket;

use std::io;

pub(crate) use address::Address;
pub(crate) use ethtool::Ethtool;
pub(crate) use link::{Link, Lower, VethEnd};
pub(crate) use message::IpFamily;
pub(crate) use neighbour::{MAX_LINK_ADDRESS, Neighbour};
pub(crate) use route::{LOCAL_TABLE, MAIN_TABLE, Route};
pub(crate) use rule::Rule;
use socket::Socket;

/// An rtnetlink socket. It stays in the network namespace that it was made in, wherever its thread goes.
pub(crate) struct Rtnetlink {
    socket: Socket,
}

impl Rtnetlink {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open(None)?,
        })
    }

    /// The interface's index.
    pub(crate) fn index(&self, name: &str) -> io::Result<u32> {
        self.socket.index(name)
    }
}
