//! Plain progress lines with the seconds since the start, on standard error.

use std::fmt::Display;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const HEARTBEAT: Duration = Duration::from_secs(30);

/// Prints what is going on; one per command.
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// One line: seconds, what it is about, what happens to it.
    pub(crate) fn line(&self, area: &str, text: impl Display) {
        eprintln!("[{:6.1} s] {area}: {text}", self.start.elapsed().as_secs_f64());
    }

    /// Does `work`; says every half minute that it still goes on, and at the end how long it took.
    pub(crate) fn watch<T>(&self, area: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let (finished, ticks) = mpsc::channel::<()>();
        let result = std::thread::scope(|scope| {
            scope.spawn(move || {
                while ticks.recv_timeout(HEARTBEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                    self.line(area, format_args!("still going, {} s so far", begun.elapsed().as_secs()));
                }
            });
            let result = work();
            drop(finished);
            result
        });
        if begun.elapsed() > Duration::from_secs(2) {
            self.line(area, format_args!("took {} s", begun.elapsed().as_secs()));
        }
        result
    }
}
