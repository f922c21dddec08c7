//! Connections from agents on other nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::handler::Agent;
use crate::worker::Command;

/// Accepts connections and spreads them over the workers, as long as the agent runs.
pub(super) async fn accept(listener: TcpListener, agent: Arc<Agent>) {
    /// Out of descriptors, mostly: others must end first.
    const PAUSE: Duration = Duration::from_millis(100);
    let wire_port = listener.local_addr().map_or(0, |address| address.port());
    let mut turn = 0_usize;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection from another node");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        turn = turn.wrapping_add(1);
        hand_over(&agent, socket, peer, wire_port, turn);
    }
}

/// A connection that finds no mesh, or no room, is closed: its agent tries again.
fn hand_over(agent: &Agent, socket: tokio::net::TcpStream, peer: SocketAddr, wire_port: u16, turn: usize) {
    let Some(running) = agent.running() else { return };
    let workers = &running.shared.workers;
    let _ = socket.set_nodelay(true);
    let handed = socket
        .into_std()
        .map_err(|error| error.to_string())
        .and_then(|socket| {
            let command = Command::Accepted { socket, wire_port };
            workers[turn % workers.len()]
                .try_send(command)
                .map_err(|_| "its worker is overloaded".to_owned())
        });
    if let Err(error) = handed {
        tracing::debug!(%peer, %error, "a connection from another node was closed");
    }
}
