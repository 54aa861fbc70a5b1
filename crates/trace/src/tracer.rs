//! What takes spans of a sandbox, and its task that sends them on. Nobody ever waits for it, but at the end.

mod exporter;
mod guest_clock;
mod start;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::{Context, Endpoint, Kind, Span};
use exporter::{Exporter, Item};
use start::Start;

/// Spans that may wait to be sent; more are dropped, and counted.
const QUEUE: usize = 2048;

/// A sandbox's spans. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Item>,
    lost: Arc<exporter::Lost>,
    /// Nanoseconds from 1970 until this host's boot, as the clocks were when the sandbox began: its spans are in order
    /// whatever becomes of the time of day.
    booted: u64,
    sandbox: String,
    start: Mutex<Start>,
}

impl Tracer {
    /// Begins to take spans of `sandbox` for a collector.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(endpoint: Endpoint, sandbox: &str) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        let lost = Arc::default();
        tokio::spawn(Exporter::new(endpoint, sandbox, Arc::clone(&lost)).run(items));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let booted = nanos(now).saturating_sub(now_us().saturating_mul(1000));
        let start = Mutex::new(Start::new(now_us()));
        Self(Arc::new(Shared { queue, lost, booted, sandbox: sandbox.to_owned(), start }))
    }

    /// A span that begins now, below `parent` or as a trace of its own.
    #[must_use]
    pub fn open(&self, name: impl Into<Cow<'static, str>>, parent: Option<Context>) -> Open {
        let context = parent.map_or_else(Context::root, |parent| parent.child());
        self.open_as(context, name, parent)
    }

    fn open_as(&self, context: Context, name: impl Into<Cow<'static, str>>, parent: Option<Context>) -> Open {
        let span = Span {
            context,
            parent: parent.map(|parent| parent.span),
            name: name.into(),
            kind: Kind::Internal,
            start: now_us(),
            end: 0,
            attributes: Vec::new(),
            error: Some("Given up before it was over".to_owned()),
        };
        Open { span: Some(span), tracer: self.clone() }
    }

    /// The sandbox's start, which is one span for all that belongs to it, began when its process did, in microseconds of
    /// `CLOCK_BOOTTIME`.
    pub fn began(&self, at: u64) {
        self.start().began = at;
    }

    /// The span of the sandbox's start. It is below the first `asker` who has a context.
    pub fn join(&self, asker: Option<Context>) -> Context {
        let (context, waiting) = self.start().join(asker);
        for phase in waiting {
            self.phase_below(context, phase);
        }
        context
    }

    /// The span of the sandbox's start while it is open.
    #[must_use]
    pub fn starting(&self) -> Option<Context> {
        self.start().open()
    }

    /// A phase of the sandbox's start that is past, in microseconds of `CLOCK_BOOTTIME`. One that began after the start
    /// was over belongs to the span that this task works for.
    pub fn phase(&self, name: &str, began: u64, ended: u64) {
        let phase = start::Phase { name: name.to_owned(), began, ended };
        let parent = self.start().place(phase, crate::current());
        if let Some((parent, phase)) = parent {
            self.phase_below(parent, phase);
        }
    }

    /// A stretch of time below a span of the host's, in microseconds of `CLOCK_BOOTTIME`.
    pub fn phase_of(&self, parent: Context, name: &str, began: u64, ended: u64) {
        self.phase_below(parent, start::Phase { name: name.to_owned(), began, ended });
    }

    fn phase_below(&self, parent: Context, phase: start::Phase) {
        let mut open = self.open(phase.name, Some(parent));
        if let Some(span) = open.span.as_mut() {
            span.start = phase.began;
        }
        open.end_at(phase.ended, None);
    }

    /// The sandbox's start is over, for this reason if it failed. Only the first call counts.
    pub fn started(&self, error: Option<String>) {
        let context = self.join(None);
        let Some((began, parent)) = self.start().end(now_us()) else { return };
        let mut open = self.open_as(context, "kata.sandbox.start", parent);
        if let Some(span) = open.span.as_mut() {
            span.start = began;
        }
        open.attribute("sandbox", self.0.sandbox.clone());
        open.end(error);
    }

    /// Spans of the guest by its own clock, which showed zero at about `zero`, in microseconds of `CLOCK_BOOTTIME`: how the two
    /// clocks differ is learnt from those that answer spans of the host. They get no more than half of the room: the
    /// host's must not be lost because a guest tells too much.
    pub fn guest(&self, spans: Vec<Span>, zero: u64) {
        let zero = self.unix(zero);
        for span in spans {
            match self.0.queue.capacity() > QUEUE / 2 {
                true => self.send(Item::Guest(span, zero)),
                false => self.0.lost.one_more(),
            }
        }
    }

    /// Ends the start, should it be open, and sends all there is, as far as it gets within `limit`.
    pub async fn finish(&self, limit: Duration) {
        self.started(Some("The sandbox ended before its start was over".to_owned()));
        let (sent, done) = oneshot::channel();
        let finish = async {
            // Whoever takes spans ends with the last of those who give them.
            self.0.queue.send(Item::Finish(sent)).await.ok()?;
            done.await.ok()
        };
        if timeout(limit, finish).await.is_err() {
            tracing::warn!(
                milliseconds = limit.as_millis(),
                "The collector is too slow: the last spans are lost"
            );
        }
    }

    fn send(&self, item: Item) {
        if self.0.queue.try_send(item).is_err() {
            self.0.lost.one_more();
        }
    }

    /// Nanoseconds since 1970.
    fn unix(&self, boot_us: u64) -> u64 {
        self.0.booted.saturating_add(boot_us.saturating_mul(1000))
    }

    fn start(&self) -> MutexGuard<'_, Start> {
        self.0.start.lock().expect("nothing panics while it is held")
    }
}

/// A span that has begun. It ends when it is dropped: as a failure, unless [`end`](Self::end) says how.
#[derive(Debug)]
pub struct Open {
    /// Its times are those of the host's boot clock still. None once it has ended.
    span: Option<Span>,
    tracer: Tracer,
}

impl Open {
    /// Its place.
    #[must_use]
    pub fn context(&self) -> Option<Context> {
        self.span.as_ref().map(|span| span.context)
    }

    /// It answers a request.
    #[must_use]
    pub fn serving(mut self) -> Self {
        if let Some(span) = self.span.as_mut() {
            span.kind = Kind::Server;
        }
        self
    }

    /// What it is about; nothing if that is empty.
    pub fn attribute(&mut self, key: &'static str, value: String) {
        if let Some(span) = self.span.as_mut()
            && !value.is_empty()
        {
            span.attributes.push((key.into(), value));
        }
    }

    /// It is over, for this reason if it failed.
    pub fn end(self, error: Option<String>) {
        self.end_at(now_us(), error);
    }

    fn end_at(mut self, end: u64, error: Option<String>) {
        if let Some(span) = self.span.take() {
            self.send(Span { end, error, ..span });
        }
    }

    fn send(&self, span: Span) {
        if span.context.sampled {
            let (start, end) = (self.tracer.unix(span.start), self.tracer.unix(span.end));
            self.tracer.send(Item::Host(Span { start, end, ..span }));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            self.send(Span { end: now_us(), ..span });
        }
    }
}

/// Microseconds of `CLOCK_BOOTTIME`.
fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
