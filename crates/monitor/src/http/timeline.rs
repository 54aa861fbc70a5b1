//! How a sandbox's start went, as a bar of its phases.

use std::path::Path;
use std::time::Duration;

use kata_sandbox::timeline::{Side, Span, Timeline, phase};

/// A start, for the page.
pub(super) struct Start {
    /// Until the last phase was over.
    pub(super) total: Duration,
    /// VMM and accelerator.
    pub(super) machine: String,
    /// Phases in the order in which they began: name, where, beginning and length in microseconds.
    pub(super) phases: Vec<Phase>,
}

/// One phase.
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) in_guest: bool,
    pub(super) start_us: u64,
    pub(super) length_us: u64,
}

impl Start {
    /// From the sandbox's state directory; `None`: the start has not come so far.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let timeline = Timeline::read(dir).ok()?;
        let spans = first_start(&timeline.spans);
        let total = spans.iter().map(|span| span.end_us).max()?;
        let machine =
            [timeline.vmm, timeline.accelerator].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let mut phases: Vec<_> = spans.into_iter().map(Phase::of).collect();
        phases.sort_by_key(|phase| (phase.start_us, phase.length_us));
        Some(Self { total: Duration::from_micros(total), machine, phases })
    }
}

impl Phase {
    fn of(span: &Span) -> Self {
        Self {
            name: span.name.clone(),
            in_guest: span.side == Side::Guest,
            start_us: span.start_us,
            length_us: span.end_us.saturating_sub(span.start_us),
        }
    }
}

/// The spans until the first container was started: those that came later are not the sandbox's start.
fn first_start(spans: &[Span]) -> Vec<&Span> {
    let started = spans.iter().find(|span| span.name == phase::STARTED).map(|span| span.end_us);
    spans.iter().filter(|span| started.is_none_or(|end| span.end_us <= end)).collect()
}
