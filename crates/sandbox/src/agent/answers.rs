//! What the agent's answers mean in our own terms.

use kata_protocol::agent as grpc;
use kata_protocol::kata;
use ttrpc::{Code, Status};

use crate::command::{CpuStats, IoStats, MemoryEvents, MemoryStats, PidInfo, Stats};
use crate::error::{ErrorKind, SandboxError as Error};

/// An answer that is an error.
pub(super) fn refusal(action: &'static str, status: &Status) -> Error {
    let kind = match status.code() {
        Code::NOT_FOUND => ErrorKind::NotFound,
        Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Code::FAILED_PRECONDITION => ErrorKind::FailedPrecondition,
        Code::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
        Code::DEADLINE_EXCEEDED => ErrorKind::DeadlineExceeded,
        Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
        Code::UNAVAILABLE => ErrorKind::Unavailable,
        _ => ErrorKind::Unknown,
    };
    Error::Agent { action, message: status.message().to_owned(), kind }
}

/// No answer, because the connection broke.
pub(super) fn broken(action: &'static str, error: &ttrpc::Error) -> Error {
    Error::Agent {
        action,
        message: format!("the connection to it broke ({error})"),
        kind: ErrorKind::Unavailable,
    }
}

/// The agent does not know the service `kata.v1` at all. ttRPC's implementations say so in different ways; none
/// of them takes the service's name into an answer of the service itself.
pub(super) fn is_foreign(error: &Error) -> bool {
    match error {
        Error::Agent { kind: ErrorKind::Unimplemented, .. } => true,
        Error::Agent { kind: ErrorKind::NotFound | ErrorKind::InvalidArgument, message, .. } => {
            message.contains("kata.v1.Sandbox")
        }
        _ => false,
    }
}

pub(super) fn pids(answer: kata::PidsResponse) -> Vec<PidInfo> {
    let info = |pid: kata::PidInfo| PidInfo {
        pid: u32::try_from(pid.pid).unwrap_or(0),
        exec: Some(pid.exec_id).filter(|exec| !exec.is_empty()),
    };
    answer.pids.into_iter().map(info).collect()
}

pub(super) fn stats(answer: kata::StatsResponse) -> Stats {
    let cpu = answer.cpu.unwrap_or_default();
    let memory = answer.memory.unwrap_or_default();
    let events = memory.events.unwrap_or_default();
    let pids = answer.pids.unwrap_or_default();
    Stats {
        cpu: CpuStats {
            usage_usec: cpu.usage_usec,
            user_usec: cpu.user_usec,
            system_usec: cpu.system_usec,
            nr_periods: cpu.nr_periods,
            nr_throttled: cpu.nr_throttled,
            throttled_usec: cpu.throttled_usec,
        },
        memory: MemoryStats {
            usage: memory.usage,
            usage_limit: memory.usage_limit,
            swap_usage: memory.swap_usage,
            swap_limit: memory.swap_limit,
            stat: memory.stat.into_iter().collect(),
            events: MemoryEvents {
                low: events.low,
                high: events.high,
                max: events.max,
                oom: events.oom,
                oom_kill: events.oom_kill,
            },
        },
        pids: (pids.current, pids.limit),
        io: answer.io.iter().map(io).collect(),
    }
}

fn io(entry: &kata::IoEntry) -> IoStats {
    IoStats {
        major: entry.major,
        minor: entry.minor,
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        rios: entry.rios,
        wios: entry.wios,
    }
}

/// Upstream's statistics (times in nanoseconds). Its block device entries are left out: they are cgroup v1's.
pub(super) fn upstream_stats(answer: grpc::StatsContainerResponse) -> Stats {
    let cgroup = answer.cgroup_stats.unwrap_or_default();
    let cpu = cgroup.cpu_stats.unwrap_or_default();
    let usage = cpu.cpu_usage.unwrap_or_default();
    let throttling = cpu.throttling_data.unwrap_or_default();
    let memory = cgroup.memory_stats.unwrap_or_default();
    let used = memory.usage.unwrap_or_default();
    let swap = memory.swap_usage.unwrap_or_default();
    let pids = cgroup.pids_stats.unwrap_or_default();
    Stats {
        cpu: CpuStats {
            usage_usec: usage.total_usage / 1000,
            user_usec: usage.usage_in_usermode / 1000,
            system_usec: usage.usage_in_kernelmode / 1000,
            nr_periods: throttling.periods,
            nr_throttled: throttling.throttled_periods,
            throttled_usec: throttling.throttled_time / 1000,
        },
        memory: MemoryStats {
            usage: used.usage,
            usage_limit: used.limit,
            swap_usage: swap.usage,
            swap_limit: swap.limit,
            stat: memory.stats.into_iter().collect(),
            events: MemoryEvents::default(),
        },
        pids: (pids.current, pids.limit),
        io: Vec::new(),
    }
}
