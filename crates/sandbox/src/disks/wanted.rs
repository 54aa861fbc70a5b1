//! The disks that a container needs, and how the guest is told of them.

use std::path::{Path, PathBuf};

use kata_protocol::agent::{Device, Storage};
use kata_protocol::guest;
use kata_storage::block::{BlockDevice, BlockRootfs, GuestMount, What, take_devices};
use kata_storage::virtual_volume::{GuestPull, VirtualVolume};
use kata_vmm::{DiskAddress, DiskHotplug};
use oci_spec::runtime::Spec;

use super::{DiskFailure, Disks};
use crate::ContainerId;
use crate::host::{BootError, Sources};

/// Driver option of `overlayfs` that names a directory to be made first.
const CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory";

/// Annotations by which a container's manager names its image: containerd's and CRI-O's.
const IMAGE_NAMES: [&str; 2] = ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"];

/// Where the guest mounts root file systems from disks, and what else decides about them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Roots<'a> {
    /// The guest's directory for layers; none if no root file system is to be on disks.
    pub(crate) layers: Option<&'a Path>,
    /// The guest pulls every image, whatever the snapshotter has.
    pub(crate) guest_pull: bool,
}

/// What of a container is on disks, or made by the guest alone.
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
    /// What of `sources` is on disks or pulled; bind mounts of block devices become devices in its specification.
    pub(crate) fn of(
        container: &ContainerId,
        sources: &mut Sources,
        roots: Roots<'_>,
    ) -> Result<Self, BootError> {
        refuse_described_volumes(&sources.spec)?;
        let own = Path::new(guest::CONTAINERS_DIR).join(container.as_str());
        let described = match roots.guest_pull {
            true => Some(VirtualVolume::GuestPull(GuestPull::default())),
            false => VirtualVolume::among(&sources.rootfs)?,
        };
        let rootfs = match (described, roots.layers) {
            (Some(volume), layers) => {
                Some(BlockRootfs::of_volume(volume, image_name(&sources.spec), &own, layers)?)
            }
            (None, Some(layers)) => BlockRootfs::of(&sources.rootfs, &own, layers)?,
            (None, None) => {
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
                What::Memory | What::Overlay { .. } | What::Folder | What::Image { .. } => None,
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

fn refuse_described_volumes(spec: &Spec) -> Result<(), BootError> {
    let mounts = spec.mounts().iter().flatten();
    let described =
        mounts.map(|mount| (mount.destination().as_path(), mount.options().as_deref().unwrap_or_default()));
    Ok(VirtualVolume::refuse_elsewhere(described)?)
}

/// What the container's manager calls its image.
fn image_name(spec: &Spec) -> Option<&str> {
    let annotations = spec.annotations().as_ref()?;
    IMAGE_NAMES.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
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

fn storage(mount: &GuestMount, address: Option<&DiskAddress>) -> Storage {
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
        (What::Image { reference, metadata }, _) => {
            let metadata = serde_json::json!({ "metadata": metadata });
            storage.driver_options = vec![format!("{}={metadata}", guest::IMAGE_GUEST_PULL)];
            (guest::IMAGE_GUEST_PULL, reference.clone(), "overlay")
        }
    };
    storage.driver = driver.to_owned();
    storage.source = source;
    storage.fstype = fs_type.to_owned();
    storage
}
