//! What happens in the sandbox, to whoever listens: a JSON object a line, as long as the connection lasts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::call::{Answer, Call};
use crate::backend::{Failure, Kind};

/// Listeners at a time: each holds one of the socket's connections.
const LISTENERS: usize = 2;
/// Events that may wait for a listener. One that is slower loses its stream, by which it knows that it has missed some.
const WAITING: usize = 64;

/// Something that happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Happening<'a> {
    /// A container's first process runs.
    ContainerStarted { container: &'a str, pid: u32 },
    /// A process has ended; `exec` is empty for a container's first one.
    ContainerExited { container: &'a str, exec: &'a str, exit_status: u32 },
    /// The guest's kernel has killed a process for want of memory.
    Oom { container: &'a str },
    /// The VM is gone, or never came up.
    VmDied { reason: &'a str },
}

/// Who listens. It costs nothing while nobody does.
#[derive(Debug, Default)]
pub(crate) struct Feed(Mutex<Vec<mpsc::Sender<Bytes>>>);

impl Feed {
    /// Tells everybody.
    pub(crate) fn tell(&self, happening: &Happening<'_>) {
        let mut listeners = self.lock();
        if listeners.is_empty() {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(happening) else { return };
        line.push(b'\n');
        let line = Bytes::from(line);
        listeners.retain(|listener| listener.try_send(line.clone()).is_ok());
    }

    /// All that happens from now on; `None`: there are enough who listen.
    pub(crate) fn listen(&self) -> Option<mpsc::Receiver<Bytes>> {
        let mut listeners = self.lock();
        listeners.retain(|listener| !listener.is_closed());
        if listeners.len() >= LISTENERS {
            return None;
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        listeners.push(sender);
        Some(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /events`
pub(super) async fn stream(call: Call) -> Result<Answer, Failure> {
    let events = call.sandbox.events();
    let events = events.ok_or_else(|| {
        let text = format!(
            "{LISTENERS} listen already, which is all that may; kata-monitor passes events on to many"
        );
        Failure::new(Kind::Unavailable, text)
    })?;
    Ok(Answer::stream(events))
}
