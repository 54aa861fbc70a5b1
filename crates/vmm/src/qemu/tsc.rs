//! The frequency of the host's time stamp counter, which an emulated guest's has as well.
//!
//! A guest kernel finds it out by counting while a timer runs. Emulated on a busy host that goes wrong (of thirty
//! boots two had a clock that ran three and four times too fast), and nothing corrects it later. So the guest is
//! told; it also saves the guest the counting. Each CPU but the first would count again when it is switched on, for seconds
//! on a busy host, and nothing else could be added to the guest meanwhile.

use std::hint::spin_loop;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use super::sys::time_stamp;

/// The kernel parameter that tells it, in kHz.
pub(super) const FREQUENCY: &str = "tsc_early_khz=";
/// The one that tells how far the counter goes in a tick of the kernel.
const PER_TICK: &str = "lpj=";
/// Ticks in a second of this project's kernel. With a kernel of more, its short delays are so many times longer.
const TICKS: u64 = 250;

/// Measured for as long as this: with it the error is below 1:10 000, and the guest refines it within a second.
const MEASURED: Duration = Duration::from_millis(1);
/// Tries to read both clocks without being interrupted in between.
const TRIES: usize = 8;
/// What can be a frequency, in kHz.
const PLAUSIBLE: RangeInclusive<u64> = 100_000..=20_000_000;

/// What a guest with so many CPUs at most is told beside its `own` parameters.
pub(super) fn kernel_params(khz: u64, max_vcpus: u32, own: &[String]) -> Vec<String> {
    let is_own = own.iter().any(|param| param.starts_with(PER_TICK));
    let per_tick = (max_vcpus > 1 && !is_own).then(|| format!("{PER_TICK}{}", khz * 1000 / TICKS));
    std::iter::once(format!("{FREQUENCY}{khz}")).chain(per_tick).collect()
}

/// The frequency in kHz; `None` if the CPU has no counter of constant speed. Takes a millisecond.
pub(super) fn frequency_khz(cpuinfo: &Path) -> Option<u64> {
    let flags = std::fs::read_to_string(cpuinfo).ok()?;
    if !flags.split_whitespace().any(|flag| flag == "constant_tsc") {
        return None;
    }
    let (begin, first) = sample()?;
    while begin.elapsed() < MEASURED {
        spin_loop();
    }
    let (end, last) = sample()?;
    let nanoseconds = u64::try_from(end.duration_since(begin).as_nanos()).ok()?;
    let khz = last.checked_sub(first)?.checked_mul(1_000_000)?.checked_div(nanoseconds)?;
    PLAUSIBLE.contains(&khz).then_some(khz)
}

/// Time and counter at the same moment: of some pairs the one that was read fastest.
fn sample() -> Option<(Instant, u64)> {
    let pairs = (0..TRIES).map(|_| {
        let before = Instant::now();
        let ticks = time_stamp();
        let took = before.elapsed();
        (took, before + took / 2, ticks)
    });
    let (_, at, ticks) = pairs.min_by_key(|(took, ..)| *took)?;
    Some((at, ticks?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{frequency_khz, kernel_params};

    /// Of thirty growths on a busy host ten took seconds, and one failed.
    #[test]
    fn cpus_that_come_later_need_not_count() {
        assert_eq!(kernel_params(2_600_000, 1, &[]), ["tsc_early_khz=2600000"]);
        assert_eq!(kernel_params(2_600_000, 2, &[]), ["tsc_early_khz=2600000", "lpj=10400000"]);
        assert_eq!(kernel_params(2_600_000, 2, &["lpj=7".to_owned()]), ["tsc_early_khz=2600000"]);
    }

    #[test]
    fn the_frequency_is_the_same_each_time() {
        let cpuinfo = Path::new("/proc/cpuinfo");
        let Some(first) = frequency_khz(cpuinfo) else {
            eprintln!("skipped: no counter of constant speed");
            return;
        };
        let second = frequency_khz(cpuinfo).unwrap();
        assert!(first.abs_diff(second) < first / 100, "{first} {second}");
    }

    #[test]
    fn without_a_constant_counter_there_is_none() {
        assert_eq!(frequency_khz(Path::new("/dev/null")), None);
    }
}
