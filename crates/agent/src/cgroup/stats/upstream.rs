//! The statistics in upstream's terms, which are those of cgroup v1 (nanoseconds, operations by name).

use kata_protocol::{agent, kata};
use protobuf::MessageField;

use super::NO_LIMIT;

/// Translates. The network is not part of it.
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
        memory_stats: MessageField::some(memory(stats.memory.get_or_default())),
        pids_stats: MessageField::some(agent::PidsStats {
            current: stats.pids.current,
            limit: if stats.pids.limit == NO_LIMIT { 0 } else { stats.pids.limit },
            ..Default::default()
        }),
        blkio_stats: MessageField::some(io(&stats.io)),
        hugetlb_stats: stats.hugetlb.iter().map(hugetlb).collect(),
        ..Default::default()
    }
}

fn memory(memory: &kata::MemoryStats) -> agent::MemoryStats {
    let data = |(usage, max_usage), limit, failcnt| {
        MessageField::some(agent::MemoryData { usage, max_usage, limit, failcnt, ..Default::default() })
    };
    let kernel = memory.stat.get("kernel").copied().unwrap_or_default();
    agent::MemoryStats {
        cache: memory.stat.get("file").copied().unwrap_or_default(),
        usage: data((memory.usage, memory.usage_peak), memory.usage_limit, memory.events.max),
        swap_usage: data((memory.swap_usage, memory.swap_peak), memory.swap_limit, memory.swap_events.max),
        kernel_usage: data((kernel, 0), NO_LIMIT, 0),
        use_hierarchy: true,
        stats: memory.stat.clone(),
        ..Default::default()
    }
}

fn io(entries: &[kata::IoEntry]) -> agent::BlkioStats {
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

/// By the size of the pages.
fn hugetlb(pages: &kata::HugetlbStats) -> (String, agent::HugetlbStats) {
    let stats = agent::HugetlbStats { usage: pages.current, failcnt: pages.max_events, ..Default::default() };
    (pages.page_size.clone(), stats)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn huge_pages_and_peaks_are_upstreams_too() {
        let pages =
            kata::HugetlbStats { page_size: "2MB".into(), current: 7, max_events: 2, ..Default::default() };
        let memory = kata::MemoryStats { usage: 1, usage_peak: 9, ..Default::default() };
        let stats = kata::StatsResponse {
            memory: MessageField::some(memory),
            hugetlb: vec![pages],
            ..Default::default()
        };
        let upstream = to_upstream(&stats);
        assert_eq!(upstream.memory_stats.usage.max_usage, 9);
        let pages = &upstream.hugetlb_stats["2MB"];
        assert_eq!((pages.usage, pages.failcnt), (7, 2));
    }
}
