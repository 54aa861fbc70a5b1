//! The guest's NUMA nodes: on QEMU's command line, and where the threads of their virtual CPUs run.

use rustix::thread::CpuSet;

use super::qmp::VcpuThread;
use crate::numa::Numa;

/// The values of `-numa`: nodes with memory, the nodes of all virtual CPUs that there may be, distances.
pub(super) fn options(numa: &Numa, max_vcpus: u32) -> Vec<String> {
    if numa.is_none() {
        return Vec::new();
    }
    let nodes = numa.numbers().map(|node| format!("node,nodeid={node},memdev=mem{node}"));
    // Each virtual CPU is a socket.
    let cpus = (0..max_vcpus).map(|vcpu| format!("cpu,node-id={},socket-id={vcpu}", numa.of_vcpu(vcpu)));
    let distances = numa.0.iter().zip(0..).flat_map(|(from, src)| {
        let others = from.distances.iter().enumerate().filter(move |(dst, _)| *dst != src);
        others.map(move |(dst, val)| format!("dist,src={src},dst={dst},val={val}"))
    });
    nodes.chain(cpus).chain(distances).collect()
}

/// The CPUs of the host for a thread: those of the nodes of all virtual CPUs that it runs, as far as they are among `all`.
pub(super) fn cpus(numa: &Numa, thread: i32, threads: &[VcpuThread], all: &CpuSet) -> CpuSet {
    let mut found = CpuSet::new();
    for vcpu in threads.iter().filter(|vcpu| vcpu.thread_id == thread) {
        let node = u32::try_from(vcpu.cpu_index).ok().and_then(|vcpu| numa.0.get(numa.of_vcpu(vcpu)));
        let of_node =
            node.into_iter().flat_map(|node| &node.host_cpus).filter_map(|cpu| usize::try_from(*cpu).ok());
        of_node.filter(|cpu| *cpu < CpuSet::MAX_CPU && all.is_set(*cpu)).for_each(|cpu| found.set(cpu));
    }
    if found.count() == 0 { *all } else { found }
}
