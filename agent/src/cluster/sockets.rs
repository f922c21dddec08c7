//! Blank sockets at pods' own addresses.
//!
//! A socket stays in the network namespace that it was made in, so one that the helper made in a pod's outer namespace
//! speaks as the pod, whoever holds it. They come in batches, since each request is a turn of the helper.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use adit_node::cluster::Family;
use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::broker::Broker;

/// Sockets asked for at once.
const BATCH: u16 = 16;

/// Connections that wait to be accepted at one of a pod's ports.
const BACKLOG: u32 = 1_024;

/// The sockets of every captured pod, by each of its addresses. Replaced as pods come and go.
#[derive(Debug, Default)]
pub(crate) struct OuterSockets {
    pods: ArcSwap<HashMap<IpAddr, Arc<PodSockets>>>,
}

/// The sockets of one captured pod.
#[derive(Debug)]
pub(crate) struct PodSockets {
    uid: String,
    broker: Broker,
    blank: Mutex<Blank>,
}

/// At most [`BATCH`] of each.
#[derive(Debug, Default)]
struct Blank {
    v4: Vec<OwnedFd>,
    v6: Vec<OwnedFd>,
}

impl OuterSockets {
    /// Enters a captured pod.
    pub(crate) fn insert(&self, addresses: &[IpAddr], sockets: &Arc<PodSockets>) {
        self.replace(|pods| pods.extend(addresses.iter().map(|address| (*address, Arc::clone(sockets)))));
    }

    /// Forgets a pod, unless another one has its addresses by now.
    pub(crate) fn remove(&self, uid: &str) {
        self.replace(|pods| pods.retain(|_, sockets| sockets.uid != uid));
    }

    /// A connection to `to` that comes from the pod which has `from`.
    ///
    /// # Errors
    /// No captured pod has the address, the helper gave no socket, or the kernel's answer.
    pub(crate) async fn connect(&self, from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let pod = self.pods.load().get(&from).cloned();
        let pod = pod.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("no captured pod has {from}"),
            )
        })?;
        let socket = pod.blank(from).await?;
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn replace(&self, mut change: impl FnMut(&mut HashMap<IpAddr, Arc<PodSockets>>)) {
        self.pods.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            change(&mut pods);
            pods
        });
    }
}

impl PodSockets {
    /// Of the pod with this uid.
    pub(crate) fn new(uid: String, broker: Broker) -> Self {
        Self {
            uid,
            broker,
            blank: Mutex::default(),
        }
    }

    /// The pod's uid.
    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    /// The helper that made them.
    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// A listener at one of the pod's own addresses.
    ///
    /// # Errors
    /// The helper gave no socket, or the kernel's answer.
    pub(crate) async fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.blank(address.ip()).await?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    async fn blank(&self, like: IpAddr) -> io::Result<TcpSocket> {
        let kept = self.kept(like, Vec::pop);
        let fd = match kept {
            Some(fd) => fd,
            None => self.fetch(like).await?,
        };
        Ok(TcpSocket::from_std_stream(std::net::TcpStream::from(fd)))
    }

    async fn fetch(&self, like: IpAddr) -> io::Result<OwnedFd> {
        let family = if like.is_ipv4() { Family::V4 } else { Family::V6 };
        let mut batch = self.broker.sockets(&self.uid, family, BATCH).await?;
        let first = batch.pop();
        self.kept(like, |kept| {
            // Two that found none at once have fetched two batches.
            let room = usize::from(BATCH).saturating_sub(kept.len());
            kept.extend(batch.drain(..).take(room));
        });
        first.ok_or_else(|| io::Error::other("the node helper made no socket"))
    }

    fn kept<R>(&self, like: IpAddr, change: impl FnOnce(&mut Vec<OwnedFd>) -> R) -> R {
        let mut blank = self.blank.lock().unwrap_or_else(PoisonError::into_inner);
        change(if like.is_ipv4() {
            &mut blank.v4
        } else {
            &mut blank.v6
        })
    }
}
