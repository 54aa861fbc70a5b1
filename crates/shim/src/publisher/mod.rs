//! Sends events to containerd, in order, and keeps them while containerd is away.

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use protobuf::{Message, MessageField};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use ttrpc::Code;
use ttrpc::r#async::transport::Socket;

use crate::address;
use crate::events::{Event, timestamp};

/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between attempts, doubling from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// An event that containerd itself refuses this often will not be taken later either.
const REFUSALS: u32 = 5;

/// How events reach containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// Its ttRPC socket (`TTRPC_ADDRESS`).
    Ttrpc {
        /// The socket.
        socket: PathBuf,
    },
    /// Its own binary with the subcommand `publish`.
    Binary {
        /// The binary.
        program: PathBuf,
        /// containerd's gRPC socket.
        address: String,
    },
    /// Nobody wants them (a manager that is not containerd).
    Nowhere,
}

impl Route {
    /// Chooses: the ttRPC socket if it is known, else the binary, else nothing. Without an address the binary is not containerd's:
    /// CRI-O gives its own, which has no such subcommand.
    #[must_use]
    pub(crate) fn choose(ttrpc_address: Option<&str>, program: &str, address: &str) -> Self {
        match ttrpc_address.filter(|address| !address.is_empty()) {
            Some(ttrpc) => Self::Ttrpc { socket: address::path_of(ttrpc) },
            None if program.is_empty() || address.is_empty() => Self::Nowhere,
            None => Self::Binary { program: program.into(), address: address.to_owned() },
        }
    }
}

/// The sending side of the queue; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    pub(crate) queue: mpsc::UnboundedSender<Item>,
}

/// What stands in the queue.
#[derive(Debug)]
pub(crate) enum Item {
    /// An event and when it happened.
    Event(SystemTime, Event),
    /// To be answered when everything before it is sent.
    Flushed(oneshot::Sender<()>),
}

impl Publisher {
    /// Starts the task that sends. It ends when the last clone is dropped and the queue is empty.
    #[must_use]
    pub(crate) fn start(route: Route, namespace: &str) -> Self {
        let (queue, items) = mpsc::unbounded_channel();
        let courier = Courier { route, namespace: namespace.to_owned(), client: None };
        tokio::spawn(courier.run(items));
        Self { queue }
    }

    /// Appends an event. It is sent after all that were appended before it.
    pub(crate) fn publish(&self, event: Event) {
        // The task ends only with the runtime.
        let _ = self.queue.send(Item::Event(SystemTime::now(), event));
    }

    /// Waits until everything appended so far is sent, or the time is up.
    pub(crate) async fn flush(&self, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        let _ = self.queue.send(Item::Flushed(done));
        if timeout(limit, flushed).await.is_err() {
            tracing::warn!("containerd did not take all events before the end");
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// containerd cannot be reached: worth another attempt, always.
    #[error("Cannot reach containerd")]
    Unreachable(#[source] io::Error),
    /// The connection broke or nobody answered in time.
    #[error("containerd did not answer")]
    Broken(#[source] ttrpc::Error),
    /// containerd answered that it does not want the event.
    #[error("containerd refused the event")]
    Refused(#[source] ttrpc::Error),
    /// `containerd publish` failed, which does not say why.
    #[error("containerd publish failed with {0}")]
    Binary(std::process::ExitStatus),
}

struct Courier {
    route: Route,
    namespace: String,
    client: Option<EventsClient>,
}

impl Courier {
    async fn run(mut self, mut items: mpsc::UnboundedReceiver<Item>) {
        while let Some(item) = items.recv().await {
            match item {
                Item::Flushed(done) => drop(done.send(())),
                Item::Event(time, event) => self.deliver(time, event).await,
            }
        }
    }

    /// Tries until it works; the events behind this one wait, so the order stays.
    async fn deliver(&mut self, time: SystemTime, event: Event) {
        let topic = event.topic;
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(time)),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(event.message),
            ..Envelope::default()
        };
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        let mut refusals = 0;
        let mut pause = PAUSES.0;
        let mut reconnecting = self.client.is_some();
        while let Err(failure) = self.attempt(&request).await {
            let refused = matches!(failure, Failure::Refused(_));
            refusals += u32::from(refused);
            if refusals >= REFUSALS {
                tracing::error!(topic, error = &failure as &dyn std::error::Error, "event given up");
                return;
            }
            if reconnecting && !refused {
                // The old connection was stale; a new one usually works at once.
                reconnecting = false;
                continue;
            }
            if pause == PAUSES.0 {
                tracing::warn!(
                    topic,
                    error = &failure as &dyn std::error::Error,
                    "event waits for containerd"
                );
            }
            rest(pause).await;
            pause = PAUSES.1.min(pause * 2);
        }
        tracing::debug!(topic, "event sent");
    }

    async fn attempt(&mut self, request: &ForwardRequest) -> Result<(), Failure> {
        match &self.route {
            Route::Nowhere => Ok(()),
            Route::Binary { program, address } => publish_with(program, address, request).await,
            Route::Ttrpc { socket } => {
                let client = match &self.client {
                    Some(client) => client.clone(),
                    None => {
                        let stream = timeout(ATTEMPT, UnixStream::connect(socket)).await;
                        let stream =
                            stream.map_err(io::Error::from).flatten().map_err(Failure::Unreachable)?;
                        self.client.insert(EventsClient::new(Client::new(Socket::from(stream)))).clone()
                    }
                };
                let context = ttrpc::context::with_duration(ATTEMPT);
                let failure = match client.forward(context, request).await {
                    Ok(_) => return Ok(()),
                    Err(error) => classify(error),
                };
                if !matches!(failure, Failure::Refused(_)) {
                    self.client = None;
                }
                Err(failure)
            }
        }
    }
}

/// An answer counts as a refusal, unless it says that containerd is on its way up or down.
fn classify(error: ttrpc::Error) -> Failure {
    match &error {
        ttrpc::Error::RpcStatus(status)
            if !matches!(
                status.code.enum_value(),
                Ok(Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED | Code::CANCELLED)
            ) =>
        {
            Failure::Refused(error)
        }
        _ => Failure::Broken(error),
    }
}

/// `containerd --address A publish --topic T --namespace N`, with the event on its standard input.
async fn publish_with(program: &PathBuf, address: &str, request: &ForwardRequest) -> Result<(), Failure> {
    let envelope = &request.envelope;
    let mut command = Command::new(program);
    command.args(["--address", address, "publish", "--topic", &envelope.topic]);
    command.args(["--namespace", &envelope.namespace]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(Failure::Unreachable)?;
    let bytes = envelope.event.write_to_bytes().expect("a message in memory always serialises");
    let run = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&bytes).await?;
        }
        child.wait().await
    };
    let status =
        timeout(ATTEMPT, run).await.map_err(io::Error::from).flatten().map_err(Failure::Unreachable)?;
    if status.success() { Ok(()) } else { Err(Failure::Binary(status)) }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a pause before another attempt: there is no event to wait for"
)]
async fn rest(pause: Duration) {
    tokio::time::sleep(pause).await;
}
