//! The VM's CPUs in the pod's cgroup, where only they are to be there (`sandbox_cgroup_only = false`), and on the CPUs of
//! their NUMA nodes.

use std::io;
use std::sync::Arc;

use kata_vmm::VmmError;

use crate::error::chain;
use crate::host::Machine;
use crate::numa;

/// A CPU stays where the VMM was started.
#[derive(Debug, thiserror::Error)]
enum Misplaced {
    #[error("The VMM does not tell its CPUs' threads")]
    Unknown(#[from] VmmError),
    #[error("The host's kernel does not let a CPU's thread into the cgroup")]
    Refused(#[from] io::Error),
}

/// Puts all CPUs that there are where they belong, in the host's cgroups and on its CPUs. What fails is told in the log: the
/// VM runs, and what its CPUs use is not counted with the pod.
pub(crate) async fn place(machine: Arc<Machine>) {
    if machine.cgroup.takes_vcpus()
        && let Err(error) = try_place(&machine).await
    {
        tracing::warn!(error = chain(&error), "The VM's CPUs are not in the pod's cgroup");
    }
    // A cgroup may have changed where they run.
    numa::place(&machine).await;
}

async fn try_place(machine: &Machine) -> Result<(), Misplaced> {
    let threads = machine.vmm.vcpu_threads().await?;
    let cgroup = machine.cgroup.clone();
    // The kernel takes its time, in which nobody else need wait.
    let placed = tokio::task::spawn_blocking(move || cgroup.take_vcpus(&threads));
    Ok(placed.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))?)
}
