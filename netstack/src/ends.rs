//! What a flow is found by, and the hash for it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use crate::packet::address::Address;
use crate::packet::ip;

/// Protocol, addresses and ports of a flow, seen from the pod. Plain words: they're compared and hashed for every packet, and
/// bytes put together just before would hold the processor up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pod: Address,
    remote: Address,
    /// The pod's in the upper half.
    ports: u32,
    protocol: u8,
    /// Of pings: the remote end asks, and the pod answers. An end's pings of another are not those that it gets, though their
    /// identifiers may be equal.
    asked_by_remote: bool,
}

impl Ends {
    /// Each end an address and a port.
    #[inline]
    pub(crate) fn new(protocol: u8, pod: (Address, u16), remote: (Address, u16)) -> Self {
        Self {
            pod: pod.0,
            remote: remote.0,
            ports: u32::from(pod.1) << 16 | u32::from(remote.1),
            protocol,
            asked_by_remote: false,
        }
    }

    /// The same, asked by the remote end or not.
    #[inline]
    pub(crate) fn asked_by_remote(self, asked_by_remote: bool) -> Self {
        Self {
            asked_by_remote,
            ..self
        }
    }

    #[inline]
    pub(crate) fn between(protocol: u8, pod: SocketAddr, remote: SocketAddr) -> Self {
        Self::new(
            protocol,
            (pod.ip().into(), pod.port()),
            (remote.ip().into(), remote.port()),
        )
    }

    #[inline]
    pub(crate) fn tcp(pod: SocketAddr, remote: SocketAddr) -> Self {
        Self::between(ip::TCP, pod, remote)
    }

    pub(crate) fn pod(&self) -> SocketAddr {
        SocketAddr::new(self.pod.into(), (self.ports >> 16) as u16)
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote.into(), self.ports as u16)
    }

    pub(crate) fn pod_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    pub(crate) fn remote_port(&self) -> u16 {
        self.ports as u16
    }

    pub(crate) fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The hash for a table.
    #[inline]
    pub(crate) fn hash(&self, secret: Secret) -> u64 {
        let kind = u64::from(self.protocol) << 1 | u64::from(self.asked_by_remote);
        let more = kind << 32 | u64::from(self.ports);
        secret.hash(self.pod, self.remote, more)
    }
}

/// What keeps a pod from choosing ends that collide in a table, and from guessing sequence numbers.
#[derive(Clone, Copy)]
pub(crate) struct Secret {
    seed: u64,
    keys: [u64; 2],
}

impl Secret {
    pub(crate) fn new(seed: u64) -> Self {
        let key = |number: u64| {
            let mut hasher = DefaultHasher::new();
            (seed, number).hash(&mut hasher);
            hasher.finish() | 1
        };
        Self {
            seed,
            keys: [1, 2].map(key),
        }
    }

    /// The hash of a table that's indexed by two addresses and something more. A multiplication of what's mixed with a
    /// secret, folded: few cycles, and who doesn't know the secret can't choose what collides.
    #[inline]
    pub(crate) fn hash(self, a: Address, b: Address, more: u64) -> u64 {
        let [first, second] = self.keys;
        let state = fold(a.low ^ first, b.low ^ second);
        // Of IPv4 there's no more than that.
        let state = if a.high | b.high == 0 {
            state
        } else {
            fold(state ^ a.high ^ first, b.high ^ second)
        };
        fold(fold(state ^ first, more ^ second), second)
    }

    /// A number that depends on the ends and the secret only (RFC 6528 §3, F).
    pub(crate) fn keyed_hash(self, pod: SocketAddr, remote: SocketAddr) -> u64 {
        let mut hasher = DefaultHasher::new();
        (!self.seed).hash(&mut hasher);
        for end in [pod, remote] {
            match end {
                SocketAddr::V4(end) => {
                    hasher.write_u64(u64::from(end.ip().to_bits()) << 16 | u64::from(end.port()))
                }
                SocketAddr::V6(end) => {
                    hasher.write_u128(end.ip().to_bits());
                    hasher.write_u16(end.port());
                }
            }
        }
        hasher.finish()
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_what_they_were_made_of() {
        for (pod, remote) in [("10.0.0.1:5", "0.0.0.0:0"), ("[fd00::1]:65535", "[::2]:6")] {
            let (pod, remote) = (pod.parse().unwrap(), remote.parse().unwrap());
            let ends = Ends::tcp(pod, remote);
            assert_eq!((ends.pod(), ends.remote()), (pod, remote));
            assert_eq!((ends.pod_port(), ends.remote_port()), (pod.port(), remote.port()));
        }
    }

    /// Ports in a row, addresses in a row, both ends' the same: what a pod and its peers really use.
    #[test]
    fn ends_in_a_row_have_hashes_all_over() {
        let secret = Secret::new(9);
        for v6 in [false, true] {
            let end = |address: u8, port| {
                if v6 {
                    SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(address)], port))
                } else {
                    SocketAddr::from(([10, 0, 0, address], port))
                }
            };
            let mut low = [0; 256];
            let mut high = [0; 128];
            for address in 0..64 {
                for port in 0..1024_u16 {
                    let ends = Ends::tcp(end(1, 40_000 + port), end(address, 80 + port % 3));
                    let hash = ends.hash(secret);
                    low[hash as usize % 256] += 1;
                    high[(hash >> 57) as usize] += 1;
                }
            }
            // 256 and 512 each on average, with deviations of 16 and 23.
            assert!(low.iter().all(|count| (150..370).contains(count)), "{low:?}");
            assert!(high.iter().all(|count| (370..660).contains(count)), "{high:?}");
        }
    }
}
