//! What a container uses, from the files of its cgroup.

use std::collections::HashMap;

use kata_protocol::{agent, kata};
use protobuf::MessageField;

use super::Cgroup;

/// "No limit", as a number.
const NO_LIMIT: u64 = u64::MAX;

/// The statistics in cgroup v2's own terms.
pub(crate) fn read(cgroup: &Cgroup) -> kata::StatsResponse {
    kata::StatsResponse {
        cpu: MessageField::some(cpu(&cgroup.read("cpu.stat"))),
        memory: MessageField::some(memory(cgroup)),
        pids: MessageField::some(kata::PidsStats {
            current: number(&cgroup.read("pids.current")),
            limit: limit(&cgroup.read("pids.max")),
            ..Default::default()
        }),
        io: io(&cgroup.read("io.stat")),
        ..Default::default()
    }
}

fn cpu(stat: &str) -> kata::CpuStats {
    let stat = keyed(stat);
    let field = |name: &str| stat.get(name).copied().unwrap_or_default();
    kata::CpuStats {
        usage_usec: field("usage_usec"),
        user_usec: field("user_usec"),
        system_usec: field("system_usec"),
        nr_periods: field("nr_periods"),
        nr_throttled: field("nr_throttled"),
        throttled_usec: field("throttled_usec"),
        ..Default::default()
    }
}

fn memory(cgroup: &Cgroup) -> kata::MemoryStats {
    let events = keyed(&cgroup.read("memory.events"));
    let event = |name: &str| events.get(name).copied().unwrap_or_default();
    kata::MemoryStats {
        usage: number(&cgroup.read("memory.current")),
        usage_limit: limit(&cgroup.read("memory.max")),
        swap_usage: number(&cgroup.read("memory.swap.current")),
        swap_limit: limit(&cgroup.read("memory.swap.max")),
        stat: keyed(&cgroup.read("memory.stat")),
        events: MessageField::some(kata::MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …` per device.
fn io(stat: &str) -> Vec<kata::IoEntry> {
    stat.lines().filter_map(io_entry).collect()
}

fn io_entry(line: &str) -> Option<kata::IoEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let fields: HashMap<&str, u64> =
        words.filter_map(|word| word.split_once('=')).map(|(name, value)| (name, number(value))).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    Some(kata::IoEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        rbytes: field("rbytes"),
        wbytes: field("wbytes"),
        rios: field("rios"),
        wios: field("wios"),
        ..Default::default()
    })
}

/// The same in upstream's terms, which are those of cgroup v1 (nanoseconds, operations by name).
pub(crate) fn to_upstream(stats: &kata::StatsResponse) -> agent::CgroupStats {
    let cpu = stats.cpu.get_or_default();
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    agent::CgroupStats {
        cpu_stats: MessageField::some(agent::CpuStats {
            cpu_usage: MessageField::some(agent::CpuUsage {
                total_usage: nanoseconds(cpu.usage_usec),
                usage_in_kernelmode: nanoseconds(cpu.system_usec),
                usage_in_usermode: nanoseconds(cpu.user_usec),
                ..Default::default()
            }),
            throttling_data: MessageField::some(agent::ThrottlingData {
                periods: cpu.nr_periods,
                throttled_periods: cpu.nr_throttled,
                throttled_time: nanoseconds(cpu.throttled_usec),
                ..Default::default()
            }),
            ..Default::default()
        }),
        memory_stats: MessageField::some(upstream_memory(stats.memory.get_or_default())),
        pids_stats: MessageField::some(agent::PidsStats {
            current: stats.pids.current,
            limit: if stats.pids.limit == NO_LIMIT { 0 } else { stats.pids.limit },
            ..Default::default()
        }),
        blkio_stats: MessageField::some(upstream_io(&stats.io)),
        ..Default::default()
    }
}

fn upstream_memory(memory: &kata::MemoryStats) -> agent::MemoryStats {
    let data = |usage, limit, failcnt| {
        MessageField::some(agent::MemoryData { usage, limit, failcnt, ..Default::default() })
    };
    agent::MemoryStats {
        cache: memory.stat.get("file").copied().unwrap_or_default(),
        usage: data(memory.usage, memory.usage_limit, memory.events.max),
        swap_usage: data(memory.swap_usage, memory.swap_limit, 0),
        kernel_usage: data(memory.stat.get("kernel").copied().unwrap_or_default(), NO_LIMIT, 0),
        use_hierarchy: true,
        stats: memory.stat.clone(),
        ..Default::default()
    }
}

fn upstream_io(entries: &[kata::IoEntry]) -> agent::BlkioStats {
    let operations = |pick: fn(&kata::IoEntry) -> (u64, u64)| {
        let mut list = Vec::with_capacity(entries.len() * 2);
        for entry in entries {
            let (read, write) = pick(entry);
            for (op, value) in [("read", read), ("write", write)] {
                list.push(agent::BlkioStatsEntry {
                    major: entry.major,
                    minor: entry.minor,
                    op: op.to_owned(),
                    value,
                    ..Default::default()
                });
            }
        }
        list
    };
    agent::BlkioStats {
        io_service_bytes_recursive: operations(|entry| (entry.rbytes, entry.wbytes)),
        io_serviced_recursive: operations(|entry| (entry.rios, entry.wios)),
        ..Default::default()
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_default()
}

fn limit(text: &str) -> u64 {
    text.trim().parse().unwrap_or(NO_LIMIT)
}

/// `name number` per line.
fn keyed(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), number(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_read() {
        let cpu = cpu("usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\n");
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec, cpu.nr_periods), (30, 20, 10, 4));
    }

    #[test]
    fn a_limit_may_be_absent() {
        assert_eq!((limit("max\n"), limit("4096\n"), limit("")), (NO_LIMIT, 4096, NO_LIMIT));
    }

    #[test]
    fn devices_without_traffic_count_as_zero() {
        let entries = io("8:16 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n254:0 \n");
        assert_eq!(
            (entries[0].major, entries[0].minor, entries[0].rbytes, entries[0].wios),
            (8, 16, 4096, 3)
        );
        assert_eq!((entries[1].major, entries[1].rbytes), (254, 0));
    }

    #[test]
    fn upstream_counts_in_nanoseconds() {
        let stats = kata::StatsResponse {
            cpu: MessageField::some(kata::CpuStats { usage_usec: 5, ..Default::default() }),
            pids: MessageField::some(kata::PidsStats { limit: NO_LIMIT, ..Default::default() }),
            ..Default::default()
        };
        let upstream = to_upstream(&stats);
        assert_eq!(upstream.cpu_stats.cpu_usage.total_usage, 5000);
        assert_eq!(upstream.pids_stats.limit, 0);
    }
}
