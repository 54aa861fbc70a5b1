//! Disks that grow with the host's block devices (`volumeMode: Block` after the claim was expanded): the guest hears of it from
//! its disk, and what is in it is its container's business.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use kata_storage::block::{DeviceChanges, device_size};
use kata_vmm::VmmError;
use tokio_util::task::AbortOnDropHandle;

use super::Disks;
use crate::error::chain;
use crate::host::Machine;

/// Whoever lets the disks of one VM grow, from the first block device on.
#[derive(Default)]
pub(crate) struct Growth(OnceLock<AbortOnDropHandle<()>>);

impl Growth {
    /// Once one of the disks is a block device.
    pub(crate) fn follow(&self, disks: &Arc<Disks>, machine: &Arc<Machine>) {
        if !disks.devices().is_empty() {
            let (disks, machine) = (Arc::clone(disks), Arc::downgrade(machine));
            self.0.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(follow(disks, machine))));
        }
    }
}

/// Until the VM has gone.
async fn follow(disks: Arc<Disks>, machine: Weak<Machine>) {
    let mut changes = match DeviceChanges::new() {
        Ok(changes) => changes,
        Err(error) => {
            tracing::warn!(%error, "Disks of the VM do not grow with the host's block devices");
            return;
        }
    };
    let mut told = HashMap::new();
    loop {
        // What has changed before anybody listened, too.
        let Some(machine) = machine.upgrade() else { return };
        let Some(vm) = machine.vmm.disk_hotplug() else { return };
        for (number, slot) in disks.devices() {
            let Ok(bytes) = device_size(number) else { continue };
            if told.get(&number) == Some(&bytes) {
                continue;
            }
            match slot.lock().await.grow(bytes, vm).await {
                Ok(()) => drop(told.insert(number, bytes)),
                Err(VmmError::Gone(_)) => return,
                // It is persistent memory, of layers.
                Err(VmmError::Disk { .. }) => drop(told.insert(number, bytes)),
                Err(error) => {
                    told.insert(number, bytes);
                    tracing::warn!(
                        error = chain(&error),
                        bytes,
                        "A disk keeps the size that it has in the VM"
                    );
                }
            }
        }
        drop(machine);
        if let Err(error) = changes.next().await {
            tracing::warn!(%error, "Disks of the VM do not grow with the host's block devices any more");
            return;
        }
    }
}
