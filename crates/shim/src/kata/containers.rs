//! What each container uses, in the terms of cAdvisor: the names of its families with `kata_` before them. The figures are
//! those of the container's cgroup in the guest, as in `Stats`.

use std::time::Duration;

use futures::future::join_all;
use kata_metrics::{Exposition, Family, Selection, Told};
use kata_sandbox::{ContainerId, IoStats, Sandbox, Stats};
use tokio::time::timeout;

/// How names of these families begin.
const CONTAINER: &str = "kata_container_";

/// A figure of one container.
type Row = (Family, fn(&Stats) -> String);

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family::counter(name, help, Told::WhenAsked)
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family::gauge(name, help, Told::WhenAsked)
}

static FAMILIES: [Row; 17] = [
    (counter("kata_container_cpu_usage_seconds_total", "CPU time."), |s| seconds(s.cpu.usage_usec)),
    (counter("kata_container_cpu_user_seconds_total", "User CPU time."), |s| seconds(s.cpu.user_usec)),
    (counter("kata_container_cpu_system_seconds_total", "System CPU time."), |s| seconds(s.cpu.system_usec)),
    (counter("kata_container_cpu_cfs_periods_total", "Periods of its CPU limit."), |s| {
        s.cpu.nr_periods.to_string()
    }),
    (counter("kata_container_cpu_cfs_throttled_periods_total", "Periods in which it had to wait."), |s| {
        s.cpu.nr_throttled.to_string()
    }),
    (counter("kata_container_cpu_cfs_throttled_seconds_total", "Time that it had to wait."), |s| {
        seconds(s.cpu.throttled_usec)
    }),
    (gauge("kata_container_memory_usage_bytes", "Memory with all caches."), |s| s.memory.usage.to_string()),
    (gauge("kata_container_memory_working_set_bytes", "Memory without inactive files."), working_set),
    (gauge("kata_container_memory_rss", "Anonymous memory in bytes."), |s| memory(s, "anon").to_string()),
    (gauge("kata_container_memory_cache", "Page cache in bytes."), |s| memory(s, "file").to_string()),
    (gauge("kata_container_memory_swap", "Swap in bytes."), |s| s.memory.swap_usage.to_string()),
    (gauge("kata_container_memory_max_usage_bytes", "Its most so far."), |s| s.memory.usage_peak.to_string()),
    (counter("kata_container_memory_failcnt", "How often it came to its limit."), |s| {
        s.memory.events.max.to_string()
    }),
    (counter("kata_container_oom_events_total", "Processes killed for want of memory."), |s| {
        s.memory.events.oom_kill.to_string()
    }),
    (gauge("kata_container_spec_memory_limit_bytes", "Memory limit, 0 for none."), |s| {
        limit(s.memory.usage_limit)
    }),
    (gauge("kata_container_threads", "Threads."), |s| s.pids.current.to_string()),
    (gauge("kata_container_threads_max", "Limit of threads, 0 for none."), |s| limit(s.pids.limit)),
];

/// A figure of one disk of a container.
type DiskRow = (Family, fn(&IoStats) -> u64);

static DISKS: [DiskRow; 4] = [
    (counter("kata_container_fs_reads_bytes_total", "Bytes read from disks."), |io| io.rbytes),
    (counter("kata_container_fs_writes_bytes_total", "Bytes written to disks."), |io| io.wbytes),
    (counter("kata_container_fs_reads_total", "Reads of disks."), |io| io.rios),
    (counter("kata_container_fs_writes_total", "Writes to disks."), |io| io.wios),
];

/// Asks for what these containers use, if that is wanted. Who does not answer in time, or has ended meanwhile, is left out.
pub(super) async fn stats(
    sandbox: &Sandbox,
    containers: &[ContainerId],
    selection: &Selection,
    patience: Duration,
) -> Vec<(ContainerId, Stats)> {
    if !selection.asks_for(CONTAINER) {
        return Vec::new();
    }
    let each = containers.iter().map(async |id| {
        let stats = timeout(patience, sandbox.stats(id)).await.ok()?.ok()?;
        Some((id.clone(), stats))
    });
    join_all(each).await.into_iter().flatten().collect()
}

/// Writes what is wanted of it.
pub(super) fn write(text: &mut Exposition, containers: &[(ContainerId, Stats)]) {
    for (family, figure) in &FAMILIES {
        let Some(mut samples) = text.family(family) else { continue };
        for (id, stats) in containers {
            samples.add(&[("container", id.as_str())], figure(stats));
        }
    }
    for (family, figure) in &DISKS {
        let Some(mut samples) = text.family(family) else { continue };
        for (id, stats) in containers {
            for io in &stats.io {
                samples.add(&[("container", id.as_str()), ("device", &device(io))], figure(io));
            }
        }
    }
}

/// The guest's name is the guest's word: what is not a name of a device is left out of it.
fn device(io: &IoStats) -> String {
    let name: String = io.device.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    match name.is_empty() {
        true => format!("{}:{}", io.major, io.minor),
        false => format!("/dev/{name}"),
    }
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn memory(stats: &Stats, what: &str) -> u64 {
    stats.memory.stat.get(what).copied().unwrap_or_default()
}

fn working_set(stats: &Stats) -> String {
    stats.memory.usage.saturating_sub(memory(stats, "inactive_file")).to_string()
}

fn limit(limit: u64) -> String {
    if limit == u64::MAX { "0".to_owned() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use kata_metrics::{Exposition, Selection};
    use kata_sandbox::{CpuStats, IoStats, MemoryStats, PidsStats, Stats};

    use super::write;

    fn used() -> Stats {
        let stat = [("anon", 10), ("file", 20), ("inactive_file", 5)];
        let io = IoStats { major: 254, device: "vda".into(), wbytes: 512, wios: 1, ..IoStats::default() };
        let nameless = IoStats { major: 8, minor: 16, rbytes: 7, ..IoStats::default() };
        Stats {
            cpu: CpuStats {
                usage_usec: 1_500_000,
                throttled_usec: 7,
                nr_throttled: 2,
                ..CpuStats::default()
            },
            memory: MemoryStats {
                usage: 35,
                usage_limit: u64::MAX,
                stat: stat.map(|(name, bytes)| (name.to_owned(), bytes)).into(),
                ..MemoryStats::default()
            },
            pids: PidsStats { current: 3, limit: 100 },
            io: vec![io, nameless],
            ..Stats::default()
        }
    }

    fn told(selection: Selection) -> String {
        let mut text = Exposition::new(selection);
        write(&mut text, &[("web".parse().unwrap(), used()), ("db".parse().unwrap(), Stats::default())]);
        text.finish()
    }

    #[test]
    fn each_figure_has_cadvisors_meaning_and_unit() {
        let text = told(Selection::all());
        for line in [
            "kata_container_cpu_usage_seconds_total{container=\"web\"} 1.500000",
            "kata_container_cpu_usage_seconds_total{container=\"db\"} 0.000000",
            "kata_container_cpu_cfs_throttled_periods_total{container=\"web\"} 2",
            "kata_container_cpu_cfs_throttled_seconds_total{container=\"web\"} 0.000007",
            "kata_container_memory_usage_bytes{container=\"web\"} 35",
            "kata_container_memory_working_set_bytes{container=\"web\"} 30",
            "kata_container_memory_rss{container=\"web\"} 10",
            "kata_container_memory_cache{container=\"web\"} 20",
            "kata_container_spec_memory_limit_bytes{container=\"web\"} 0",
            "kata_container_threads_max{container=\"web\"} 100",
            "kata_container_fs_writes_bytes_total{container=\"web\",device=\"/dev/vda\"} 512",
            "kata_container_fs_reads_bytes_total{container=\"web\",device=\"8:16\"} 7",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE kata_container_threads gauge").count(), 1, "{text}");
    }

    #[test]
    fn unasked_nothing_is_told_of_single_containers() {
        assert_eq!(told(Selection::brief()), "");
    }
}
