//! The disks of a VM: each is plugged in once, however many of the pod's containers use it, and taken out with the last of
//! them.
//!
//! What stands for a disk on the host is a descriptor that the VMM has. So there is nothing to undo when the VMM has gone,
//! and nothing is announced.

mod sizes;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::{HashMap, HashSet};
use std::mem;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kata_config::{BlockAio, BlockDevices, BlockDriver, SectorSize};
use kata_protocol::guest;
use kata_storage::block::{DiskError, DiskImage, DiskKey};
use kata_vmm::{
    BlockSize, Disk, DiskAddress, DiskAio, DiskAttachment, DiskCache, DiskHotplug, DiskLimits, VmmError,
};

use crate::ContainerId;
use crate::error::chain;

pub(crate) use sizes::Growth;
pub(crate) use wanted::{Roots, Wanted, driver, storage};

/// A disk could not be given to the VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskFailure {
    /// It cannot be opened, or is somebody else's.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The VMM cannot.
    #[error(
        "This hypervisor cannot be given disks while it runs: set `disable_block_device_use = true`, or use another \
         hypervisor"
    )]
    NoHotplug,
    /// The VMM would not.
    #[error("The disk {path:?} could not be given to the VM")]
    Plug {
        /// Where it is on the host.
        path: PathBuf,
        /// Why not.
        source: VmmError,
    },
    /// Another container of the pod has it already, only to read.
    #[error(
        "The disk {path:?} is in this pod already, but read-only: give it to all of the pod's containers to write, or to none"
    )]
    ReadOnly {
        /// Where it is on the host.
        path: PathBuf,
    },
    /// The guest has been asked to let go of it and has not yet.
    #[error(
        "The disk {path:?} is still leaving the VM after another container: try again when the guest has let go of it"
    )]
    Leaving {
        /// Where it is on the host.
        path: PathBuf,
        /// Why it is still there.
        source: VmmError,
    },
    /// The opening thread has died.
    #[error("The disk {path:?} was not opened: the runtime is ending")]
    Ending {
        /// Where it is on the host.
        path: PathBuf,
    },
}

/// How disks are attached.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    pub(crate) attachment: DiskAttachment,
    pub(crate) cache: DiskCache,
    pub(crate) aio: DiskAio,
    pub(crate) limits: DiskLimits,
    pub(crate) block_size: Option<BlockSize>,
    pub(crate) queues: u16,
    pub(crate) queue_size: u16,
}

impl Manner {
    /// As the configuration says.
    pub(crate) fn of(config: &BlockDevices) -> Self {
        let attachment = match config.driver {
            BlockDriver::VirtioBlk => DiskAttachment::Blk,
            BlockDriver::VirtioScsi => DiskAttachment::Scsi,
            BlockDriver::VirtioPmem => DiskAttachment::Pmem,
        };
        let aio = match config.aio {
            BlockAio::Threads => DiskAio::Threads,
            BlockAio::Native => DiskAio::Native,
            BlockAio::IoUring => DiskAio::IoUring,
        };
        let cache = DiskCache { direct: config.cache_direct, no_flush: config.cache_no_flush };
        let limits = DiskLimits { bytes: config.bytes_per_second, ops: config.ops_per_second };
        let size = |size: SectorSize| BlockSize { logical: size.logical, physical: size.physical };
        let block_size = config.sector_size.map(size);
        let (queues, queue_size) = (config.queues, config.queue_size);
        Self { attachment, cache, aio, limits, block_size, queues, queue_size }
    }
}

/// All disks of one VM.
pub(crate) struct Disks {
    manner: Manner,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// One for each disk; only one operation at a time works on it.
    slots: HashMap<DiskKey, Arc<tokio::sync::Mutex<Slot>>>,
    /// The disks of each container, in the order in which it got them.
    held: HashMap<ContainerId, Vec<DiskKey>>,
    /// How many there have been.
    made: u64,
    /// How many containers had layers.
    layered: u64,
}

#[derive(Default)]
struct Slot {
    attached: Option<Attached>,
    /// The VM may lose it at any moment: the guest has been asked for it and has not answered.
    is_leaving: bool,
    /// It is resized by requests only, as direct-assigned volumes are, which were looked at before.
    is_assigned: bool,
    holders: HashSet<ContainerId>,
}

struct Attached {
    /// Its name, as the VMM knows it.
    id: String,
    read_only: bool,
    /// `None` while the VM has not been started with it.
    address: Option<DiskAddress>,
}

impl Disks {
    pub(crate) fn new(manner: Manner) -> Self {
        Self { manner, table: Mutex::default() }
    }

    /// Those of `images` that can be opened, for a VM that is to be started with them. Why others cannot is told to whoever
    /// wants them attached. To be called before anything is attached; it blocks.
    pub(crate) fn planned(&self, images: &[DiskImage]) -> Vec<Disk> {
        let mut planned = Vec::new();
        for image in images {
            let Ok(key) = image.key() else { continue };
            if self.table().slots.contains_key(&key) {
                continue;
            }
            let Ok(file) = image.open() else { continue };
            let id = self.table().plan(key, image.read_only);
            planned.push(self.disk(id, file, image.read_only));
        }
        planned
    }

    /// A directory in the guest for the layers of one more container.
    pub(crate) fn layers(&self) -> PathBuf {
        let mut table = self.table();
        table.layered += 1;
        Path::new(guest::LAYERS_DIR).join(table.layered.to_string())
    }

    /// Where `image` is in the VM, for `container`, until [`Disks::detach`].
    pub(crate) async fn attach(
        &self,
        container: &ContainerId,
        image: &DiskImage,
        vm: &dyn DiskHotplug,
    ) -> Result<DiskAddress, DiskFailure> {
        let key = of_host(image, DiskImage::key).await?;
        let slot = self.table().hold(container, key);
        let mut slot = slot.lock().await;
        if slot.is_leaving {
            let left = slot.unplug(Some(vm)).await;
            left.map_err(|source| DiskFailure::Leaving { path: image.path.clone(), source })?;
        }
        let address = match &slot.attached {
            Some(attached) if attached.read_only && !image.read_only => {
                return Err(DiskFailure::ReadOnly { path: image.path.clone() });
            }
            Some(attached) => attached.address.clone().or_else(|| vm.disk_address(&attached.id)),
            None => None,
        };
        let address = match address {
            Some(address) => address,
            None => self.plug(&mut slot, image, vm).await?,
        };
        slot.is_assigned |= image.found.is_some();
        slot.holders.insert(container.clone());
        Ok(address)
    }

    /// The name of `image` in the VM, if that has it.
    pub(crate) async fn name(&self, image: &DiskImage) -> Option<String> {
        let key = of_host(image, DiskImage::key).await.ok()?;
        let slot = self.table().slots.get(&key).cloned()?;
        let slot = slot.lock().await;
        slot.attached.as_ref().filter(|_| !slot.is_leaving).map(|attached| attached.id.clone())
    }

    async fn plug(
        &self,
        slot: &mut Slot,
        image: &DiskImage,
        vm: &dyn DiskHotplug,
    ) -> Result<DiskAddress, DiskFailure> {
        let file = of_host(image, DiskImage::open).await?;
        let id = self.table().next();
        let added = vm.add_disk(self.disk(id.clone(), file, image.read_only)).await;
        let address = added.map_err(|source| DiskFailure::Plug { path: image.path.clone(), source })?;
        slot.attached = Some(Attached { id, read_only: image.read_only, address: Some(address.clone()) });
        Ok(address)
    }

    /// Gives the VM a disk to swap to, which stays.
    pub(crate) async fn plug_swap(
        &self,
        id: String,
        file: OwnedFd,
        vm: Option<&dyn DiskHotplug>,
    ) -> Result<DiskAddress, DiskFailure> {
        let vm = vm.ok_or(DiskFailure::NoHotplug)?;
        let added = vm.add_disk(self.disk(id, file, false)).await;
        added.map_err(|source| DiskFailure::Plug { path: "swap".into(), source })
    }

    /// Takes a disk out again that the guest does not swap to.
    pub(crate) async fn unplug_swap(&self, id: &str, vm: Option<&dyn DiskHotplug>) {
        if let Some(vm) = vm
            && let Err(error) = vm.remove_disk(id).await
        {
            tracing::warn!(error = chain(&error), "A disk to swap to stays in its VM");
        }
    }

    /// Takes out what only `container` has used. A guest that does not let go of a disk keeps it until the VM's end.
    pub(crate) async fn detach(&self, container: &ContainerId, vm: Option<&dyn DiskHotplug>) {
        let keys = self.table().held.remove(container).unwrap_or_default();
        for key in keys.into_iter().rev() {
            let Some(slot) = self.table().slots.get(&key).cloned() else { continue };
            let mut locked = slot.lock().await;
            locked.holders.remove(container);
            if locked.holders.is_empty()
                && let Err(error) = locked.unplug(vm).await
            {
                tracing::warn!(error = chain(&error), "A disk stays in its VM");
            }
            drop(locked);
            self.table().forget(key, &slot);
        }
    }

    /// Whether the guest may have something that is not on a disk yet.
    pub(crate) fn are_written(&self) -> bool {
        let slots: Vec<_> = self.table().slots.values().cloned().collect();
        for slot in slots {
            // One that is just being plugged in or taken out may be: the host may take long for that.
            let Ok(slot) = slot.try_lock() else { return true };
            if !slot.holders.is_empty() && slot.attached.as_ref().is_some_and(|disk| !disk.read_only) {
                return true;
            }
        }
        false
    }

    /// Those that are block devices of the host, with their numbers.
    fn devices(&self) -> Vec<(u64, Arc<tokio::sync::Mutex<Slot>>)> {
        let device = |key: &DiskKey| match key {
            DiskKey::Device(number) => Some(*number),
            DiskKey::File { .. } => None,
        };
        let table = self.table();
        table.slots.iter().filter_map(|(key, slot)| Some((device(key)?, Arc::clone(slot)))).collect()
    }

    fn disk(&self, id: String, file: OwnedFd, read_only: bool) -> Disk {
        let Manner { attachment, cache, aio, limits, block_size, queues, queue_size } = self.manner.clone();
        // Persistent memory is for layers, which pods share.
        let attachment = match attachment {
            DiskAttachment::Pmem if !read_only => DiskAttachment::Blk,
            attachment => attachment,
        };
        Disk {
            id,
            file,
            read_only,
            attachment,
            cache,
            aio,
            discard: !read_only,
            limits,
            block_size,
            queues,
            queue_size,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is complete before anything can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the host about `image` where that may block: its file system may be one that does not answer.
async fn of_host<T: Send + 'static, E: Send + 'static>(
    image: &DiskImage,
    ask: impl FnOnce(&DiskImage) -> Result<T, E> + Send + 'static,
) -> Result<T, DiskFailure>
where
    DiskFailure: From<E>,
{
    let asked = image.clone();
    let answer = tokio::task::spawn_blocking(move || ask(&asked)).await;
    Ok(answer.map_err(|_| DiskFailure::Ending { path: image.path.clone() })??)
}

impl Table {
    fn next(&mut self) -> String {
        self.made += 1;
        format!("disk-{}", self.made)
    }

    /// The name of a disk that the VM is to be started with.
    fn plan(&mut self, key: DiskKey, read_only: bool) -> String {
        let id = self.next();
        let attached = Attached { id: id.clone(), read_only, address: None };
        let slot = Slot { attached: Some(attached), ..Slot::default() };
        self.slots.insert(key, Arc::new(tokio::sync::Mutex::new(slot)));
        id
    }

    /// What fails from here on is let go of by [`Disks::detach`].
    fn hold(&mut self, container: &ContainerId, key: DiskKey) -> Arc<tokio::sync::Mutex<Slot>> {
        let held = self.held.entry(container.clone()).or_default();
        if !held.contains(&key) {
            held.push(key);
        }
        Arc::clone(self.slots.entry(key).or_default())
    }

    /// Removes a slot with nothing in it that nobody else is about to use.
    fn forget(&mut self, key: DiskKey, slot: &Arc<tokio::sync::Mutex<Slot>>) {
        let is_empty = slot.try_lock().is_ok_and(|slot| slot.attached.is_none() && slot.holders.is_empty());
        // The table's own, and this one: nobody can take another while the table is held.
        if is_empty && Arc::strong_count(slot) == 2 {
            self.slots.remove(&key);
        }
    }
}

impl Slot {
    /// Tells the VM that the disk has so many bytes, if it is to hear of it.
    async fn grow(&self, bytes: u64, vm: &dyn DiskHotplug) -> Result<(), VmmError> {
        let attached = self.attached.as_ref().filter(|_| !self.is_leaving && !self.is_assigned);
        match attached.map(|attached| vm.resize_disk(&attached.id, bytes)) {
            Some(told) => told.await,
            None => Ok(()),
        }
    }

    /// Takes the disk out. One that was there at the VM's start stays, for whoever wants it next; after any other failure it
    /// is leaving.
    async fn unplug(&mut self, vm: Option<&dyn DiskHotplug>) -> Result<(), VmmError> {
        let Some(attached) = mem::take(&mut self.attached) else { return Ok(()) };
        self.is_leaving = false;
        let Some(vm) = vm else { return Ok(()) };
        match vm.remove_disk(&attached.id).await {
            Ok(()) | Err(VmmError::NoDisk { .. } | VmmError::Gone(_)) => Ok(()),
            Err(VmmError::DiskStays { .. }) => {
                self.attached = Some(attached);
                Ok(())
            }
            Err(error) => {
                self.attached = Some(attached);
                self.is_leaving = true;
                Err(error)
            }
        }
    }
}
