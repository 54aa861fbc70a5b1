//! The disks that a container needs, and how the guest is told of them.

use std::path::{Path, PathBuf};

use kata_protocol::agent::{Device, Storage};
use kata_protocol::guest;
use kata_storage::RootfsMount;
use kata_storage::block::{BlockDevice, BlockRootfs, DiskImage, GuestMount, What, take_devices};
use kata_storage::empty_dir::ImageVolume;
use kata_storage::image;
use kata_storage::nydus::NydusRootfs;
use kata_storage::virtual_volume::{GuestPull, VirtualVolume};
use kata_vmm::{DiskAddress, DiskHotplug};
use oci_spec::runtime::Spec;

use super::{DiskFailure, Disks};
use crate::ContainerId;
use crate::host::{BootError, Sources};
use crate::prepare::directory;

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
    /// nydusd is there to mount images.
    pub(crate) nydus: bool,
}

/// What of a container is on disks, or made by the guest alone.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    rootfs: Option<BlockRootfs>,
    devices: Vec<BlockDevice>,
    volumes: Vec<ImageVolume>,
    /// What it writes to its root file system goes to an image with a limit.
    limited: bool,
    /// Its root file system is an image of nydusd's.
    image: Option<NydusRootfs>,
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
        let own = own_dir(container);
        let image = if roots.nydus { nydus_image(&sources.rootfs)? } else { None };
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
        Ok(Self { rootfs, devices, image, ..Self::default() })
    }

    /// Has the container write to `layer` instead of its root file system, which the guest has at `root`. Where the root is
    /// then.
    pub(crate) fn limit(&mut self, container: &ContainerId, root: PathBuf, layer: DiskImage) -> PathBuf {
        let own = own_dir(container);
        let rootfs = match self.rootfs.take() {
            Some(rootfs) => rootfs.written_to(layer, &own),
            None => BlockRootfs::over(root, layer, &own),
        };
        self.limited = true;
        self.rootfs.insert(rootfs).root.clone()
    }

    /// Whether there is such a layer.
    pub(crate) fn is_limited(&self) -> bool {
        self.limited
    }

    /// The image that nydusd is to mount for its root file system.
    pub(crate) fn image(&self) -> Option<&NydusRootfs> {
        self.image.as_ref()
    }

    /// Adds volumes that are images.
    pub(crate) fn add(&mut self, volumes: Vec<ImageVolume>) {
        self.volumes.extend(volumes);
    }

    /// The disks that are known by now.
    pub(crate) fn disks(&self) -> Vec<DiskImage> {
        let mounts = self.rootfs.iter().flat_map(|rootfs| &rootfs.mounts);
        let of_root = mounts.filter_map(|mount| match &mount.what {
            What::Disk { image, .. } => Some(image.clone()),
            What::Memory | What::Overlay { .. } | What::Folder | What::Image { .. } => None,
        });
        of_root.chain(self.devices.iter().map(|device| device.disk.clone())).collect()
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
        for volume in &self.volumes {
            told.storages.push(volume_storage(volume, &attach(&volume.image).await?));
        }
        for BlockDevice { disk, container_path } in &self.devices {
            let address = attach(disk).await?;
            told.devices.push(device(&address, disk.read_only, container_path));
        }
        Ok(told)
    }
}

/// The container's own directory in the guest.
fn own_dir(container: &ContainerId) -> PathBuf {
    Path::new(guest::CONTAINERS_DIR).join(container.as_str())
}

/// The image of a root file system, if nydus-snapshotter made it.
fn nydus_image(rootfs: &[RootfsMount]) -> Result<Option<NydusRootfs>, BootError> {
    let image = NydusRootfs::of(rootfs)?;
    if let Some(image) = &image {
        image.check()?;
    }
    Ok(image)
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

fn volume_storage(volume: &ImageVolume, address: &DiskAddress) -> Storage {
    Storage {
        driver: driver(address).to_owned(),
        driver_options: volume.parts.iter().map(directory).collect(),
        source: address.to_string(),
        fstype: image::FS_TYPE.to_owned(),
        options: image::OPTIONS.map(str::to_owned).to_vec(),
        mount_point: volume.guest_path.to_string_lossy().into_owned(),
        ..Storage::default()
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
            // The guest reads the host's page cache then, without a copy of its own.
            if fs_type == "erofs" && matches!(address, DiskAddress::Pmem { .. }) {
                storage.options.push("dax".to_owned());
            }
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

#[cfg(test)]
mod tests {
    use kata_storage::block::{DiskImage, GuestMount, What};
    use kata_vmm::DiskAddress;

    use super::storage;

    #[test]
    fn only_layers_in_persistent_memory_are_read_where_they_are() {
        let pmem = DiskAddress::Pmem { device: "/dev/pmem0".into(), pci: "18".into() };
        let options = |fs_type: &str, address: &DiskAddress| {
            let image = DiskImage::at("/layer".into(), true);
            let what = What::Disk { image, fs_type: fs_type.to_owned() };
            let options = vec!["ro".to_owned()];
            storage(&GuestMount { what, options, target: "/l".into() }, Some(address)).options.join(",")
        };
        assert_eq!(options("erofs", &pmem), "ro,dax");
        assert_eq!(options("ext4", &pmem), "ro");
        assert_eq!(options("erofs", &DiskAddress::Pci("18".into())), "ro");
    }
}
