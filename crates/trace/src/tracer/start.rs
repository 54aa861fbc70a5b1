//! The span of a sandbox's start: whom it is below shows only with the first request, and its first phases are past then.

use crate::Context;

/// A stretch of time, in microseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) began: u64,
    pub(super) ended: u64,
}

/// What is known of a start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) began: u64,
    /// Its place, and what it is below.
    place: Option<(Context, Option<Context>)>,
    /// Phases that wait for that.
    waiting: Vec<Phase>,
    ended: Option<u64>,
}

impl Start {
    pub(super) fn new(began: u64) -> Self {
        Self { began, place: None, waiting: Vec::new(), ended: None }
    }

    /// Its place, and the phases that have waited for it.
    pub(super) fn join(&mut self, asker: Option<Context>) -> (Context, Vec<Phase>) {
        let new = || (asker.map_or_else(Context::root, |asker| asker.child()), asker);
        let (context, _) = *self.place.get_or_insert_with(new);
        (context, std::mem::take(&mut self.waiting))
    }

    /// Its place while it is open.
    pub(super) fn open(&self) -> Option<Context> {
        self.place.filter(|_| self.ended.is_none()).map(|(context, _)| context)
    }

    /// What a phase is below, unless nobody knows yet, or cares.
    pub(super) fn place(&mut self, phase: Phase, current: Option<Context>) -> Option<(Context, Phase)> {
        if self.ended.is_some_and(|ended| phase.began >= ended) {
            return Some((current?, phase));
        }
        match self.place {
            Some((context, _)) => Some((context, phase)),
            None => {
                self.waiting.push(phase);
                None
            }
        }
    }

    /// Ends it: when it began, and what it is below. `None`: it had ended.
    pub(super) fn end(&mut self, now: u64) -> Option<(u64, Option<Context>)> {
        if self.ended.is_some() {
            return None;
        }
        self.ended = Some(now);
        Some((self.began, self.place.and_then(|(_, parent)| parent)))
    }
}
