//! The control sockets: how `adit up` drives the agent, and how the commands ask agent and supervisor.
//!
//! Newline-delimited JSON over Unix stream sockets in the run directory (mode 0700), one request a line, each
//! answered by one line; `flows` is answered by a stream of lines that ends with the connection. `agent.sock` is
//! served by the agent ([`Handler`], [`serve`]) and spoken to with [`AgentClient`]; `supervisor.sock` is served by
//! `adit up` itself ([`SupervisorHandler`], [`serve_supervisor`], [`SupervisorClient`]).
//!
//! | bound | value | when it is reached |
//! | --- | --- | --- |
//! | connections of one socket | [`CONNECTION_LIMIT`] | the newest is told [`codes::BUSY`] and closed |
//! | bytes in a line | [`LINE_LIMIT`] | the sender is told [`codes::TOO_LONG`] and closed |
//! | flow records kept for readers | [`FlowHub::new`]'s argument | the oldest goes; a reader that missed it is told how many |
//!
//! Every line names the protocol's version. Peers are of one build in practice (the supervisor starts the agent from
//! its own executable), so another version is refused and nothing is negotiated.

mod client;
mod codec;
mod flows;
mod message;
mod server;

pub use client::{AgentClient, ClientError, FlowStream, Joined, SupervisorClient};
pub use codec::{LINE_LIMIT, LineBuffer, LineTooLong};
pub use flows::{FlowHub, FlowReader, Missed, Next};
#[cfg(test)]
pub(crate) use message::tests::record;
pub use message::{
    AgentRequest, EndpointPattern, ExplainQuery, Explained, Fault, FilesStatus, FlowLine, FlowQuery,
    InvalidPattern, JoinRequest, JoinTicket, JoinedWorkload, MeshUpdate, PolicyText, PsReport, PsRow,
    RefusedFiles, Reply, SupervisorRequest, SvidStatus, VERSION, WorkloadState, codes,
};
pub use server::{CONNECTION_LIMIT, Handler, SupervisorHandler, bind, serve, serve_supervisor};
