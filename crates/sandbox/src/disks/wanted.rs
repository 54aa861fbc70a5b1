//! The disks that a container needs, and how the guest is told of them.

use std::path::{Path, PathBuf};

use kata_protocol::agent::{Device, Storage};
use kata_protocol::guest;
use kata_storage::block::{BlockDevice, BlockRootfs, GuestMount, What, take_devices};
use kata_vmm::{DiskAddress, DiskHotplug};

use super::{DiskFailure, Disks};
use crate::ContainerId;
use crate::host::{BootError, Sources};

/// Driver option of `overlayfs` that names a directory to be made first.
const CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory";

/// What of a container is on disks.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    rootfs: Option<BlockRootfs>,
    devices: Vec<BlockDevice>,
}

/// What the guest is told of a container's disks.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) storages: Vec<Storage>,
    pub(crate) devices: Vec<Device>,
}

impl Wanted {
    /// What of `sources` is on disks; bind mounts of block devices become devices in its specification. Layers are to be
    /// mounted in the guest's directory `layers`, or, where there is none, no root file system is to be on disks.
    pub(crate) fn of(
        container: &ContainerId,
        sources: &mut Sources,
        layers: Option<&Path>,
    ) -> Result<Self, BootError> {
        let rootfs = match layers {
            Some(layers) => {
                let own = Path::new(guest::CONTAINERS_DIR).join(container.as_str());
                BlockRootfs::of(&sources.rootfs, &own, layers)?
            }
            None => {
                BlockRootfs::refuse_images(&sources.rootfs)?;
                None
            }
        };
        let devices = take_devices(&mut sources.spec, &sources.bundle)?;
        Ok(Self { rootfs, devices })
    }

    /// Where the root file system is in the guest, if it is on disks.
    pub(crate) fn root(&self) -> Option<PathBuf> {
        self.rootfs.as_ref().map(|rootfs| rootfs.root.clone())
    }

    /// Attaches them all. What a failure leaves is taken out by [`Disks::detach`].
    pub(crate) async fn attach(
        &self,
        container: &ContainerId,
        disks: &Disks,
        vm: Option<&dyn DiskHotplug>,
    ) -> Result<Told, DiskFailure> {
        let attach = async |image| match vm {
            Some(vm) => disks.attach(container, image, vm).await,
            None => Err(DiskFailure::NoHotplug),
        };
        let mut told = Told::default();
        for mount in self.rootfs.iter().flat_map(|rootfs| &rootfs.mounts) {
            let address = match &mount.what {
                What::Disk { image, .. } => Some(attach(image).await?),
                What::Memory | What::Overlay { .. } | What::Folder => None,
            };
            told.storages.push(storage(mount, address.as_ref()));
        }
        for BlockDevice { disk, container_path } in &self.devices {
            let address = attach(disk).await?;
            told.devices.push(device(&address, disk.read_only, container_path));
        }
        Ok(told)
    }
}

/// The agent's name for the kind of a disk.
pub(crate) fn driver(address: &DiskAddress) -> &'static str {
    match address {
        DiskAddress::Pci(_) => "blk",
        DiskAddress::Scsi { .. } => "scsi",
        DiskAddress::Pmem { .. } => "nvdimm",
    }
}

fn device(address: &DiskAddress, read_only: bool, container_path: &Path) -> Device {
    let vm_path = match address {
        DiskAddress::Pmem { device, .. } => device.clone(),
        DiskAddress::Pci(_) | DiskAddress::Scsi { .. } => String::new(),
    };
    Device {
        id: address.to_string(),
        type_: driver(address).to_owned(),
        vm_path,
        container_path: container_path.to_string_lossy().into_owned(),
        options: if read_only { vec!["ro".to_owned()] } else { Vec::new() },
        ..Device::default()
    }
}

/// What the guest is told of a mount; `address` is the disk's, if it is one.
pub(crate) fn storage(mount: &GuestMount, address: Option<&DiskAddress>) -> Storage {
    let mut storage = Storage {
        options: mount.options.clone(),
        mount_point: mount.target.to_string_lossy().into_owned(),
        ..Storage::default()
    };
    let (driver, source, fs_type) = match (&mount.what, address) {
        (What::Disk { fs_type, .. }, Some(address)) => {
            (driver(address), address.to_string(), fs_type.as_str())
        }
        (What::Disk { fs_type, .. }, None) => ("blk", String::new(), fs_type.as_str()),
        (What::Memory, _) => ("ephemeral", "tmpfs".to_owned(), "tmpfs"),
        (What::Overlay { folders }, _) => {
            let make = |folder: &PathBuf| format!("{CREATE_DIRECTORY}={}", folder.display());
            storage.driver_options = folders.iter().map(make).collect();
            ("overlayfs", "overlay".to_owned(), "overlay")
        }
        (What::Folder, _) => {
            storage.options = vec!["mode=0755".to_owned()];
            ("local", "local".to_owned(), "")
        }
    };
    storage.driver = driver.to_owned();
    storage.source = source;
    storage.fstype = fs_type.to_owned();
    storage
}
