//! The guest's console: lines of the kernel and of the agent, with the time since the guest's start.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kata_sandbox::Timeline;
use kata_sandbox::timeline::{Side, phase};
use rustix::time::{ClockId, clock_gettime};

use super::line::{Line, Source};

/// What an agent's line has after its time.
const AGENT: &str = "kata-agent: ";

/// When the guest started. Until its agent has told, that is when its VMM was there; and without that, when its directory was made.
pub(super) fn guest_start(dir: &Path) -> SystemTime {
    let begun = || dir.metadata().and_then(|about| about.created()).unwrap_or(UNIX_EPOCH);
    let Ok(timeline) = Timeline::read(dir) else { return begun() };
    let guest = timeline.spans.iter().filter(|span| span.side == Side::Guest).map(|span| span.start_us).min();
    let vmm = || timeline.span(phase::VMM).map(|span| span.end_us);
    guest.or_else(vmm).map_or_else(begun, |since| at(timeline.origin_us + since))
}

/// A moment of the host's `CLOCK_BOOTTIME`, in microseconds.
fn at(micros: u64) -> SystemTime {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    let ago = Duration::new(seconds, nanos).saturating_sub(Duration::from_micros(micros));
    SystemTime::now() - ago
}

/// A line as it came; one without a time belongs to that before it.
pub(super) fn line(raw: &str, start: SystemTime, before: SystemTime) -> Line {
    let clean = kata_sandbox::printable(raw);
    let clean = clean.trim_end();
    let (time, text) = match stamped(clean) {
        Some((since, text)) => (start.checked_add(since).filter(is_plausible).unwrap_or(before), text),
        None => (before, clean),
    };
    match text.strip_prefix(AGENT) {
        Some(text) => Line { time, source: Source::Agent, text: text.trim_start().to_owned() },
        None => Line { time, source: Source::Kernel, text: text.to_owned() },
    }
}

/// Whether its year has four digits: the guest may write any number.
fn is_plausible(time: &SystemTime) -> bool {
    *time < SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800)
}

/// `[   12.345678] text`
fn stamped(line: &str) -> Option<(Duration, &str)> {
    let (stamp, text) = line.strip_prefix('[')?.split_once("] ")?;
    let (seconds, micros) = stamp.trim().split_once('.')?;
    if micros.len() != 6 {
        return None;
    }
    let (seconds, micros) = (seconds.parse().ok()?, micros.parse().ok()?);
    let time = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    Some((time, text))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::line::Source;
    use super::line;

    #[test]
    fn kernel_and_agent_are_told_apart() {
        let (start, before) = (UNIX_EPOCH + Duration::from_secs(100), UNIX_EPOCH);
        let kernel = line("[    1.500000] Run /init as init process\r", start, before);
        assert_eq!((kernel.source, kernel.text.as_str()), (Source::Kernel, "Run /init as init process"));
        assert_eq!(kernel.time, start + Duration::from_millis(1500));
        let agent = line("[   12.000001] kata-agent:  INFO Serving version=1", start, before);
        assert_eq!((agent.source, agent.text.as_str()), (Source::Agent, "INFO Serving version=1"));
        assert_eq!(agent.time, start + Duration::from_micros(12_000_001));
        let odd = line("[nonsense] x", start, kernel.time);
        assert_eq!((odd.time, odd.text.as_str()), (kernel.time, "[nonsense] x"));
    }

    /// A guest could end `kata-runtime logs` and `collect-data`.
    #[test]
    fn a_time_that_cannot_be_is_that_of_the_line_before() {
        let before = UNIX_EPOCH + Duration::from_secs(7);
        for seconds in [i64::MAX.unsigned_abs(), u64::MAX] {
            let odd = line(&format!("[{seconds}.999999] x"), UNIX_EPOCH, before);
            assert_eq!(odd.time, before, "{seconds}");
        }
        assert_eq!(line("[18446744073709551615.999999] x", UNIX_EPOCH, before).time, before);
    }
}
