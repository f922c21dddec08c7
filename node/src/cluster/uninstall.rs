//! Takes adit off a node: the plugin out of the runtime's lists and folder, and every pod out of the mesh.
//!
//! A helper that runs is told first, so that it neither lets a pod in nor puts the plugin back; then the plugin is taken out;
//! then pods leave, with time for the agent to end their connections. Without a helper pods are given their interfaces
//! back here, by the journal.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::umask;

use super::STEP_TIMEOUT;
use super::conflist::Conflist;
use super::members::Members;
use super::probe::say;
use super::protocol::plugin::{PluginReply, PluginRequest};
use super::serve::{Error, Options, lock, make_folders, state, system, watch_signals};
use crate::client::ClientError;
use crate::sys;

/// How often the helper is asked how far it is.
const PAUSE: Duration = Duration::from_millis(200);

/// How much longer than the time that connections have it may take before it's given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a node that adit is off is looked at again.
const STAY: Duration = Duration::from_secs(2);

/// Takes adit off the node. Connections that end in the agent have `grace` to finish; those that pass it go on either way.
///
/// The calling process must be root of the node and have one thread.
///
/// # Errors
/// [`Error`]; what could be undone is. A pod that could not leave is told to `log` and stays in the journal.
pub fn uninstall(options: &Options, grace: Duration) -> Result<(), Error> {
    if !sys::single_threaded().map_err(system("counting threads in /proc/self/task"))? {
        return Err(Error::Threads);
    }
    umask(rustix::fs::Mode::from_raw_mode(0o077));
    make_folders(options)?;
    let deadline = Instant::now() + grace + PATIENCE;
    loop {
        let told = say(
            &options.state,
            &PluginRequest::Dismiss { grace },
            STEP_TIMEOUT * 3,
        );
        remove_plugin(options)?;
        let reason = match told {
            Ok(PluginReply::Leaving { pods }) => format!("{pods} pods are behind the agent"),
            Ok(PluginReply::Refused { code, message }) => format!("[{code}] {message}"),
            Ok(_) => return Ok(()),
            // Nobody listens. The lock is held by a helper that is just starting or ending: that one is told in a moment.
            Err(ClientError::Connect { source, .. }) => match lock(&options.state, Instant::now()) {
                Ok(_lock) => return release(options),
                Err(Error::Busy { .. }) => format!("the node helper doesn't listen: {source}"),
                Err(other) => return Err(other),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(Error::Remaining { reason });
        }
        sleep(PAUSE);
    }
}

/// [`uninstall`], and then stays until SIGTERM: a helper that is started meanwhile is dismissed as well, so that the node
/// stays as it is until the helper's DaemonSet is deleted. Failures are told to `log` and tried again.
///
/// # Errors
/// [`Error::System`] when signals can't be waited for.
pub fn stay_uninstalled(options: &Options, grace: Duration) -> Result<(), Error> {
    let signals = watch_signals().map_err(system("watching for signals"))?;
    let mut told = None;
    loop {
        let outcome = uninstall(options, grace).map_err(|error| format!("[{}] {error}", error.code()));
        if told.as_ref() != Some(&outcome) {
            match &outcome {
                Ok(()) => (options.log)(&"adit is off this node"),
                Err(error) => (options.log)(error),
            }
            told = Some(outcome);
        }
        let [ended] = sys::wait_readable([std::os::fd::AsFd::as_fd(&signals)], Some(Instant::now() + STAY))
            .map_err(system("waiting for signals"))?;
        if ended {
            return Ok(());
        }
    }
}

fn remove_plugin(options: &Options) -> Result<(), Error> {
    let Some(folders) = &options.plugin else {
        return Ok(());
    };
    let conflist = Conflist::new(folders, &options.state, &options.exempt);
    conflist.uninstall().map_err(|failure| Error::Conflist {
        message: failure.message,
    })
}

/// Gives every pod of the journal its interface back. The caller has the lock.
fn release(options: &Options) -> Result<(), Error> {
    let (mut members, unreadable) = Members::load(options.ground(), options.journal())
        .map_err(state(&options.state, "reading the journal"))?;
    let mut failures = unreadable;
    for uid in members.uids() {
        match members.dismiss(&uid) {
            Ok(gone) => (options.log)(&format_args!("pod {uid} {gone}")),
            Err(failure) => failures.push(failure),
        }
    }
    for failure in &failures {
        (options.log)(&format_args!("[{}] {failure}", failure.code));
    }
    match failures.first() {
        None => Ok(()),
        Some(failure) => Err(Error::Remaining {
            reason: format!("{} pods could not leave; the first: {failure}", failures.len()),
        }),
    }
}
