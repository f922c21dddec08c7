//! A load tool for one TCP connection or many: what the tests and the benchmarks send through a mesh.
//!
//! It is bounded in count and in time whatever it does. The client tells the server with the first bytes of each
//! connection what to do (see [`Op`]), so one server serves every kind of load on every port it has.

mod client;
mod digest;
mod measure;
mod op;
mod scan;
mod server;

pub use client::{ActiveSpec, ConnectSpec, EndSpec, RrSpec, Stage, StreamSpec};
pub use client::{
    ClientError, Target, active, connect, end, idle, rr, rr_beside_stream, stall, stream, turns,
    wait_for_stdin, who,
};
pub use digest::{Digest, Pattern};
pub use measure::{Active, Connect, End, Ended, Idle, Latency, Rr, Stream, Turns, raise_descriptor_limit};
pub use op::{HEADER_LEN, InvalidHeader, Op, REPORT_LEN, Report};
pub use scan::{Scan, ScanSpec, scan};
pub use server::{ServeError, ServeSpec, ServedConnection, Server};
