//! What a sandbox costs the host: its VMM, as the kernel counts it (proc(5)). The guest's memory and CPU time are in that,
//! whatever runs there; virtiofsd is not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use kata_sandbox::{CpuStats, MemoryStats, PidsStats, Stats};

/// The process cannot be looked at; most likely it has ended.
#[derive(Debug, thiserror::Error)]
#[error("Cannot read {} of the VM's process", path.display())]
pub(super) struct CostError {
    path: PathBuf,
    source: io::Error,
}

/// Of this process.
pub(super) fn of(pid: u32) -> Result<Stats, CostError> {
    let read = |name: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/{name}"));
        fs::read_to_string(&path).map_err(|source| CostError { path, source })
    };
    Ok(stats(&read("stat")?, &read("status")?, rustix::param::clock_ticks_per_second()))
}

/// From `stat` and `status`; what is missing there is 0.
fn stats(stat: &str, status: &str, ticks_per_second: u64) -> Stats {
    // The second field is a name in parentheses, which may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(stat, |(_, rest)| rest).split_whitespace().collect();
    let time = |field: usize| {
        let ticks: u64 = fields.get(field).and_then(|text| text.parse().ok()).unwrap_or(0);
        ticks.saturating_mul(1_000_000) / ticks_per_second.max(1)
    };
    let (user_usec, system_usec) = (time(11), time(12));
    let number = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let bytes = |name: &str| number(name).saturating_mul(1024);
    let kinds = [("anon", "RssAnon"), ("file", "RssFile"), ("shmem", "RssShmem")];
    let stat = kinds.map(|(kind, name)| (kind.to_owned(), bytes(name)));
    Stats {
        cpu: CpuStats { usage_usec: user_usec + system_usec, user_usec, system_usec, ..CpuStats::default() },
        memory: MemoryStats {
            usage: bytes("VmRSS"),
            usage_peak: bytes("VmHWM"),
            usage_limit: u64::MAX,
            swap_usage: bytes("VmSwap"),
            swap_limit: u64::MAX,
            stat: BTreeMap::from(stat),
            ..MemoryStats::default()
        },
        pids: PidsStats { current: number("Threads"), limit: u64::MAX },
        ..Stats::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{of, stats};

    #[test]
    fn a_process_is_measured_by_its_times_and_its_memory() {
        let stat = "7 (a ) b) S 1 1 1 0 -1 4 0 0 0 0 250 50 0 0 20 0 3 0 9 1 2";
        let status = "Name:\ta\nVmHWM:\t   20 kB\nVmRSS:\t   10 kB\nRssAnon:\t    8 kB\nThreads:\t3\n";
        let stats = stats(stat, status, 100);
        assert_eq!((stats.cpu.user_usec, stats.cpu.system_usec), (2_500_000, 500_000));
        assert_eq!((stats.memory.usage, stats.memory.usage_peak), (10 << 10, 20 << 10));
        assert_eq!((stats.memory.stat["anon"], stats.pids.current), (8 << 10, 3));
    }

    #[test]
    fn this_process_uses_memory_and_one_that_is_gone_is_an_error() {
        assert!(of(std::process::id()).unwrap().memory.usage > 0);
        assert!(of(u32::MAX).unwrap_err().to_string().contains("/proc/4294967295/stat"));
    }
}
