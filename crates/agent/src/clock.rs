//! The guest's clocks.

use kata_protocol::kata;
use nix::time::{ClockId, clock_gettime};
use rustix::time::{Timespec, clock_settime};

/// Microseconds since the guest's kernel started.
pub(crate) fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}

/// Sets the time of day.
pub(crate) fn set(seconds: i64, nanoseconds: i64) -> std::io::Result<()> {
    Ok(clock_settime(rustix::time::ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds })?)
}

/// Named stretches of time, for the host's timeline.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    last: u64,
    phases: Vec<kata::Phase>,
}

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self { last: since_boot(), phases: Vec::new() }
    }

    /// Calls the time since the last call by `name`.
    pub(crate) fn lap(&mut self, name: &str) {
        self.lap_until(name, since_boot());
    }

    /// The same up to a time that is past.
    pub(crate) fn lap_until(&mut self, name: &str, now: u64) {
        self.phases.push(kata::Phase {
            name: name.to_owned(),
            start_us: self.last,
            end_us: now,
            ..Default::default()
        });
        self.last = now;
    }

    /// All laps.
    pub(crate) fn phases(self) -> Vec<kata::Phase> {
        self.phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_follow_each_other() {
        let mut watch = Stopwatch::start();
        watch.lap("one");
        watch.lap("two");
        let phases = watch.phases();
        assert_eq!(phases[0].end_us, phases[1].start_us);
        assert!(phases[1].end_us >= phases[0].start_us);
    }
}
