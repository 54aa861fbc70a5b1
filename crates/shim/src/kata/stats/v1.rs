//! `io.containerd.cgroups.v1.Metrics`: the terms of cgroup v1, in which swap is memory and swap together, times are
//! nanoseconds, and a container without a limit of processes has the limit 0.
//!
//! What cgroup v2 does not count stays empty: CPU time by CPU, queues and waiting times of block devices, pages in
//! and out, the peak of huge pages, tasks by state.

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat,
    Metrics, NetworkStat, PidsStat, RdmaEntry, RdmaStat, Throttle,
};
use kata_sandbox::{CpuStats, HugetlbStats, IoStats, MemoryStats, NetworkStats, RdmaStats, Stats};
use protobuf::MessageField;

/// "No limit" of the guest.
const NO_LIMIT: u64 = u64::MAX;

/// "No limit" in cgroup v1's memory files: the largest number of bytes in whole pages.
const NO_MEMORY_LIMIT: u64 = i64::MAX as u64 & !0xfff;

/// Translates. What the guest does not count is 0 or absent.
pub(super) fn metrics(stats: &Stats) -> Metrics {
    let pids = PidsStat {
        current: stats.pids.current,
        limit: if stats.pids.limit == NO_LIMIT { 0 } else { stats.pids.limit },
        ..PidsStat::default()
    };
    let oom = MemoryOomControl { oom_kill: stats.memory.events.oom_kill, ..MemoryOomControl::default() };
    Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu(&stats.cpu)),
        memory: MessageField::some(memory(&stats.memory)),
        memory_oom_control: MessageField::some(oom),
        blkio: MessageField::some(blkio(&stats.io)),
        rdma: MessageField::some(rdma(&stats.rdma)),
        hugetlb: stats.hugetlb.iter().map(hugetlb).collect(),
        network: stats.network.iter().map(network).collect(),
        ..Metrics::default()
    }
}

fn cpu(cpu: &CpuStats) -> CPUStat {
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let usage = CPUUsage {
        total: nanoseconds(cpu.usage_usec),
        kernel: nanoseconds(cpu.system_usec),
        user: nanoseconds(cpu.user_usec),
        ..CPUUsage::default()
    };
    let throttling = Throttle {
        periods: cpu.nr_periods,
        throttled_periods: cpu.nr_throttled,
        throttled_time: nanoseconds(cpu.throttled_usec),
        ..Throttle::default()
    };
    CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(throttling),
        ..CPUStat::default()
    }
}

/// cgroup v2 counts a container together with the cgroups below it: the container's own numbers are the totals.
fn memory(memory: &MemoryStats) -> MemoryStat {
    let stat = |name: &str| memory.stat.get(name).copied().unwrap_or_default();
    MemoryStat {
        cache: stat("file"),
        total_cache: stat("file"),
        rss: stat("anon"),
        total_rss: stat("anon"),
        rss_huge: stat("anon_thp"),
        total_rss_huge: stat("anon_thp"),
        mapped_file: stat("file_mapped"),
        total_mapped_file: stat("file_mapped"),
        dirty: stat("file_dirty"),
        total_dirty: stat("file_dirty"),
        writeback: stat("file_writeback"),
        total_writeback: stat("file_writeback"),
        pg_pg_in: stat("pgpgin"),
        total_pg_pg_in: stat("pgpgin"),
        pg_pg_out: stat("pgpgout"),
        total_pg_pg_out: stat("pgpgout"),
        pg_fault: stat("pgfault"),
        total_pg_fault: stat("pgfault"),
        pg_maj_fault: stat("pgmajfault"),
        total_pg_maj_fault: stat("pgmajfault"),
        inactive_anon: stat("inactive_anon"),
        total_inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        total_active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        total_inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        total_active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        total_unevictable: stat("unevictable"),
        hierarchical_memory_limit: memory_limit(memory.usage_limit),
        hierarchical_swap_limit: swap_limit(memory),
        usage: MessageField::some(usage(memory)),
        swap: MessageField::some(swap(memory)),
        kernel: MessageField::some(unlimited(stat("kernel"))),
        kernel_tcp: MessageField::some(unlimited(stat("sock"))),
        ..MemoryStat::default()
    }
}

fn usage(memory: &MemoryStats) -> MemoryEntry {
    MemoryEntry {
        limit: memory_limit(memory.usage_limit),
        usage: memory.usage,
        max: memory.usage_peak,
        failcnt: memory.events.max,
        ..MemoryEntry::default()
    }
}

/// Memory and swap. The two peaks need not have been at the same time: their sum is the most it can have been.
fn swap(memory: &MemoryStats) -> MemoryEntry {
    MemoryEntry {
        limit: swap_limit(memory),
        usage: memory.usage.saturating_add(memory.swap_usage),
        max: memory.usage_peak.saturating_add(memory.swap_peak),
        failcnt: memory.swap_events.max,
        ..MemoryEntry::default()
    }
}

fn unlimited(usage: u64) -> MemoryEntry {
    MemoryEntry { usage, limit: NO_MEMORY_LIMIT, ..MemoryEntry::default() }
}

fn memory_limit(limit: u64) -> u64 {
    limit.min(NO_MEMORY_LIMIT)
}

fn swap_limit(memory: &MemoryStats) -> u64 {
    memory_limit(memory.usage_limit.saturating_add(memory.swap_limit))
}

fn blkio(devices: &[IoStats]) -> BlkIOStat {
    BlkIOStat {
        io_service_bytes_recursive: operations(devices, |d| (d.rbytes, d.wbytes, d.dbytes)),
        io_serviced_recursive: operations(devices, |d| (d.rios, d.wios, d.dios)),
        ..BlkIOStat::default()
    }
}

/// One entry per device and operation, and their sum.
fn operations(devices: &[IoStats], pick: fn(&IoStats) -> (u64, u64, u64)) -> Vec<BlkIOEntry> {
    let mut list = Vec::with_capacity(devices.len() * 4);
    for device in devices {
        let (read, write, discard) = pick(device);
        let total = read.saturating_add(write).saturating_add(discard);
        for (op, value) in [("Read", read), ("Write", write), ("Discard", discard), ("Total", total)] {
            list.push(BlkIOEntry {
                op: op.to_owned(),
                device: if device.device.is_empty() {
                    String::new()
                } else {
                    format!("/dev/{}", device.device)
                },
                major: device.major,
                minor: device.minor,
                value,
                ..BlkIOEntry::default()
            });
        }
    }
    list
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

/// Its `max` is a peak, not a limit.
fn hugetlb(pages: &HugetlbStats) -> HugetlbStat {
    HugetlbStat {
        usage: pages.current,
        failcnt: pages.max_events,
        pagesize: pages.page_size.clone(),
        ..HugetlbStat::default()
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

#[cfg(test)]
mod tests {
    use kata_sandbox::{MemoryEvents, PidsStats, SwapEvents};

    use super::*;

    #[test]
    fn times_are_nanoseconds() {
        let cpu = CpuStats {
            usage_usec: 9,
            user_usec: 5,
            system_usec: 4,
            nr_periods: 3,
            nr_throttled: 2,
            throttled_usec: 1,
            ..CpuStats::default()
        };
        let cpu = metrics(&Stats { cpu, ..Stats::default() }).cpu.unwrap();
        assert_eq!((cpu.usage.total, cpu.usage.user, cpu.usage.kernel), (9000, 5000, 4000));
        let throttling = &cpu.throttling;
        assert_eq!(
            (throttling.periods, throttling.throttled_periods, throttling.throttled_time),
            (3, 2, 1000)
        );
    }

    #[test]
    fn swap_is_memory_and_swap() {
        let memory = MemoryStats {
            usage: 10,
            usage_limit: 100,
            usage_peak: 20,
            swap_usage: 3,
            swap_limit: 50,
            swap_peak: 4,
            events: MemoryEvents { max: 7, oom_kill: 2, ..MemoryEvents::default() },
            swap_events: SwapEvents { max: 1, ..SwapEvents::default() },
            ..MemoryStats::default()
        };
        let metrics = metrics(&Stats { memory, ..Stats::default() });
        let told = |entry: &MemoryEntry| (entry.usage, entry.limit, entry.max, entry.failcnt);
        assert_eq!(told(&metrics.memory.usage), (10, 100, 20, 7));
        assert_eq!(told(&metrics.memory.swap), (13, 150, 24, 1));
        assert_eq!(metrics.memory.hierarchical_swap_limit, 150);
        assert_eq!(metrics.memory_oom_control.oom_kill, 2);
    }

    #[test]
    fn no_limit_is_said_as_cgroup_v1_says_it() {
        let memory = MemoryStats { usage_limit: NO_LIMIT, swap_limit: NO_LIMIT, ..MemoryStats::default() };
        let pids = PidsStats { current: 3, limit: NO_LIMIT };
        let metrics = metrics(&Stats { memory, pids, ..Stats::default() });
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
        assert_eq!(metrics.memory.usage.limit, 0x7fff_ffff_ffff_f000);
        assert_eq!(metrics.memory.swap.limit, 0x7fff_ffff_ffff_f000);
    }

    #[test]
    fn memory_has_the_names_of_cgroup_v1() {
        let stat = [("file", 1), ("anon", 2), ("file_mapped", 3), ("pgfault", 4), ("kernel", 5), ("sock", 6)];
        let stat = stat.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let memory = MemoryStats { stat, ..MemoryStats::default() };
        let memory = metrics(&Stats { memory, ..Stats::default() }).memory.unwrap();
        assert_eq!((memory.cache, memory.rss, memory.mapped_file, memory.pg_fault), (1, 2, 3, 4));
        let totals = (memory.total_cache, memory.total_rss, memory.total_mapped_file, memory.total_pg_fault);
        assert_eq!(totals, (1, 2, 3, 4));
        assert_eq!((memory.kernel.usage, memory.kernel_tcp.usage), (5, 6));
    }

    #[test]
    fn block_devices_have_an_entry_per_operation() {
        let io = IoStats {
            major: 254,
            device: "vda".into(),
            rbytes: 512,
            wbytes: 1024,
            rios: 1,
            wios: 2,
            ..IoStats::default()
        };
        let blkio = metrics(&Stats { io: vec![io], ..Stats::default() }).blkio.unwrap();
        let told = |entries: &[BlkIOEntry]| {
            entries.iter().map(|entry| (entry.op.clone(), entry.value)).collect::<Vec<_>>()
        };
        let named = |pairs: [(&str, u64); 4]| pairs.map(|(op, value)| (op.to_owned(), value)).to_vec();
        assert_eq!(
            told(&blkio.io_service_bytes_recursive),
            named([("Read", 512), ("Write", 1024), ("Discard", 0), ("Total", 1536)])
        );
        assert_eq!(
            told(&blkio.io_serviced_recursive),
            named([("Read", 1), ("Write", 2), ("Discard", 0), ("Total", 3)])
        );
        let first = &blkio.io_serviced_recursive[0];
        assert_eq!((first.device.as_str(), first.major), ("/dev/vda", 254));
    }

    #[test]
    fn pages_devices_and_interfaces_keep_their_names() {
        let pages = HugetlbStats { page_size: "2MB".into(), current: 4, limit: 8, max_events: 1 };
        let device = RdmaStats { device: "mlx".into(), hca_objects_limit: 9, ..RdmaStats::default() };
        let interface =
            NetworkStats { name: "eth0".into(), rx_bytes: 5, tx_errors: 6, ..NetworkStats::default() };
        let metrics = metrics(&Stats {
            hugetlb: vec![pages],
            rdma: vec![device],
            network: vec![interface],
            ..Stats::default()
        });
        let pages = &metrics.hugetlb[0];
        assert_eq!((pages.pagesize.as_str(), pages.usage, pages.max, pages.failcnt), ("2MB", 4, 0, 1));
        assert_eq!(metrics.rdma.limit[0].hca_objects, 9);
        let network = &metrics.network[0];
        assert_eq!((network.name.as_str(), network.rx_bytes, network.tx_errors), ("eth0", 5, 6));
    }
}
