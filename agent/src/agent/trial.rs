//! What an agent does before it reads a packet, for `adit check`: it waits for events, gives up what it doesn't need, starts a
//! thread, and takes a connection.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;

use adit_node::codes::Code;
use adit_node::probe::Refusal;

use super::AgentError;
use crate::confine::{self, ConfineError};

/// Does all that, in a process that must have one thread, is confined afterwards and has no other use.
///
/// # Errors
/// The step that was refused, by the finding of `adit check` that it belongs to.
pub(crate) fn trial() -> Result<(), Refusal> {
    let system = |source| refusal(Code::CHECK_PROCESSES, &AgentError::Runtime { source });
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system)?;
    confine::confine().map_err(|error| refusal(finding_of(&error), &error))?;
    let thread = thread::Builder::new().spawn(take_a_connection).map_err(system)?;
    let taken = thread.join().map_err(|_| system(io::ErrorKind::Other.into()))?;
    drop(executor);
    taken.map_err(system)
}

fn finding_of(error: &ConfineError) -> Code {
    match error {
        ConfineError::Capabilities { .. } | ConfineError::Privileged { .. } => Code::CHECK_PRIVILEGES,
        ConfineError::NoNewPrivs { .. } => Code::CHECK_NO_NEW_PRIVILEGES,
        ConfineError::Seccomp { .. } => Code::CHECK_SECCOMP,
    }
}

/// The error says its own code.
fn refusal(code: Code, error: &impl std::error::Error) -> Refusal {
    Refusal {
        code,
        message: error.to_string(),
    }
}

/// By a name that needs no folder, and goes with the listener.
fn take_a_connection() -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(format!("adit-check-{}", std::process::id()))?;
    let listener = UnixListener::bind_addr(&address)?;
    let _near = UnixStream::connect_addr(&address)?;
    listener.accept().map(drop)
}
