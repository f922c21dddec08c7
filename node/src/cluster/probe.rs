//! What the kubelet asks about the helper, from a process of its own: there is no HTTP in the helper.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::conflist::Conflist;
use super::protocol::plugin::{PluginReply, PluginRequest};
use super::serve::{Error, Options, plugin_socket, state};
use crate::client::{ClientError, Connection};
use crate::codes::Code;

/// How long the helper may take: a step of its own is killed after [`STEP_TIMEOUT`](super::STEP_TIMEOUT), and others may be
/// before us.
const PATIENCE: Duration = Duration::from_secs(25);

/// A question about a node's helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Does it answer? One that doesn't is stuck, and to be started anew.
    Live,
    /// Is the plugin in the list that the runtime reads, and the journal readable? One that is being dismissed is ready.
    Ready,
    /// Is adit off the node: no plugin, and no pod in the journal? Asked of the node, not of the helper.
    Uninstalled,
}

/// Answers `question` about the helper that works with `options`.
///
/// # Errors
/// [`Error::Probe`] says what isn't so; [`Error::State`] when the journal's folder can't be looked into.
pub fn probe(options: &Options, question: Probe) -> Result<(), Error> {
    match question {
        Probe::Live => ask(options, &PluginRequest::Probe).map(drop),
        Probe::Ready => match ask(options, &PluginRequest::Probe)? {
            PluginReply::Refused { code, message } => Err(Error::Probe { code, message }),
            _ => Ok(()),
        },
        Probe::Uninstalled => uninstalled(options),
    }
}

fn ask(options: &Options, request: &PluginRequest) -> Result<PluginReply, Error> {
    say(&options.state, request, PATIENCE).map_err(|error| Error::Probe {
        code: error.code(),
        message: error.to_string(),
    })
}

/// Says one thing to the helper of a state folder, whose answer may take `patience`.
pub(super) fn say(
    folder: &Path,
    request: &PluginRequest,
    patience: Duration,
) -> Result<PluginReply, ClientError> {
    let mut connection = Connection::open(&plugin_socket(folder), Some(patience))?;
    connection.send(&request.encode().map_err(ClientError::Request)?)?;
    let (reply, _) = connection.receive()?;
    PluginReply::decode(reply).map_err(ClientError::Reply)
}

fn uninstalled(options: &Options) -> Result<(), Error> {
    let still = |message| Error::Probe {
        code: Code::STILL_INSTALLED,
        message,
    };
    if let Some(folders) = &options.plugin {
        let conflist = Conflist::new(folders, &options.state, &options.exempt);
        let remains = conflist.remains().map_err(|failure| Error::Probe {
            code: failure.code,
            message: failure.message,
        })?;
        if let Some(path) = remains.first() {
            return Err(still(format!("{} is there or has the plugin", path.display())));
        }
    }
    match fs::read_dir(options.journal()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(state(&options.state, "listing the journal")(error)),
        Ok(files) => match files.count() {
            0 => Ok(()),
            pods => Err(still(format!("{pods} pods are behind the agent"))),
        },
    }
}
