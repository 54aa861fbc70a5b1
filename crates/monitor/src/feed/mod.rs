//! What happens to sandboxes and in them, as it happens: from the directories, and from each shim. Shims are listened to as
//! long as somebody listens here.

mod follow;
mod line;

use std::sync::Arc;

use hyper::body::Bytes;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Duration, timeout};

use crate::discovery::{Change, Sandbox};
pub(crate) use follow::run;
use line::Line;

/// Events that may wait for a slow listener; it is told how many it has missed.
const WAITING: usize = 256;
/// As many may listen at the same time: half of the connections.
const LISTENERS: usize = 32;
/// A listener that has gone away without a word is found out by then.
const BEAT: Duration = Duration::from_secs(15);

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A JSON object a line.
    Lines,
    /// Server-sent events.
    ServerSent,
}

impl Form {
    fn write(self, line: &Line) -> Bytes {
        let json = &line.json;
        match self {
            Self::Lines => format!("{json}\n").into(),
            Self::ServerSent => format!("event: {}\ndata: {json}\n\n", line.event).into(),
        }
    }

    /// Says nothing.
    fn beat(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Lines => b"\n",
            Self::ServerSent => b":\n\n",
        })
    }

    /// Its media type.
    pub(crate) fn media(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::ServerSent => "text/event-stream",
        }
    }
}

/// Events, and who listens.
#[derive(Debug)]
pub(crate) struct Feed {
    events: broadcast::Sender<Arc<Line>>,
    listeners: watch::Sender<usize>,
    ended: mpsc::UnboundedSender<Change>,
}

/// Counts a listener as long as it lives.
struct Listener(Arc<Feed>);

impl Listener {
    fn new(feed: Arc<Feed>) -> Option<Self> {
        let is_free = feed.listeners.send_if_modified(|count| {
            let is_free = *count < LISTENERS;
            *count += usize::from(is_free);
            is_free
        });
        is_free.then_some(Self(feed))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.listeners.send_modify(|count| *count -= 1);
    }
}

impl Feed {
    /// And the ends of sandboxes, which [`run`] takes.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (ended, ends) = mpsc::unbounded_channel();
        (Self { events: broadcast::Sender::new(WAITING), listeners: watch::Sender::new(0), ended }, ends)
    }

    /// A sandbox came or went. Whoever follows the shims tells the end, after all that they have told.
    pub(crate) fn change(&self, change: Change) {
        match change {
            Change::Started(_) => self.tell(|| Line::of(change.event(), change.sandbox())),
            // Nobody takes it while the monitor ends.
            Change::Exited(_) | Change::ShimDied(_) => drop(self.ended.send(change)),
        }
    }

    /// Nothing is made of an event that nobody listens to.
    fn tell(&self, line: impl FnOnce() -> Line) {
        if self.events.receiver_count() > 0 {
            // The last one may be gone by now.
            let _ = self.events.send(Arc::new(line()));
        }
    }

    /// All events from now on, after one for each sandbox that is `there`; `None`: too many listen.
    pub(crate) fn listen<'s>(
        self: Arc<Self>,
        there: impl Iterator<Item = &'s Sandbox>,
        form: Form,
    ) -> Option<mpsc::Receiver<Bytes>> {
        let events = self.events.subscribe();
        let listener = Listener::new(self)?;
        let first: Vec<_> = there.map(|sandbox| form.write(&Line::of("present", sandbox))).collect();
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            // Ends when nobody reads any more.
            let _ = pump(first, events, sender, form).await;
            drop(listener);
        });
        Some(receiver)
    }
}

async fn pump(
    first: Vec<Bytes>,
    mut events: broadcast::Receiver<Arc<Line>>,
    sender: mpsc::Sender<Bytes>,
    form: Form,
) -> Result<(), mpsc::error::SendError<Bytes>> {
    for line in first {
        sender.send(line).await?;
    }
    loop {
        let event = tokio::select! {
            event = timeout(BEAT, events.recv()) => event,
            () = sender.closed() => return Ok(()),
        };
        let text = match event {
            Ok(Ok(line)) => form.write(&line),
            Ok(Err(broadcast::error::RecvError::Lagged(count))) => form.write(&Line::missed(count)),
            Ok(Err(broadcast::error::RecvError::Closed)) => return Ok(()),
            Err(_) => form.beat(),
        };
        sender.send(text).await?;
    }
}
