use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// Asks the peer by PING (RFC 9113 §6.7) every `interval` whether it's there. Ends when it isn't: no answer
/// within `patience`. Pending for ever where the connection itself ends first; its owner knows that better.
pub(crate) async fn watch(ping_pong: Option<PingPong>, interval: Duration, patience: Duration) {
    let Some(mut ping_pong) = ping_pong else {
        return std::future::pending().await;
    };
    loop {
        sleep(interval).await;
        match timeout(patience, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
