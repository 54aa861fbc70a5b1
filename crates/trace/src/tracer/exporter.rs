//! The task that sends spans to a collector, many at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::guest_clock::{GuestClock, Stretch};
use crate::{Batch, Endpoint, Span, SpanId, encode, post};

/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// Spans in a batch, at most.
const BATCH: usize = 512;

/// Spans of the host that are remembered: one of the guest may be a batch late.
const REMEMBERED: usize = 128;

/// What there is to do.
#[derive(Debug)]
pub(super) enum Item {
    /// A span of this host.
    Host(Span),
    /// A span of the guest, by its clock, and when that showed zero, more or less.
    Guest(Span, u64),
    /// Send all there is, and say so.
    Finish(oneshot::Sender<()>),
}

/// Spans that found no room in the queue.
#[derive(Debug, Default)]
pub(super) struct Lost(AtomicU64);

impl Lost {
    pub(super) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) struct Exporter {
    endpoint: Endpoint,
    host: [(&'static str, String); 3],
    guest: [(&'static str, String); 2],
    lost: Arc<Lost>,
    /// What the collector has not taken, since when it was told.
    refused: usize,
    clock: GuestClock,
    /// The last spans of the host, for those of the guest that are below them.
    asked: VecDeque<(SpanId, Stretch)>,
    /// Spans of the guest that wait for the next batch.
    held: Vec<(Span, u64)>,
}

/// What is sent together.
#[derive(Default)]
struct Gathered {
    host: Vec<Span>,
    guest: Vec<(Span, u64)>,
    /// Who wants to know that it is sent.
    finish: Option<oneshot::Sender<()>>,
}

impl Exporter {
    pub(super) fn new(endpoint: Endpoint, sandbox: &str, lost: Arc<Lost>) -> Self {
        let sandbox = ("kata.sandbox.id", sandbox.to_owned());
        let host = [
            ("service.name", "containerd-shim-kata-v2".to_owned()),
            ("process.pid", std::process::id().to_string()),
            sandbox.clone(),
        ];
        let guest = [("service.name", "kata-agent".to_owned()), sandbox];
        Self {
            endpoint,
            host,
            guest,
            lost,
            refused: 0,
            clock: GuestClock::default(),
            asked: VecDeque::new(),
            held: Vec::new(),
        }
    }

    /// Sends until nobody has spans any more.
    pub(super) async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        while let Some(first) = items.recv().await {
            let Gathered { host, guest, finish } = gather(first, &mut items).await;
            let guest = self.by_own_clock(&host, guest, finish.is_some());
            // What a collector refuses of the guest's must not cost the host's.
            let bodies = [(&self.host[..], &host), (&self.guest[..], &guest)]
                .map(|(resource, spans)| (spans.len(), encode(Batch { resource, spans })));
            for (spans, body) in bodies.into_iter().filter(|(spans, _)| *spans > 0) {
                let sent = post(&self.endpoint, body).await;
                self.note(spans, sent);
            }
            if let Some(finish) = finish {
                self.sum_up();
                // Whoever asked may have lost patience.
                let _ = finish.send(());
            }
        }
    }

    /// The guest's spans by the host's clock. If what one of them is below has not ended yet, all wait for the next batch, once:
    /// it is about to.
    fn by_own_clock(&mut self, host: &[Span], new: Vec<(Span, u64)>, is_last: bool) -> Vec<Span> {
        self.asked.extend(host.iter().map(|span| (span.context.span, (span.start, span.end))));
        let may_wait = self.held.is_empty() && !is_last;
        let mut guest = std::mem::take(&mut self.held);
        guest.extend(new);
        let mut is_early = false;
        for (span, _) in &guest {
            let Some(parent) = span.parent else { continue };
            match self.asked.iter().find(|(id, _)| *id == parent) {
                Some((_, asked)) => self.clock.learn(*asked, (span.start, span.end)),
                None => is_early |= !guest.iter().any(|(other, _)| other.context.span == parent),
            }
        }
        self.asked.drain(..self.asked.len().saturating_sub(REMEMBERED));
        if is_early && may_wait {
            self.held = guest;
            return Vec::new();
        }
        let clock = self.clock;
        let placed = guest.into_iter().map(|(span, guess)| {
            let zero = clock.zero(guess);
            Span { start: span.start.saturating_add(zero), end: span.end.saturating_add(zero), ..span }
        });
        placed.collect()
    }

    /// A failure is told once; how much it cost, when it is over.
    fn note(&mut self, spans: usize, sent: Result<(), crate::ExportError>) {
        match sent {
            Ok(()) => self.sum_up(),
            Err(error) => {
                if self.refused == 0 {
                    tracing::warn!(
                        endpoint = %self.endpoint,
                        error = &error as &dyn std::error::Error,
                        "Spans are lost: no collector takes them; start one there, or set jaeger_endpoint, or \
                         enable_tracing = false"
                    );
                }
                self.refused += spans;
            }
        }
    }

    fn sum_up(&mut self) {
        let no_room = self.lost.0.swap(0, Ordering::Relaxed);
        if self.refused > 0 || no_room > 0 {
            tracing::warn!(endpoint = %self.endpoint, not_taken = self.refused, no_room, "Spans were lost");
        }
        self.refused = 0;
    }
}

async fn gather(first: Item, items: &mut mpsc::Receiver<Item>) -> Gathered {
    let mut gathered = Gathered::default();
    let deadline = Instant::now() + GATHER;
    let mut next = Some(first);
    while let Some(item) = next {
        match item {
            Item::Host(span) => gathered.host.push(span),
            Item::Guest(span, zero) => gathered.guest.push((span, zero)),
            Item::Finish(done) => return Gathered { finish: Some(done), ..gathered },
        }
        if gathered.host.len() + gathered.guest.len() >= BATCH {
            break;
        }
        next = timeout_at(deadline, items.recv()).await.unwrap_or(None);
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::{Exporter, Lost};
    use crate::{Context, Endpoint, Kind, Span};

    #[test]
    fn a_span_of_the_guest_waits_once_for_the_request_that_it_answers() {
        let span = |context: Context, parent: Context, start, end| Span {
            context,
            parent: Some(parent.span),
            name: "request".into(),
            kind: Kind::Internal,
            start,
            end,
            attributes: Vec::new(),
            error: None,
        };
        let (root, asked) = (Context::root(), Context::root());
        let answer = span(asked.child(), asked, 5, 10);
        let mut exporter = Exporter::new(Endpoint::default(), "s", std::sync::Arc::new(Lost::default()));
        assert_eq!(exporter.by_own_clock(&[], vec![(answer.clone(), 2000)], false), []);
        let placed = exporter.by_own_clock(&[span(asked, root, 1000, 1010)], Vec::new(), false);
        assert_eq!((placed[0].start, placed[0].end), (1005, 1010));

        let orphan = span(root.child(), Context::root(), 5, 10);
        assert_eq!(exporter.by_own_clock(&[], vec![(orphan.clone(), 1000)], false), []);
        assert_eq!(exporter.by_own_clock(&[], Vec::new(), false).len(), 1, "no longer than that");
        assert_eq!(exporter.by_own_clock(&[], vec![(orphan, 1000)], true).len(), 1, "there is no next batch");
    }
}
