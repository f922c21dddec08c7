//! Connections from agents on other nodes.
//!
//! A connection goes to the worker of the pod that it's for, which its first bytes say: so a stream and the pod's
//! flow that it feeds run on one thread, as everywhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_tunnel::{Hello, read_hello};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::arrivals::Peeked;
use super::handler::Agent;
use crate::worker::Command;

/// Connections whose first bytes are awaited at once. More are handed over unseen.
const AWAITED_LIMIT: usize = 1_024;

/// How long the first bytes are awaited. A slower connection is handed over unseen; the handshake has its own bound.
const AWAITED_FOR: Duration = Duration::from_secs(2);

/// The longest first flight looked at. Ours, with a post-quantum key share, has some 1,500 bytes.
const HELLO_LIMIT: usize = 8 * 1024;

/// Accepts connections and hands each to a worker, as long as the agent runs.
pub(super) async fn accept(listener: TcpListener, agent: Arc<Agent>) {
    /// Out of descriptors, mostly: others must end first.
    const PAUSE: Duration = Duration::from_millis(100);
    let wire_port = listener.local_addr().map_or(0, |address| address.port());
    let awaited = Arc::new(Semaphore::new(AWAITED_LIMIT));
    let mut turn = 0_usize;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection from another node");
                sleep(PAUSE).await;
                continue;
            }
        };
        turn = turn.wrapping_add(1);
        let agent = Arc::clone(&agent);
        let arrived = Arrived {
            socket,
            peer,
            wire_port,
            turn,
        };
        match Arc::clone(&awaited).try_acquire_owned() {
            Ok(place) => {
                let counted = agent.arrivals.awaiting();
                tokio::spawn(async move {
                    let peeked = peek(&arrived.socket).await;
                    drop((place, counted));
                    arrived.hand_over(&agent, peeked);
                });
            }
            Err(_) => arrived.hand_over(&agent, Peeked::Unseen),
        }
    }
}

/// Which pod the client asks for, by server name. The bytes stay in the socket.
async fn peek(socket: &TcpStream) -> Peeked {
    /// Between two looks at a ClientHello of which a part has come: a socket with bytes is always ready.
    const PAUSE: Duration = Duration::from_millis(2);
    let deadline = Instant::now() + AWAITED_FOR;
    let mut first_bytes = vec![0; HELLO_LIMIT];
    loop {
        let Ok(Ok(length)) = timeout_at(deadline, socket.peek(&mut first_bytes)).await else {
            return Peeked::Slow;
        };
        match read_hello(&first_bytes[..length]) {
            Hello::Complete(server_name) => return server_name.map_or(Peeked::Nameless, Peeked::Named),
            Hello::Invalid => return Peeked::NotTls,
            Hello::Incomplete if length == HELLO_LIMIT => return Peeked::NotTls,
            Hello::Incomplete if length == 0 || Instant::now() >= deadline => return Peeked::Slow,
            Hello::Incomplete => sleep(PAUSE).await,
        }
    }
}

/// A connection that no worker has yet.
struct Arrived {
    socket: TcpStream,
    peer: SocketAddr,
    wire_port: u16,
    /// Its number among all: spreads those for no pod over the workers.
    turn: usize,
}

impl Arrived {
    /// A connection for a pod that isn't here, or that says nothing, goes to any worker, which refuses it in its own
    /// words. One that finds no mesh, or no room, is closed: its agent tries again.
    fn hand_over(self, agent: &Agent, peeked: Peeked) {
        agent.arrivals.peeked(&peeked);
        let peer = self.peer;
        if let Err(error) = self.give_to_worker(agent, &peeked) {
            agent.arrivals.closed();
            tracing::debug!(%peer, error, "a connection from another node was closed");
        }
    }

    fn give_to_worker(self, agent: &Agent, peeked: &Peeked) -> Result<(), String> {
        let running = agent.running().ok_or("there is no mesh yet")?;
        let shared = &running.shared;
        let place = match peeked {
            Peeked::Named(name) => shared.place_of(name),
            _ => None,
        };
        let _ = self.socket.set_nodelay(true);
        let socket = self.socket.into_std().map_err(|error| error.to_string())?;
        let command = Command::Accepted {
            socket,
            wire_port: self.wire_port,
        };
        shared.workers[place.unwrap_or(self.turn % shared.workers.len())]
            .try_send(command)
            .map_err(|_| "its worker is overloaded".to_owned())
    }
}
