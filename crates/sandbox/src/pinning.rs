//! The VM runs on the CPUs of the host that its containers name, and each of its virtual CPUs on one of its own if that is
//! asked for and there are as many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kata_vmm::Affinity;
use tokio::sync::watch;

use crate::ContainerId;
use crate::cpuset::Cpus;
use crate::driver::{Driver, Stage};
use crate::error::chain;
use crate::host::Machine;

/// Who sees to that. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pinning {
    table: Arc<Mutex<Table>>,
    /// Virtual CPUs are to have CPUs of their own.
    is_each: bool,
}

#[derive(Default)]
struct Table {
    /// The CPUs of each container that names some.
    sets: HashMap<ContainerId, Cpus>,
    /// What the task shall see to; none while there is no task.
    wish: Option<watch::Sender<Affinity>>,
}

impl Pinning {
    /// The VM runs wherever it may.
    pub(crate) fn new(is_each: bool) -> Self {
        Self { table: Arc::default(), is_each }
    }

    /// The container may run on these CPUs from now on; `None`: on all of them.
    pub(crate) fn set(&self, container: &ContainerId, cpus: Option<Cpus>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match cpus {
            Some(cpus) => drop(table.sets.insert(container.clone(), cpus)),
            None => drop(table.sets.remove(container)),
        }
    }

    /// Sees to it, in its own time, for a VM that uses so many CPUs.
    pub(crate) fn apply(&self, machine: &Arc<Machine>, vcpus: u32) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let cpus: Cpus = table.sets.values().flatten().copied().collect();
        let wish = Affinity { cpus: cpus.into_iter().collect(), each: self.is_each.then_some(vcpus) };
        match &table.wish {
            Some(wishes) => drop(wishes.send_replace(wish)),
            // A VM whose containers name no CPUs is as it was made.
            None if wish.cpus.is_empty() => {}
            None => {
                let (wishes, changes) = watch::channel(wish);
                table.wish = Some(wishes);
                tokio::spawn(follow(Arc::clone(machine), changes));
            }
        }
    }
}

impl Driver {
    /// How many virtual CPUs the VM uses, or is about to.
    pub(crate) fn vcpus(&self) -> u32 {
        let boot = self.sizing.plan().boot.size;
        match &self.stage {
            Stage::Running(running) if !running.reach.agent.is_foreign() => {
                self.sizing.target(running.reach.machine.most).vcpus
            }
            _ => boot.vcpus,
        }
    }

    /// A container has gone.
    pub(crate) fn unpin(&self, container: &ContainerId) {
        self.pinning.set(container, None);
        self.repin();
    }

    /// Lets the VM's threads follow the containers that there are.
    pub(crate) fn repin(&self) {
        if let Stage::Running(running) = &self.stage {
            self.pinning.apply(&running.reach.machine, self.vcpus());
        }
    }
}

async fn follow(machine: Arc<Machine>, mut changes: watch::Receiver<Affinity>) {
    let mut done = Some(Affinity::default());
    loop {
        let wish = changes.borrow_and_update().clone();
        if done.as_ref() != Some(&wish)
            && let Some(vm) = machine.vmm.resize()
        {
            match vm.set_affinity(&wish).await {
                Ok(is_pinned) => {
                    tracing::debug!(is_pinned, ?wish, "Where the VM runs");
                    done = Some(wish);
                }
                Err(error) => {
                    // Who wishes the same again has it tried again.
                    done = None;
                    tracing::warn!(error = chain(&error), cpus = ?wish.cpus, "The VM does not run where it is to");
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
