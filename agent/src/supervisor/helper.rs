//! The node helper: its process, and its client for those who can't block.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use adit_node::protocol::{PodInfo, PodSpec};
use adit_node::{Client, ClientError, LinkChoice};
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;

use super::UpError;
use super::notice::Notices;
use super::process::{self, Kept};
use crate::rundir::RunPaths;

/// A connection to the helper, on a thread of its own because its client blocks. Cheap to clone; requests of all
/// clones are served in the order in which they are made, so that a name can be given up and taken again at once.
#[derive(Clone, Debug)]
pub(super) struct Helper(Sender<Request>);

type Request = Box<dyn FnOnce(&mut Client) + Send>;

/// Starts the helper and connects to it.
///
/// # Errors
/// [`UpError::HelperNotStarted`] with what the helper said.
pub(super) async fn start(
    paths: &RunPaths,
    link: LinkChoice,
    tun_device: &Path,
    notices: &Notices,
) -> Result<(Kept, Helper), UpError> {
    let failed = |detail: String| UpError::HelperNotStarted { detail };
    let mut kept =
        Kept::start(process::node(paths, link, tun_device)).map_err(|error| failed(error.to_string()))?;
    let (Some(mut stdout), Some(mut stderr)) = kept.streams() else {
        unreachable!("the command pipes both");
    };
    let mut said = Vec::new();
    let ready = tokio::time::timeout(START_LIMIT, stdout.read_to_end(&mut said)).await;
    if said != adit_node::laptop::READY {
        let mut why = Vec::new();
        let _ = tokio::time::timeout(
            LAST_WORDS,
            (&mut stderr).take(LAST_WORDS_LIMIT).read_to_end(&mut why),
        )
        .await;
        let _ = kept.end(END_LIMIT).await;
        let why = String::from_utf8_lossy(&why).trim().to_owned();
        return Err(failed(match (why.is_empty(), ready) {
            (false, _) => why,
            (true, Err(_)) => format!("it was not ready within {} seconds", START_LIMIT.as_secs()),
            (true, Ok(_)) => "it ended without a word".to_owned(),
        }));
    }
    notices.follow("node", stderr);
    let mut client = Client::connect(&paths.node_socket()).map_err(|error| failed(error.to_string()))?;
    let (requests, queue) = mpsc::channel::<Request>();
    let serve = move || queue.iter().for_each(|request| request(&mut client));
    let thread = std::thread::Builder::new()
        .name("node-client".to_owned())
        .spawn(serve);
    thread.map_err(|error| failed(error.to_string()))?;
    Ok((kept, Helper(requests)))
}

impl Helper {
    /// Makes a pod.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) async fn create_pod(&self, spec: PodSpec) -> Result<PodInfo, ClientError> {
        self.call(move |client| client.create_pod(&spec)).await
    }

    /// Makes the helper forget a pod, some time soon. One that is gone already, or a helper that is, is as good as
    /// forgotten.
    pub(super) fn forget_pod(&self, pod: String) {
        self.request(move |client| drop(client.delete_pod(&pod)));
    }

    async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(move |client| drop(answer.send(request(client))));
        answered
            .await
            .expect("the thread serves every request and lives as long as we do")
    }

    fn request(&self, request: impl FnOnce(&mut Client) + Send + 'static) {
        self.0
            .send(Box::new(request))
            .expect("the thread lives as long as we do");
    }
}

/// How long the helper may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long a helper that failed is listened to, and how much of what it says is kept.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LAST_WORDS_LIMIT: u64 = 16 << 10;
/// How long the helper may take to end after its lifeline did: it removes the pods.
pub(super) const END_LIMIT: Duration = Duration::from_secs(10);
