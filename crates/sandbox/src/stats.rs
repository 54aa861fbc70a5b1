//! A container's consumption, in the terms of cgroup v2 as the guest's kernel counts it.
//! What it does not count is 0 or absent.

use std::collections::BTreeMap;

/// All of it. Limits of `u64::MAX` mean none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stats {
    /// CPU time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes.
    pub pids: PidsStats,
    /// Block devices.
    pub io: Vec<IoStats>,
    /// Waiting for block devices.
    pub io_pressure: Option<Pressure>,
    /// Huge pages, by their size.
    pub hugetlb: Vec<HugetlbStats>,
    /// RDMA devices.
    pub rdma: Vec<RdmaStats>,
    /// The interfaces of the pod, which all its containers share, the loopback among them.
    pub network: Vec<NetworkStats>,
}

/// CPU time in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CpuStats {
    /// All.
    pub usage_usec: u64,
    /// In user mode.
    pub user_usec: u64,
    /// In the kernel.
    pub system_usec: u64,
    /// Enforcement periods (a count).
    pub nr_periods: u64,
    /// Periods in which the container was throttled (a count).
    pub nr_throttled: u64,
    /// Time it was throttled for.
    pub throttled_usec: u64,
    /// Periods in which it used saved time (a count).
    pub nr_bursts: u64,
    /// Saved time it used.
    pub burst_usec: u64,
    /// Waiting for a CPU.
    pub pressure: Option<Pressure>,
}

/// How long processes waited for something (PSI).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// At least one of them.
    pub some: PressureTimes,
    /// All of them; older kernels do not say so of the CPU.
    pub full: Option<PressureTimes>,
}

/// Waiting in the recent past, and all of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PressureTimes {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last 5 minutes.
    pub avg300: f64,
    /// Microseconds.
    pub total_usec: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MemoryStats {
    /// In use.
    pub usage: u64,
    /// Limit.
    pub usage_limit: u64,
    /// The most that was in use.
    pub usage_peak: u64,
    /// Swap in use.
    pub swap_usage: u64,
    /// Limit of swap.
    pub swap_limit: u64,
    /// The most swap that was in use.
    pub swap_peak: u64,
    /// The guest's `memory.stat`, by its own names.
    pub stat: BTreeMap<String, u64>,
    /// The guest's `memory.events`, as counts.
    pub events: MemoryEvents,
    /// The guest's `memory.swap.events`, as counts.
    pub swap_events: SwapEvents,
    /// Waiting for memory.
    pub pressure: Option<Pressure>,
}

/// Counts of what happened to a container's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEvents {
    /// Reclaimed below the low boundary.
    pub low: u64,
    /// Throttled at the high boundary.
    pub high: u64,
    /// Came to the limit.
    pub max: u64,
    /// Could not be reclaimed below the limit.
    pub oom: u64,
    /// Processes killed for it.
    pub oom_kill: u64,
    /// Times the whole container was killed for it.
    pub oom_group_kill: u64,
}

/// Counts of what happened to a container's swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwapEvents {
    /// Came to the high boundary.
    pub high: u64,
    /// Came to the limit.
    pub max: u64,
    /// Got none, for the limit or because there was none.
    pub fail: u64,
}

/// Numbers of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// Limit.
    pub limit: u64,
}

/// One block device's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IoStats {
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// The guest's name of it, without its folder; may be empty.
    pub device: String,
    /// Bytes read.
    pub rbytes: u64,
    /// Bytes written.
    pub wbytes: u64,
    /// Bytes discarded.
    pub dbytes: u64,
    /// Read requests.
    pub rios: u64,
    /// Write requests.
    pub wios: u64,
    /// Discard requests.
    pub dios: u64,
}

/// Bytes in huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HugetlbStats {
    /// As in the names of the cgroup's files, for example `2MB`.
    pub page_size: String,
    /// In use.
    pub current: u64,
    /// Limit.
    pub limit: u64,
    /// How often the limit refused a page.
    pub max_events: u64,
}

/// Handles and objects of one RDMA device. Limits of `u32::MAX` mean none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RdmaStats {
    /// Its name.
    pub device: String,
    /// In use.
    pub hca_handles: u32,
    /// In use.
    pub hca_objects: u32,
    /// Limit.
    pub hca_handles_limit: u32,
    /// Limit.
    pub hca_objects_limit: u32,
}

/// One network interface's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkStats {
    /// Its name in the guest.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors of receiving.
    pub rx_errors: u64,
    /// Received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors of sending.
    pub tx_errors: u64,
    /// Dropped instead of sent.
    pub tx_dropped: u64,
}
