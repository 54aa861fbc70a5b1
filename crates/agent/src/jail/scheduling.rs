//! How a process is scheduled: `process.scheduler`, `process.ioPriority` and `process.execCPUAffinity` (OCI `config.md`,
//! "Linux Process").

use kata_protocol::oci;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::error::{JailError, Named, Result};
use super::sys::{self, Scheduling};

/// Policies by their names, from linux/sched.h.
const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// Flags by their names, from linux/sched.h.
const FLAGS: [(&str, u64); 8] = [
    ("SCHED_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// Classes of I/O by their names, from linux/ioprio.h.
const CLASSES: [(&str, i32); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// Levels within a class.
const LEVELS: std::ops::RangeInclusive<i64> = 0..=7;

/// Schedules a process, or this one, as its specification says.
pub(super) fn set(pid: Option<Pid>, process: &oci::Process) -> Result<()> {
    let number = pid.map_or(0, |pid| pid.as_raw_nonzero().get());
    if let Some(scheduler) = process.Scheduler.as_ref() {
        sys::schedule(number, scheduling(scheduler)?).step(
            "set process.scheduler; does the kernel have this policy, and the container's cgroup allow it?",
        )?;
    }
    if let Some(priority) = process.IOPriority.as_ref() {
        let (class, level) = io_priority(priority)?;
        sys::prioritize_io(number, class, level).step("set process.ioPriority")?;
    }
    Ok(())
}

fn scheduling(scheduler: &oci::Scheduler) -> Result<Scheduling> {
    let flags = scheduler.Flags.iter().map(|flag| known("flag of process.scheduler", flag, &FLAGS));
    let priority = u32::try_from(scheduler.Priority).map_err(|_| {
        JailError::Refused(format!(
            "A priority of {} is not possible; correct process.scheduler",
            scheduler.Priority
        ))
    })?;
    Ok(Scheduling {
        policy: known("policy of process.scheduler", &scheduler.Policy, &POLICIES)?,
        flags: flags.sum::<Result<u64>>()?,
        nice: scheduler.Nice,
        priority,
        runtime: scheduler.Runtime,
        deadline: scheduler.Deadline,
        period: scheduler.Period,
        ..Scheduling::default()
    })
}

fn io_priority(priority: &oci::LinuxIOPriority) -> Result<(i32, i32)> {
    let class = known("class of process.ioPriority", &priority.Class, &CLASSES)?;
    match i32::try_from(priority.Priority) {
        Ok(level) if LEVELS.contains(&priority.Priority) => Ok((class, level)),
        _ => Err(JailError::Refused(format!(
            "A priority of {} is not possible; correct process.ioPriority to one from {} to {}",
            priority.Priority,
            LEVELS.start(),
            LEVELS.end()
        ))),
    }
}

fn known<T: Copy>(what: &str, name: &str, table: &[(&str, T)]) -> Result<T> {
    let found = table.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| JailError::Refused(format!("There is no {what} {name:?}; correct it")))
}

/// Binds this process to CPUs, given as `0-3,7`; an empty list changes nothing.
pub(super) fn bind(cpus: &str) -> Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let set = cpu_set(cpus).ok_or_else(|| {
        JailError::Refused(format!("{cpus:?} is no list of CPUs; correct process.execCPUAffinity"))
    })?;
    sched_setaffinity(None, &set).step(&format!("run on the CPUs {cpus} of process.execCPUAffinity"))
}

fn cpu_set(cpus: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for range in cpus.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use kata_protocol::oci;

    use super::{cpu_set, io_priority, scheduling};

    #[test]
    fn a_scheduler_is_read_by_its_names() {
        let flags = ["SCHED_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"].map(str::to_owned).to_vec();
        let scheduler =
            oci::Scheduler { Policy: "SCHED_RR".to_owned(), Priority: 3, Flags: flags, ..Default::default() };
        let read = scheduling(&scheduler).expect("known");
        assert_eq!((read.policy, read.priority, read.flags), (2, 3, 3));
    }

    #[test]
    fn an_unknown_policy_is_named() {
        let scheduler = oci::Scheduler { Policy: "SCHED_MAGIC".to_owned(), ..Default::default() };
        assert!(scheduling(&scheduler).expect_err("unknown").to_string().contains("SCHED_MAGIC"));
    }

    #[test]
    fn io_priorities_have_eight_levels() {
        let of = |priority| oci::LinuxIOPriority {
            Class: "IOPRIO_CLASS_IDLE".to_owned(),
            Priority: priority,
            ..Default::default()
        };
        assert_eq!(io_priority(&of(7)).expect("possible"), (3, 7));
        io_priority(&of(8)).expect_err("one too many");
    }

    #[test]
    fn cpus_are_numbers_and_ranges() {
        let set = cpu_set("0-2,5").expect("a list");
        let bound: Vec<usize> = (0..8).filter(|cpu| set.is_set(*cpu)).collect();
        assert_eq!(bound, [0, 1, 2, 5]);
        for wrong in ["", "x", "3-1", "0,", "99999"] {
            assert!(cpu_set(wrong).is_none(), "{wrong:?} was taken");
        }
    }
}
