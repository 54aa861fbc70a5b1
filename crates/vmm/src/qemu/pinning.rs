//! Which CPUs of the host QEMU's threads run on.

use std::collections::HashSet;
use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::lifecycle::Qemu;
use super::numa;
use super::qmp::{QueryCpusFast, VcpuThread};
use crate::vmm::{Affinity, Vmm, VmmError};

/// Where the threads run.
#[derive(Debug)]
pub(super) struct Placed {
    cpus: CpuSet,
    /// Each virtual CPU has one of its own.
    is_pinned: bool,
}

impl Default for Placed {
    fn default() -> Self {
        Self { cpus: set(&[]), is_pinned: false }
    }
}

impl Qemu {
    /// Whether each virtual CPU has one of its own.
    pub(super) async fn bind(&self, Affinity { cpus, each }: &Affinity) -> Result<bool, VmmError> {
        let all = set(cpus);
        bind_all(self.pid(), &all).map_err(failed)?;
        let threads = self.vcpus().await?;
        let own = each.filter(|_| !cpus.is_empty()).and_then(|vcpus| own_threads(&threads, vcpus));
        let own = own.filter(|threads| threads.len() == cpus.len());
        let mut placed = self.placed();
        *placed = Placed { cpus: all, is_pinned: own.is_some() };
        let Some(own) = own else {
            self.bind_to_nodes_of(&threads, &all)?;
            return Ok(false);
        };
        for (thread, cpu) in own.into_iter().zip(cpus) {
            bind(thread, &set(&[*cpu])).map_err(failed)?;
        }
        Ok(true)
    }

    /// Lets virtual CPUs of nodes run on the CPUs of these, unless they are pinned.
    pub(super) async fn bind_to_nodes(&self) -> Result<(), VmmError> {
        if self.limits().numa.is_none() {
            return Ok(());
        }
        let threads = self.vcpus().await?;
        let placed = self.placed();
        if placed.is_pinned { Ok(()) } else { self.bind_to_nodes_of(&threads, &placed.cpus) }
    }

    fn bind_to_nodes_of(&self, threads: &[VcpuThread], all: &CpuSet) -> Result<(), VmmError> {
        let nodes = &self.limits().numa;
        let threads_of_nodes = threads.iter().filter(|_| !nodes.is_none());
        for VcpuThread { thread_id, .. } in threads_of_nodes {
            bind(*thread_id, &numa::cpus(nodes, *thread_id, threads, all)).map_err(failed)?;
        }
        Ok(())
    }

    async fn vcpus(&self) -> Result<Vec<VcpuThread>, VmmError> {
        let mut threads = self.client().await?.execute(QueryCpusFast {}).await?;
        threads.sort_by_key(|thread| thread.cpu_index);
        Ok(threads)
    }
}

fn failed(source: io::Error) -> VmmError {
    VmmError::Affinity { source }
}

/// All threads of a process: who comes meanwhile has what its maker had, which may be of before.
fn bind_all(pid: u32, cpus: &CpuSet) -> io::Result<()> {
    let mut bound = HashSet::new();
    loop {
        let threads: Vec<i32> = fs::read_dir(format!("/proc/{pid}/task"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|thread| !bound.contains(thread))
            .collect();
        if threads.is_empty() {
            return Ok(());
        }
        for thread in threads {
            bind(thread, cpus)?;
            bound.insert(thread);
        }
    }
}

fn bind(thread: i32, cpus: &CpuSet) -> io::Result<()> {
    let id = Pid::from_raw(thread).ok_or(Errno::SRCH)?;
    match sched_setaffinity(Some(id), cpus) {
        // It has ended, as threads of a pool do.
        Err(Errno::SRCH) => Ok(()),
        done => Ok(done?),
    }
}

/// All that there may be, if none is named: the kernel keeps to those of the cgroup.
fn set(cpus: &[u32]) -> CpuSet {
    let mut set = CpuSet::new();
    let all = 0..CpuSet::MAX_CPU;
    match cpus {
        [] => all.for_each(|cpu| set.set(cpu)),
        some => some
            .iter()
            .filter_map(|cpu| usize::try_from(*cpu).ok().filter(|cpu| all.contains(cpu)))
            .for_each(|cpu| set.set(cpu)),
    }
    set
}

/// The threads of the first virtual CPUs, unless some take turns on one: emulation by an older QEMU.
fn own_threads(threads: &[VcpuThread], vcpus: u32) -> Option<Vec<i32>> {
    let first = threads.get(..usize::try_from(vcpus).ok()?)?;
    let mut ids: Vec<_> = threads.iter().map(|thread| thread.thread_id).collect();
    ids.sort_unstable();
    ids.dedup();
    (ids.len() == threads.len()).then(|| first.iter().map(|thread| thread.thread_id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(ids: &[i32]) -> Vec<VcpuThread> {
        let thread = |(index, id): (u64, &i32)| VcpuThread { cpu_index: index, thread_id: *id };
        (0..).zip(ids).map(thread).collect()
    }

    #[test]
    fn only_virtual_cpus_in_use_with_threads_of_their_own_count() {
        assert_eq!(own_threads(&threads(&[7, 8]), 2), Some(vec![7, 8]));
        assert_eq!(own_threads(&threads(&[7, 8]), 1), Some(vec![7]), "the other is left off");
        assert_eq!(own_threads(&threads(&[7, 7]), 2), None, "they take turns");
        assert_eq!(own_threads(&threads(&[7]), 2), None);
    }
}
