//! `io.containerd.cgroups.v2.Metrics`: the guest's own terms.

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, NetworkStat, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};
use kata_sandbox::{CpuStats, HugetlbStats, IoStats, MemoryStats, NetworkStats, Pressure, RdmaStats, Stats};
use protobuf::MessageField;

/// Translates. What the guest does not count is 0 or absent.
pub(super) fn metrics(stats: &Stats) -> Metrics {
    let io = IOStat {
        usage: stats.io.iter().map(io).collect(),
        psi: pressure(stats.io_pressure),
        ..IOStat::default()
    };
    let pids = PidsStat { current: stats.pids.current, limit: stats.pids.limit, ..PidsStat::default() };
    Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu(&stats.cpu)),
        memory: MessageField::some(memory(&stats.memory)),
        memory_events: MessageField::some(memory_events(&stats.memory)),
        io: MessageField::some(io),
        rdma: MessageField::some(rdma(&stats.rdma)),
        hugetlb: stats.hugetlb.iter().map(hugetlb).collect(),
        network: stats.network.iter().map(network).collect(),
        ..Metrics::default()
    }
}

fn cpu(cpu: &CpuStats) -> CPUStat {
    CPUStat {
        usage_usec: cpu.usage_usec,
        user_usec: cpu.user_usec,
        system_usec: cpu.system_usec,
        nr_periods: cpu.nr_periods,
        nr_throttled: cpu.nr_throttled,
        throttled_usec: cpu.throttled_usec,
        nr_bursts: cpu.nr_bursts,
        burst_usec: cpu.burst_usec,
        psi: pressure(cpu.pressure),
        ..CPUStat::default()
    }
}

fn pressure(pressure: Option<Pressure>) -> MessageField<PSIStats> {
    let times = |times: kata_sandbox::PressureTimes| PSIData {
        avg10: times.avg10,
        avg60: times.avg60,
        avg300: times.avg300,
        total: times.total_usec,
        ..PSIData::default()
    };
    let stats = pressure.map(|pressure| PSIStats {
        some: MessageField::some(times(pressure.some)),
        full: MessageField::from_option(pressure.full.map(times)),
        ..PSIStats::default()
    });
    MessageField::from_option(stats)
}

fn memory_events(memory: &MemoryStats) -> MemoryEvents {
    let events = &memory.events;
    MemoryEvents {
        low: events.low,
        high: events.high,
        max: events.max,
        oom: events.oom,
        oom_kill: events.oom_kill,
        oom_group_kill: events.oom_group_kill,
        ..MemoryEvents::default()
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

fn rdma(devices: &[RdmaStats]) -> RdmaStat {
    let entry = |device: &RdmaStats, hca_handles, hca_objects| RdmaEntry {
        device: device.device.clone(),
        hca_handles,
        hca_objects,
        ..RdmaEntry::default()
    };
    RdmaStat {
        current: devices.iter().map(|d| entry(d, d.hca_handles, d.hca_objects)).collect(),
        limit: devices.iter().map(|d| entry(d, d.hca_handles_limit, d.hca_objects_limit)).collect(),
        ..RdmaStat::default()
    }
}

fn hugetlb(pages: &HugetlbStats) -> HugeTlbStat {
    HugeTlbStat {
        current: pages.current,
        max: pages.limit,
        pagesize: pages.page_size.clone(),
        failcnt: pages.max_events,
        ..HugeTlbStat::default()
    }
}

fn network(interface: &NetworkStats) -> NetworkStat {
    NetworkStat {
        name: interface.name.clone(),
        rx_bytes: interface.rx_bytes,
        rx_packets: interface.rx_packets,
        rx_errors: interface.rx_errors,
        rx_dropped: interface.rx_dropped,
        tx_bytes: interface.tx_bytes,
        tx_packets: interface.tx_packets,
        tx_errors: interface.tx_errors,
        tx_dropped: interface.tx_dropped,
        ..NetworkStat::default()
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
        max_usage: memory.usage_peak,
        swap_max_usage: memory.swap_peak,
        psi: pressure(memory.pressure),
        ..MemoryStat::default()
    }
}

#[cfg(test)]
mod tests {
    use kata_sandbox::{
        CpuStats, HugetlbStats, IoStats, MemoryEvents, MemoryStats, NetworkStats, PidsStats, Pressure,
        PressureTimes, RdmaStats, Stats,
    };

    use super::metrics;

    #[test]
    fn numbers_arrive_where_they_belong() {
        let stat = [("anon", 5), ("workingset_refault_anon", 2), ("workingset_refault_file", 3)];
        let stats = Stats {
            cpu: CpuStats { usage_usec: 9, nr_bursts: 2, ..CpuStats::default() },
            memory: MemoryStats {
                usage: 7,
                usage_limit: u64::MAX,
                usage_peak: 8,
                stat: stat.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                events: MemoryEvents { oom_group_kill: 1, ..MemoryEvents::default() },
                ..MemoryStats::default()
            },
            pids: PidsStats { current: 3, limit: 100 },
            io: vec![IoStats { major: 8, rbytes: 512, ..IoStats::default() }],
            ..Stats::default()
        };
        let metrics = metrics(&stats);
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 100));
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.nr_bursts), (9, 2));
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit, metrics.memory.anon), (7, u64::MAX, 5));
        assert_eq!((metrics.memory.max_usage, metrics.memory_events.oom_group_kill), (8, 1));
        assert_eq!(metrics.memory.workingset_refault, 5);
        assert_eq!(metrics.io.usage[0].rbytes, 512);
    }

    #[test]
    fn pressure_is_told_where_it_is_measured() {
        let some = PressureTimes { avg10: 1.5, total_usec: 4, ..PressureTimes::default() };
        let pressure = Pressure { some, full: None };
        let stats = Stats { io_pressure: Some(pressure), ..Stats::default() };
        let metrics = metrics(&stats);
        assert_eq!((metrics.io.psi.some.avg10, metrics.io.psi.some.total), (1.5, 4));
        assert!(metrics.io.psi.full.is_none() && metrics.cpu.psi.is_none() && metrics.memory.psi.is_none());
    }

    #[test]
    fn devices_pages_and_interfaces_keep_their_names() {
        let stats = Stats {
            hugetlb: vec![HugetlbStats { page_size: "2MB".into(), current: 4, limit: 8, max_events: 1 }],
            rdma: vec![RdmaStats {
                device: "mlx".into(),
                hca_handles: 1,
                hca_objects_limit: 9,
                ..RdmaStats::default()
            }],
            network: vec![NetworkStats {
                name: "eth0".into(),
                rx_bytes: 5,
                tx_dropped: 6,
                ..NetworkStats::default()
            }],
            ..Stats::default()
        };
        let metrics = metrics(&stats);
        let pages = &metrics.hugetlb[0];
        assert_eq!((pages.pagesize.as_str(), pages.current, pages.max, pages.failcnt), ("2MB", 4, 8, 1));
        assert_eq!((metrics.rdma.current[0].hca_handles, metrics.rdma.limit[0].hca_objects), (1, 9));
        let network = &metrics.network[0];
        assert_eq!((network.name.as_str(), network.rx_bytes, network.tx_dropped), ("eth0", 5, 6));
    }
}
