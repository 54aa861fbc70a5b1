//! A container's consumption as containerd reads it (`io.containerd.cgroups.v2.Metrics`).

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use kata_sandbox::{IoStats, MemoryStats, Stats};
use protobuf::MessageField;

/// Translates. What the guest does not say is 0.
pub(super) fn metrics(stats: &Stats) -> Metrics {
    let cpu = CPUStat {
        usage_usec: stats.cpu.usage_usec,
        user_usec: stats.cpu.user_usec,
        system_usec: stats.cpu.system_usec,
        nr_periods: stats.cpu.nr_periods,
        nr_throttled: stats.cpu.nr_throttled,
        throttled_usec: stats.cpu.throttled_usec,
        ..CPUStat::default()
    };
    let (current, limit) = stats.pids;
    let events = &stats.memory.events;
    let events = MemoryEvents {
        low: events.low,
        high: events.high,
        max: events.max,
        oom: events.oom,
        oom_kill: events.oom_kill,
        ..MemoryEvents::default()
    };
    let io = IOStat { usage: stats.io.iter().map(io).collect(), ..IOStat::default() };
    Metrics {
        pids: MessageField::some(PidsStat { current, limit, ..PidsStat::default() }),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory(&stats.memory)),
        memory_events: MessageField::some(events),
        io: MessageField::some(io),
        ..Metrics::default()
    }
}

fn io(entry: &IoStats) -> IOEntry {
    IOEntry {
        major: entry.major,
        minor: entry.minor,
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        rios: entry.rios,
        wios: entry.wios,
        ..IOEntry::default()
    }
}

fn memory(memory: &MemoryStats) -> MemoryStat {
    let stat = |name: &str| memory.stat.get(name).copied().unwrap_or_default();
    // The kernel split this counter in two in 5.9.
    let refault =
        stat("workingset_refault") + stat("workingset_refault_anon") + stat("workingset_refault_file");
    let activate =
        stat("workingset_activate") + stat("workingset_activate_anon") + stat("workingset_activate_file");
    MemoryStat {
        anon: stat("anon"),
        file: stat("file"),
        kernel_stack: stat("kernel_stack"),
        slab: stat("slab"),
        sock: stat("sock"),
        shmem: stat("shmem"),
        file_mapped: stat("file_mapped"),
        file_dirty: stat("file_dirty"),
        file_writeback: stat("file_writeback"),
        anon_thp: stat("anon_thp"),
        inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        slab_reclaimable: stat("slab_reclaimable"),
        slab_unreclaimable: stat("slab_unreclaimable"),
        pgfault: stat("pgfault"),
        pgmajfault: stat("pgmajfault"),
        workingset_refault: refault,
        workingset_activate: activate,
        workingset_nodereclaim: stat("workingset_nodereclaim"),
        pgrefill: stat("pgrefill"),
        pgscan: stat("pgscan"),
        pgsteal: stat("pgsteal"),
        pgactivate: stat("pgactivate"),
        pgdeactivate: stat("pgdeactivate"),
        pglazyfree: stat("pglazyfree"),
        pglazyfreed: stat("pglazyfreed"),
        thp_fault_alloc: stat("thp_fault_alloc"),
        thp_collapse_alloc: stat("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.usage_limit,
        swap_usage: memory.swap_usage,
        swap_limit: memory.swap_limit,
        ..MemoryStat::default()
    }
}

#[cfg(test)]
mod tests {
    use kata_sandbox::{CpuStats, IoStats, MemoryStats, Stats};

    use super::metrics;

    #[test]
    fn numbers_arrive_where_they_belong() {
        let stat = [("anon", 5), ("workingset_refault_anon", 2), ("workingset_refault_file", 3)];
        let stats = Stats {
            cpu: CpuStats { usage_usec: 9, ..CpuStats::default() },
            memory: MemoryStats {
                usage: 7,
                usage_limit: u64::MAX,
                stat: stat.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                ..MemoryStats::default()
            },
            pids: (3, 100),
            io: vec![IoStats { major: 8, rbytes: 512, ..IoStats::default() }],
        };
        let metrics = metrics(&stats);
        assert_eq!((metrics.pids.current, metrics.pids.limit, metrics.cpu.usage_usec), (3, 100, 9));
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit, metrics.memory.anon), (7, u64::MAX, 5));
        assert_eq!(metrics.memory.workingset_refault, 5);
        assert_eq!(metrics.io.usage[0].rbytes, 512);
    }
}
