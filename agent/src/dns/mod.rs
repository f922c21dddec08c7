//! Names of the mesh: the answer to a DNS query, from a snapshot. Pure: bytes in, bytes out.
//!
//! The zone is `cluster.local`, as in Kubernetes, and the mesh is its authority:
//!
//! | name | answer |
//! | --- | --- |
//! | `web.shop.svc.cluster.local` | the address of service `shop/web`; a headless service's ready workloads; else workload `shop/web` |
//! | `web-0.shop.svc.cluster.local` | workload `shop/web-0` |
//! | `web-0.web.shop.svc.cluster.local` | workload `shop/web-0`, where service `shop/web` selects it, ready or not |
//! | `_http._tcp.web.shop.svc.cluster.local` | SRV: the port called `http` |
//! | `2.0.77.10.in-addr.arpa`, `….ip6.arpa` | PTR: the name of a workload or service |
//!
//! The same names without `cluster.local`, without `svc.cluster.local`, and bare ones of the asker's own namespace
//! are answered too if they exist: programs that ignore the search list of `/etc/resolv.conf` find them. Where they
//! don't exist they aren't the mesh's (`.shop` is a top-level domain of the internet), and the user's own resolver
//! is asked, as for everything else.

mod files;
mod message;
#[cfg(test)]
mod tests;
mod zone;

use adit_control::Snapshot;
pub(crate) use files::{hosts, nsswitch, resolv_conf};
use hickory_proto::op::{OpCode, ResponseCode};
use hickory_proto::rr::DNSClass;

use message::{Query, Reply, Unreadable};
use zone::Lookup;

/// How long answers may be remembered, in seconds: about as long as a change of the mesh may take to be seen.
const TTL: u32 = 5;

/// What is to be done with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Send these bytes back.
    Reply(Vec<u8>),
    /// Not a name of the mesh: ask the user's own resolver.
    Forward,
    /// Send nothing.
    Drop(DropReason),
}

/// Why a message deserves no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DropReason {
    /// It is itself an answer: answering it could go on for ever.
    #[error("expected a DNS query, got a response")]
    NotAQuery,
    /// It has no whole header, so there is no id to answer with.
    #[error("expected a DNS message of at least 12 bytes, got {got}")]
    TooShort {
        /// Its length in bytes.
        got: usize,
    },
}

/// What carries the query, and with it how long an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Up to 65,535 bytes.
    Tcp,
    /// Up to what the query's EDNS record offers, or 512 bytes without one (RFC 1035 §4.2.1, RFC 6891 §6.2.3).
    Udp,
}

/// Answers a query that a workload of `from_namespace` sent.
pub(crate) fn answer(
    query: &[u8],
    snapshot: &Snapshot,
    from_namespace: &str,
    transport: Transport,
) -> Answer {
    let query = match Query::read(query) {
        Ok(query) => query,
        Err(Unreadable::Drop(reason)) => return Answer::Drop(reason),
        Err(Unreadable::Refuse { id, op_code, code }) => {
            return Answer::Reply(message::refusal(id, op_code, code));
        }
    };
    let mut reply = Reply::to(&query);
    if query.op_code() != OpCode::Query {
        return Answer::Reply(reply.failed(ResponseCode::NotImp).encode(&query, transport));
    }
    if query.edns_version() > 0 {
        // RFC 6891 §6.1.3.
        return Answer::Reply(reply.failed(ResponseCode::BADVERS).encode(&query, transport));
    }
    let view = zone::View {
        snapshot,
        wanted: query.record_type(),
    };
    match zone::look_up(view, from_namespace, &query.labels(), query.name()) {
        Lookup::NotOurs => return Answer::Forward,
        _ if !matches!(query.class(), DNSClass::IN | DNSClass::ANY) => {
            reply = reply.failed(ResponseCode::Refused)
        }
        Lookup::Missing { zone } => reply.missing(snapshot, zone),
        Lookup::Found { zone, records } => reply.found(snapshot, &query, zone, records),
    }
    Answer::Reply(reply.encode(&query, transport))
}
