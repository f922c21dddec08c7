//! What a flow is found by, and the hash for it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::packet::ip;

/// Protocol, addresses and ports of a flow, seen from the pod: 39 bytes, so that a flow and its ends share a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) pod: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) pod_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) protocol: u8,
}

impl Ends {
    pub(crate) fn new(protocol: u8, pod: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            pod: pod.ip(),
            remote: remote.ip(),
            pod_port: pod.port(),
            remote_port: remote.port(),
            protocol,
        }
    }

    pub(crate) fn tcp(pod: SocketAddr, remote: SocketAddr) -> Self {
        Self::new(ip::TCP, pod, remote)
    }

    /// The hash for a table.
    pub(crate) fn hash(&self, secret: Secret) -> u64 {
        let ports = u64::from(self.pod_port) << 16 | u64::from(self.remote_port);
        secret.hash(self.pod, self.remote, u64::from(self.protocol) << 32 | ports)
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
    pub(crate) fn hash(self, a: IpAddr, b: IpAddr, more: u64) -> u64 {
        let [first, second] = self.keys;
        match (a, b) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let addresses = u64::from(a.to_bits()) << 32 | u64::from(b.to_bits());
                fold(fold(addresses ^ first, more ^ second), second)
            }
            (a, b) => {
                let [a, b] = [a, b].map(|address| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                    IpAddr::V6(address) => address.to_bits(),
                });
                let halves = |bits: u128| ((bits >> 64) as u64, bits as u64);
                let ((a_high, a_low), (b_high, b_low)) = (halves(a), halves(b));
                let state = fold(a_high ^ first, a_low ^ second);
                let state = fold(state ^ b_high ^ first, b_low ^ second);
                fold(fold(state ^ first, more ^ second), second)
            }
        }
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

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

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
