//! The tables of all families that are read from `/proc`, under upstream's names. What they tell unasked keeps a scrape small:
//! figures that others say, too, and those of single devices on the host, are for who asks.

use crate::family::{Family, Told};

use Told::{Always, Items, WhenAsked};

/// Where a process's family comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `fd`, counted.
    Fds,
    /// `stat`: threads.
    Threads,
    /// `io`, by item.
    Io,
    /// `net/dev`, by interface and item.
    NetDev,
    /// `stat`: times in ticks, by item.
    Times,
    /// `status`, by item.
    Status,
    /// `stat`: user and system time in seconds.
    CpuSeconds,
    /// `limits`: open files.
    MaxFds,
    /// `status`: resident memory in bytes.
    Resident,
    /// `stat`: when it began.
    StartTime,
    /// `status`: address space in bytes.
    Virtual,
    /// `limits`: address space in bytes.
    VirtualMax,
}

type Row = (Source, Family);

const STATUS: &str = "Process status, memory in KiB.";
const TIMES: &str = "Process times in clock ticks.";
const IO: &str = "Process I/O statistics.";
const NET: &str = "Traffic of the process's network namespace.";
const CPU: &str = "User and system CPU time in seconds.";
const RESIDENT: &str = "Resident memory in bytes.";
const BEGAN: &str = "Start time since the epoch in seconds.";
const SPACE: &str = "Virtual memory in bytes.";
const SPACE_LIMIT: &str = "Limit of virtual memory in bytes.";
const FDS: &str = "Open file descriptors.";
const FDS_LIMIT: &str = "Limit of open file descriptors.";
const THREADS: &str = "Threads.";

/// Of memory, what is in use and where it comes from.
const MEMORY: Told = Items("vmrss vmhwm rssanon rssfile rssshmem vmswap");
const TRANSFERS: Told = Items("rchar wchar read_bytes write_bytes");

static SHIM: [Row; 13] = [
    (Source::CpuSeconds, Family::counter("kata_shim_process_cpu_seconds_total", CPU, Always)),
    (Source::Resident, Family::gauge("kata_shim_process_resident_memory_bytes", RESIDENT, Always)),
    (Source::Fds, Family::gauge("kata_shim_process_open_fds", FDS, Always)),
    (Source::Threads, Family::gauge("kata_shim_threads", THREADS, Always)),
    (Source::Io, Family::gauge("kata_shim_io_stat", IO, TRANSFERS)),
    (Source::Status, Family::gauge("kata_shim_proc_status", STATUS, MEMORY)),
    (Source::Fds, Family::gauge("kata_shim_fds", FDS, WhenAsked)),
    (Source::MaxFds, Family::gauge("kata_shim_process_max_fds", FDS_LIMIT, WhenAsked)),
    (Source::StartTime, Family::gauge("kata_shim_process_start_time_seconds", BEGAN, WhenAsked)),
    (Source::Virtual, Family::gauge("kata_shim_process_virtual_memory_bytes", SPACE, WhenAsked)),
    (Source::VirtualMax, Family::gauge("kata_shim_process_virtual_memory_max_bytes", SPACE_LIMIT, WhenAsked)),
    (Source::Times, Family::gauge("kata_shim_proc_stat", TIMES, WhenAsked)),
    (Source::NetDev, Family::gauge("kata_shim_netdev", NET, WhenAsked)),
];

static HYPERVISOR: [Row; 6] = [
    (Source::Fds, Family::gauge("kata_hypervisor_fds", FDS, Always)),
    (Source::Threads, Family::gauge("kata_hypervisor_threads", THREADS, Always)),
    (Source::Io, Family::gauge("kata_hypervisor_io_stat", IO, TRANSFERS)),
    (Source::Times, Family::gauge("kata_hypervisor_proc_stat", TIMES, Items("utime stime"))),
    (Source::Status, Family::gauge("kata_hypervisor_proc_status", STATUS, MEMORY)),
    (Source::NetDev, Family::gauge("kata_hypervisor_netdev", NET, WhenAsked)),
];

static AGENT: [Row; 12] = [
    (Source::CpuSeconds, Family::counter("kata_agent_process_cpu_seconds_total", CPU, Always)),
    (Source::Resident, Family::gauge("kata_agent_process_resident_memory_bytes", RESIDENT, Always)),
    (Source::Fds, Family::gauge("kata_agent_process_open_fds", FDS, Always)),
    (Source::Io, Family::gauge("kata_agent_io_stat", IO, TRANSFERS)),
    (Source::MaxFds, Family::gauge("kata_agent_process_max_fds", FDS_LIMIT, WhenAsked)),
    (Source::StartTime, Family::gauge("kata_agent_process_start_time_seconds", BEGAN, WhenAsked)),
    (Source::Virtual, Family::gauge("kata_agent_process_virtual_memory_bytes", SPACE, WhenAsked)),
    (Source::Times, Family::gauge("kata_agent_proc_stat", TIMES, WhenAsked)),
    (Source::Status, Family::gauge("kata_agent_proc_status", STATUS, WhenAsked)),
    (Source::CpuSeconds, Family::gauge("kata_agent_total_time", CPU, WhenAsked)),
    (Source::Resident, Family::gauge("kata_agent_total_rss", RESIDENT, WhenAsked)),
    (Source::Virtual, Family::gauge("kata_agent_total_vm", SPACE, WhenAsked)),
];

/// The shim's families.
#[must_use]
pub fn shim() -> &'static [Row] {
    &SHIM
}

/// The VMM's.
#[must_use]
pub fn hypervisor() -> &'static [Row] {
    &HYPERVISOR
}

/// The agent's.
#[must_use]
pub fn agent() -> &'static [Row] {
    &AGENT
}

/// How names of the guest's families begin.
pub const GUEST: &str = "kata_guest_";

/// The guest's families, in the order of [`GUEST_FAMILIES`].
pub(crate) static CPU_TIME: Family = GUEST_FAMILIES[0];
pub(crate) static LOAD: Family = GUEST_FAMILIES[1];
pub(crate) static TASKS: Family = GUEST_FAMILIES[2];
pub(crate) static MEMINFO: Family = GUEST_FAMILIES[3];
pub(crate) static VM_STAT: Family = GUEST_FAMILIES[4];
pub(crate) static NETDEV: Family = GUEST_FAMILIES[5];
pub(crate) static DISKS: Family = GUEST_FAMILIES[6];

/// The guest kernel's families.
pub const GUEST_FAMILIES: [Family; 7] = [
    Family::gauge(
        "kata_guest_cpu_time",
        "CPU time in clock ticks.",
        Items("user nice system idle iowait irq softirq steal"),
    ),
    Family::gauge("kata_guest_load", "Load averages.", Always),
    Family::gauge("kata_guest_tasks", "Tasks that can run (cur) and all (max).", Always),
    Family::gauge(
        "kata_guest_meminfo",
        "Memory in KiB.",
        Items(
            "mem_total mem_free mem_available buffers cached anon_pages shmem slab dirty swap_total swap_free",
        ),
    ),
    Family::gauge(
        "kata_guest_vm_stat",
        "Virtual memory statistics.",
        Items("pgfault pgmajfault pswpin pswpout oom_kill"),
    ),
    Family::gauge(
        "kata_guest_netdev_stat",
        "Traffic of the guest's interfaces.",
        Items("recv_bytes recv_packets recv_errs recv_drop sent_bytes sent_packets sent_errs sent_drop"),
    ),
    Family::gauge(
        "kata_guest_diskstat",
        "Disk statistics, times in ms.",
        Items("reads sectors_read writes sectors_written time_in_progress"),
    ),
];
