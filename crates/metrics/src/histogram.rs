//! How long requests took, counted by powers of two.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets in milliseconds, upstream's and those of a slow start. One bucket more has the rest.
pub const BOUNDS_MS: [u32; 14] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// Durations of one kind of request. Counting is an addition or two.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU32; BOUNDS_MS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let bucket = BOUNDS_MS.partition_point(|bound| took > Duration::from_millis(u64::from(*bound)));
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The count of each bucket, and the sum of all durations.
    pub(crate) fn read(&self) -> ([u32; BOUNDS_MS.len() + 1], Duration) {
        let counts = std::array::from_fn(|index| self.counts[index].load(Ordering::Relaxed));
        (counts, Duration::from_micros(self.micros.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_is_not_shorter() {
        let histogram = Histogram::default();
        for micros in [0, 1000, 1001, 8_192_000, 8_192_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let (counts, sum) = histogram.read();
        assert_eq!((counts[0], counts[1], counts[13], counts[14]), (2, 1, 1, 1));
        assert_eq!(sum, Duration::from_micros(16_386_002));
    }
}
