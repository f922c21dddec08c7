//! One piece of work in a process of its own, which may go to other network namespaces and never comes back.
//!
//! So the helper itself stays where it is, a step that hangs can be killed, and a failure in the middle leaves behind
//! only what the kernel was told.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use adit_link::SeqPacket;
use rustix::process::{Pid, Signal};

use super::STEP_TIMEOUT;
use super::failure::Failure;
use crate::codes::Code;
use crate::protocol::codec::{Reader, Writer};
use crate::protocol::{InvalidMessage, MAX_MESSAGE, MAX_TEXT, cut};
use crate::sys;

const DONE: u8 = 1;
const FAILED: u8 = 2;

/// Bytes of a result, at most: a message less what is around it.
const MAX_RESULT: usize = MAX_MESSAGE - 16;

/// What a process brings back.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Runs `body` in a child process and waits for what it brings back, [`STEP_TIMEOUT`] at most.
///
/// The child ends with its parent: a helper that is started again finds nobody at work.
pub(super) fn run(body: impl FnOnce() -> Result<Output, Failure>) -> Result<Output, Failure> {
    let failed = |step: &str, error: io::Error| {
        Failure::new(Code::POD_FAILED, format!("{step} for one step: {error}"))
    };
    let (ours, theirs) = SeqPacket::pair().map_err(|error| failed("opening a socket", error))?;
    let parent = rustix::process::getpid();
    let child = sys::fork_child(|| report(parent, &theirs, body))
        .map_err(|error| failed("starting a process", error))?;
    drop(theirs);
    let received = receive(&ours);
    // It has said what it had to, or too late.
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let _ = sys::wait_for(child);
    received.map_err(|error| failed("waiting for a process", error))?
}

fn receive(ours: &SeqPacket) -> io::Result<Result<Output, Failure>> {
    let [readable] = sys::wait_readable([ours.as_fd()], Some(Instant::now() + STEP_TIMEOUT))?;
    if !readable {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut buffer = vec![0; MAX_MESSAGE];
    let received = ours.recv(&mut buffer).map_err(io::Error::other)?;
    if received.len == 0 {
        return Err(io::Error::other("it ended without a word"));
    }
    decode(&buffer[..received.len], received.descriptors).map_err(io::Error::other)
}

/// The child.
fn report(parent: Pid, to: &SeqPacket, body: impl FnOnce() -> Result<Output, Failure>) -> u8 {
    let followed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if followed.is_err() || rustix::process::getppid() != Some(parent) {
        return 1;
    }
    let sent = match body() {
        Ok(output) => {
            let mut writer = Writer::open(DONE);
            writer.content(&output.bytes);
            let descriptors = output.descriptors.iter().map(AsFd::as_fd).collect::<Vec<_>>();
            to.send(&writer.close(), &descriptors)
        }
        Err(failure) => {
            let mut writer = Writer::open(FAILED);
            writer.u16(failure.code.to_wire());
            writer.text(cut(&failure.message, MAX_TEXT));
            to.send(&writer.close(), &[])
        }
    };
    u8::from(sent.is_err())
}

fn decode(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Result<Output, Failure>, InvalidMessage> {
    let (kind, mut reader) = Reader::open(bytes)?;
    let result = match kind {
        DONE => Ok(Output {
            bytes: reader.content("result", MAX_RESULT)?.to_vec(),
            descriptors,
        }),
        FAILED => Err(Failure {
            code: Code::from_wire(reader.u16("code")?),
            message: reader.text("message", MAX_TEXT)?,
        }),
        kind => return Err(InvalidMessage::Kind { kind }),
    };
    reader.close()?;
    Ok(result)
}
