//! The end of a node's agent, for the next one to go on where it stopped.
//!
//! Pods stay behind the helper's devices, whose queues keep what comes until the next agent reads them. So nothing has to be
//! refused: what can't be served any more is left unanswered, and its sender repeats it.

use std::time::Duration;

use super::broker::{Broker, BrokerError};
use crate::agent::handler::Agent;

/// Serves on until no flow ends in this agent, `drain` at most, and sees to it that new ones wait for the next agent. What
/// still lives then is reset.
pub(super) async fn hand_over(agent: &Agent, broker: &Broker, drain: Duration) {
    tracing::info!(?drain, "told to stop: serving on until no flow ends here");
    if let Some(running) = agent.running() {
        running.wind_down(drain).await;
        // While the listeners are there still: a kernel that finds none refuses.
        if let Err(error) = close_ports(broker).await {
            tracing::warn!(%error, "ports stay open without a listener: until the next agent comes, connections to them are refused");
        }
        // New flows stay unanswered to the very end: whoever was refused now would not ask the next agent.
        running.cut().await;
    }
    agent.tell_last_records().await;
    tracing::info!("stopped");
}

async fn close_ports(broker: &Broker) -> Result<(), BrokerError> {
    for member in broker.members().await? {
        for port in member.open_ports {
            broker.close_port(&member.uid, port).await?;
        }
    }
    Ok(())
}
