//! How a test fails, and how it waits for what nothing announces.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Ends the test with a message.
#[track_caller]
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn fail(message: impl Display) -> ! {
    panic!("{message}")
}

/// Waits until `condition` holds; fails with `what` if it does not within the limit.
///
/// For states of the host that no event announces, such as a process that ends by itself.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    if !holds_within(limit, &mut condition) {
        fail(format_args!("Not within {limit:?}: {what}"));
    }
}

/// Whether `condition` holds before the limit is over; returns at once when it does, for what must meet a moment.
pub fn as_soon_as(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        pause(Duration::from_micros(200));
    }
    true
}

/// Whether `condition` holds before the limit is over.
pub(crate) fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        pause(Duration::from_millis(10));
    }
    true
}

#[expect(clippy::disallowed_methods, reason = "watches from outside what announces nothing")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
