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
        match Arc::clone(&awaited).try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(async move {
                    let server_name = peek_server_name(&socket).await;
                    drop(place);
                    hand_over(&agent, socket, peer, wire_port, server_name.as_deref(), turn);
                });
            }
            Err(_) => hand_over(&agent, socket, peer, wire_port, None, turn),
        }
    }
}

/// The server name that the client asks for; `None` where there is none to be had. The bytes stay in the socket.
async fn peek_server_name(socket: &TcpStream) -> Option<String> {
    /// Between two looks at a ClientHello of which a part has come: a socket with bytes is always ready.
    const PAUSE: Duration = Duration::from_millis(2);
    let deadline = Instant::now() + AWAITED_FOR;
    let mut first_bytes = vec![0; HELLO_LIMIT];
    loop {
        let length = timeout_at(deadline, socket.peek(&mut first_bytes))
            .await
            .ok()?
            .ok()?;
        match read_hello(&first_bytes[..length]) {
            Hello::Complete(server_name) => return server_name,
            Hello::Incomplete if length > 0 && length < HELLO_LIMIT && Instant::now() < deadline => {
                sleep(PAUSE).await;
            }
            Hello::Incomplete | Hello::Invalid => return None,
        }
    }
}

/// A connection for a pod that isn't here, or that says nothing, goes to any worker, which refuses it in its own
/// words. One that finds no mesh, or no room, is closed: its agent tries again.
fn hand_over(
    agent: &Agent,
    socket: TcpStream,
    peer: SocketAddr,
    wire_port: u16,
    server_name: Option<&str>,
    turn: usize,
) {
    let Some(running) = agent.running() else { return };
    let shared = &running.shared;
    let place = server_name
        .and_then(|name| shared.place_of(name))
        .unwrap_or(turn % shared.workers.len());
    let _ = socket.set_nodelay(true);
    let handed = socket
        .into_std()
        .map_err(|error| error.to_string())
        .and_then(|socket| {
            let command = Command::Accepted { socket, wire_port };
            shared.workers[place]
                .try_send(command)
                .map_err(|_| "its worker is overloaded".to_owned())
        });
    if let Err(error) = handed {
        tracing::debug!(%peer, %error, "a connection from another node was closed");
    }
}
