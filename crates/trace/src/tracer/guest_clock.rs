//! What the guest's clock shows, by the requests that it answers: it begins no answer before the host has asked, and ends none
//! after the host has it.

/// A stretch of time, in nanoseconds of the host's clock or of the guest's.
pub(super) type Stretch = (u64, u64);

/// When the guest's clock showed zero, in nanoseconds since 1970: between these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GuestClock {
    earliest: u64,
    latest: u64,
}

impl Default for GuestClock {
    fn default() -> Self {
        Self { earliest: 0, latest: u64::MAX }
    }
}

impl GuestClock {
    /// From a request of the host's, and the guest's answer to it.
    pub(super) fn learn(&mut self, asked: Stretch, answered: Stretch) {
        let bounds = (asked.0.checked_sub(answered.0), asked.1.checked_sub(answered.1));
        let (Some(earliest), Some(latest)) = bounds else { return };
        if earliest > latest {
            // An answer that took longer than the request is a guest's invention.
            return;
        }
        if earliest > self.latest || latest < self.earliest {
            // The VM stood still meanwhile.
            *self = Self { earliest, latest };
            return;
        }
        self.earliest = self.earliest.max(earliest);
        self.latest = self.latest.min(latest);
    }

    /// The best guess, which is this one as far as is known.
    pub(super) fn zero(&self, guess: u64) -> u64 {
        guess.clamp(self.earliest, self.latest)
    }
}

#[cfg(test)]
mod tests {
    use super::GuestClock;

    #[test]
    fn every_answer_lies_within_its_request_with_the_same_clock() {
        let mut clock = GuestClock::default();
        assert_eq!(clock.zero(7), 7);
        // Sent long before the guest could read it, and 90 late on its way back.
        clock.learn((1000, 5090), (2500, 4000));
        assert_eq!(clock.zero(1090), 1090);
        clock.learn((5200, 5230), (4202, 4218));
        assert_eq!(clock.zero(1090), 1012);
        assert_eq!(clock.zero(900), 998);
    }

    #[test]
    fn a_vm_that_stood_still_has_another_zero() {
        let mut clock = GuestClock::default();
        clock.learn((1000, 1010), (0, 10));
        clock.learn((9000, 9010), (500, 505));
        assert_eq!(clock.zero(0), 8500);
    }

    #[test]
    fn an_answer_that_cannot_be_teaches_nothing() {
        let mut clock = GuestClock::default();
        clock.learn((1000, 1010), (0, 500));
        clock.learn((1000, 1010), (2000, 2001));
        assert_eq!(clock, GuestClock::default());
    }
}
