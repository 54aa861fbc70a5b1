//! The agent's statistics in our own terms.

use kata_protocol::agent as grpc;
use kata_protocol::kata;
use protobuf::MessageField;

use crate::stats::{
    CpuStats, HugetlbStats, IoStats, MemoryEvents, MemoryStats, NetworkStats, PidsStats, Pressure,
    PressureTimes, RdmaStats, Stats, SwapEvents,
};

/// "No limit", as a number.
const NO_LIMIT: u64 = u64::MAX;

/// What `kata.v1` says.
pub(super) fn stats(answer: kata::StatsResponse) -> Stats {
    let pids = answer.pids.unwrap_or_default();
    Stats {
        cpu: cpu(answer.cpu.unwrap_or_default()),
        memory: memory(answer.memory.unwrap_or_default()),
        pids: PidsStats { current: pids.current, limit: pids.limit },
        io: answer.io.into_iter().map(io).collect(),
        io_pressure: pressure(answer.io_pressure),
        hugetlb: answer.hugetlb.into_iter().map(hugetlb).collect(),
        rdma: answer.rdma.into_iter().map(rdma).collect(),
        network: answer.network.into_iter().map(network).collect(),
    }
}

fn cpu(cpu: kata::CpuStats) -> CpuStats {
    CpuStats {
        usage_usec: cpu.usage_usec,
        user_usec: cpu.user_usec,
        system_usec: cpu.system_usec,
        nr_periods: cpu.nr_periods,
        nr_throttled: cpu.nr_throttled,
        throttled_usec: cpu.throttled_usec,
        nr_bursts: cpu.nr_bursts,
        burst_usec: cpu.burst_usec,
        pressure: pressure(cpu.pressure),
    }
}

fn pressure(pressure: MessageField<kata::Pressure>) -> Option<Pressure> {
    let pressure = pressure.into_option()?;
    let times = |times: kata::PressureTimes| PressureTimes {
        avg10: times.avg10,
        avg60: times.avg60,
        avg300: times.avg300,
        total_usec: times.total_usec,
    };
    Some(Pressure {
        some: times(pressure.some.unwrap_or_default()),
        full: pressure.full.into_option().map(times),
    })
}

fn memory(memory: kata::MemoryStats) -> MemoryStats {
    let events = memory.events.unwrap_or_default();
    let swap_events = memory.swap_events.unwrap_or_default();
    MemoryStats {
        usage: memory.usage,
        usage_limit: memory.usage_limit,
        usage_peak: memory.usage_peak,
        swap_usage: memory.swap_usage,
        swap_limit: memory.swap_limit,
        swap_peak: memory.swap_peak,
        stat: memory.stat.into_iter().collect(),
        events: MemoryEvents {
            low: events.low,
            high: events.high,
            max: events.max,
            oom: events.oom,
            oom_kill: events.oom_kill,
            oom_group_kill: events.oom_group_kill,
        },
        swap_events: SwapEvents { high: swap_events.high, max: swap_events.max, fail: swap_events.fail },
        pressure: pressure(memory.pressure),
    }
}

fn io(entry: kata::IoEntry) -> IoStats {
    IoStats {
        major: entry.major,
        minor: entry.minor,
        device: entry.device,
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        dbytes: entry.dbytes,
        rios: entry.rios,
        wios: entry.wios,
        dios: entry.dios,
    }
}

fn hugetlb(pages: kata::HugetlbStats) -> HugetlbStats {
    HugetlbStats {
        page_size: pages.page_size,
        current: pages.current,
        limit: pages.limit,
        max_events: pages.max_events,
    }
}

fn rdma(device: kata::RdmaStats) -> RdmaStats {
    RdmaStats {
        device: device.device,
        hca_handles: device.hca_handles,
        hca_objects: device.hca_objects,
        hca_handles_limit: device.hca_handles_limit,
        hca_objects_limit: device.hca_objects_limit,
    }
}

/// The same message for both.
fn network(interface: grpc::NetworkStats) -> NetworkStats {
    NetworkStats {
        name: interface.name,
        rx_bytes: interface.rx_bytes,
        rx_packets: interface.rx_packets,
        rx_errors: interface.rx_errors,
        rx_dropped: interface.rx_dropped,
        tx_bytes: interface.tx_bytes,
        tx_packets: interface.tx_packets,
        tx_errors: interface.tx_errors,
        tx_dropped: interface.tx_dropped,
    }
}

/// Upstream's statistics: cgroup v1's terms, times in nanoseconds.
pub(super) fn upstream_stats(answer: grpc::StatsContainerResponse) -> Stats {
    let cgroup = answer.cgroup_stats.unwrap_or_default();
    let pids = cgroup.pids_stats.unwrap_or_default();
    Stats {
        cpu: upstream_cpu(cgroup.cpu_stats.unwrap_or_default()),
        memory: upstream_memory(cgroup.memory_stats.unwrap_or_default()),
        // cgroup v1's way to say "none".
        pids: PidsStats { current: pids.current, limit: if pids.limit == 0 { NO_LIMIT } else { pids.limit } },
        io: upstream_io(&cgroup.blkio_stats.unwrap_or_default()),
        hugetlb: cgroup.hugetlb_stats.into_iter().map(upstream_hugetlb).collect(),
        network: answer.network_stats.into_iter().map(network).collect(),
        ..Stats::default()
    }
}

fn upstream_cpu(cpu: grpc::CpuStats) -> CpuStats {
    let usage = cpu.cpu_usage.unwrap_or_default();
    let throttling = cpu.throttling_data.unwrap_or_default();
    CpuStats {
        usage_usec: usage.total_usage / 1000,
        user_usec: usage.usage_in_usermode / 1000,
        system_usec: usage.usage_in_kernelmode / 1000,
        nr_periods: throttling.periods,
        nr_throttled: throttling.throttled_periods,
        throttled_usec: throttling.throttled_time / 1000,
        ..CpuStats::default()
    }
}

fn upstream_memory(memory: grpc::MemoryStats) -> MemoryStats {
    let used = memory.usage.unwrap_or_default();
    let swap = memory.swap_usage.unwrap_or_default();
    MemoryStats {
        usage: used.usage,
        usage_limit: used.limit,
        usage_peak: used.max_usage,
        swap_usage: swap.usage,
        swap_limit: swap.limit,
        swap_peak: swap.max_usage,
        stat: memory.stats.into_iter().collect(),
        events: MemoryEvents { max: used.failcnt, ..MemoryEvents::default() },
        swap_events: SwapEvents { max: swap.failcnt, ..SwapEvents::default() },
        pressure: None,
    }
}

/// One entry per device and operation becomes one per device.
fn upstream_io(blkio: &grpc::BlkioStats) -> Vec<IoStats> {
    let mut devices: Vec<IoStats> = Vec::new();
    let lists = [(&blkio.io_service_bytes_recursive, true), (&blkio.io_serviced_recursive, false)];
    for (entry, bytes) in lists.into_iter().flat_map(|(list, bytes)| list.iter().map(move |e| (e, bytes))) {
        let known = |device: &IoStats| (device.major, device.minor) == (entry.major, entry.minor);
        let at = devices.iter().position(known).unwrap_or_else(|| {
            devices.push(IoStats { major: entry.major, minor: entry.minor, ..IoStats::default() });
            devices.len() - 1
        });
        let device = &mut devices[at];
        let field = match (entry.op.to_ascii_lowercase().as_str(), bytes) {
            ("read", true) => &mut device.rbytes,
            ("write", true) => &mut device.wbytes,
            ("discard", true) => &mut device.dbytes,
            ("read", false) => &mut device.rios,
            ("write", false) => &mut device.wios,
            ("discard", false) => &mut device.dios,
            // Sums of these.
            _ => continue,
        };
        *field = entry.value;
    }
    devices
}

/// Its limit is not told.
fn upstream_hugetlb((page_size, pages): (String, grpc::HugetlbStats)) -> HugetlbStats {
    HugetlbStats { page_size, current: pages.usage, limit: NO_LIMIT, max_events: pages.failcnt }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_measure_stays_absent() {
        let times = kata::PressureTimes { avg10: 1.5, total_usec: 7, ..Default::default() };
        let some = kata::Pressure { some: MessageField::some(times), ..Default::default() };
        let cpu = kata::CpuStats { pressure: MessageField::some(some), ..Default::default() };
        let stats = stats(kata::StatsResponse { cpu: MessageField::some(cpu), ..Default::default() });
        let pressure = stats.cpu.pressure.unwrap();
        assert_eq!((pressure.some.avg10, pressure.some.total_usec, pressure.full), (1.5, 7, None));
        assert_eq!((stats.memory.pressure, stats.io_pressure), (None, None));
    }

    #[test]
    fn upstreams_operations_become_one_entry_per_device() {
        let entry =
            |op: &str, value| grpc::BlkioStatsEntry { major: 8, op: op.into(), value, ..Default::default() };
        let blkio = grpc::BlkioStats {
            io_service_bytes_recursive: vec![entry("Read", 512), entry("write", 1024), entry("Total", 1536)],
            io_serviced_recursive: vec![entry("read", 1), entry("Write", 2)],
            ..Default::default()
        };
        let io = upstream_io(&blkio);
        assert_eq!(io.len(), 1);
        assert_eq!((io[0].rbytes, io[0].wbytes, io[0].rios, io[0].wios), (512, 1024, 1, 2));
    }

    #[test]
    fn upstreams_zero_is_no_limit_of_processes() {
        let stats = upstream_stats(grpc::StatsContainerResponse::default());
        assert_eq!(stats.pids.limit, NO_LIMIT);
    }
}
