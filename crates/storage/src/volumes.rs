//! A container's volumes: bind mounts from the host, carried into the guest through the share.
//!
//! What the OCI mounts of a container become:
//!
//! | mount | |
//! |---|---|
//! | `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup` | left as it is: the guest's own |
//! | bind of `/proc`, `/sys` or below, of `/dev`, `/dev/pts`, `/dev/mqueue`, `/dev/null` and its kind | left as it is: the guest's own |
//! | bind of a tmpfs onto `/dev/shm` | memory in the guest, of the same size: it cannot be shared with the host, but all containers that bind the same directory share it |
//! | bind of what the kubelet mounted for an `emptyDir` with `medium: Memory`, or of a directory in it | the same: see [`memory`](crate::memory) |
//! | `hugetlbfs`, or a bind of one | huge pages of the guest: see [`huge_pages`](crate::huge_pages) |
//! | bind of an `emptyDir` that is an image, or of a directory in it | a bind of the disk in the guest: see [`empty_dir`](crate::empty_dir) |
//! | bind of a direct-assigned volume | a bind of the disk in the guest: see [`direct_volume`](crate::direct_volume) |
//! | bind of a directory or regular file | bind-mounted into the share, once for all containers that bind it the same way (module `shared`); the source rewritten to the guest's path |
//! | bind of a socket, FIFO or device | an error: the other end would not be in the guest (a block device has become a disk before, see [`crate::block`]) |
//! | any other type | an error |
//!
//! A volume whose ids are mapped (`idmap`, `ridmap`, `uidMappings`) is an ID-mapped mount on the host.
//!
//! A read-only volume is read-only on the host as well, with all mounts below it: not even the guest's kernel can
//! write to it.

use std::fs::{FileType, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use crate::empty_dir::ImageVolume;
use crate::huge_pages::HugePages;
use crate::idmap::{self, IdMap, NoIds, Wanted};
use crate::image::ImageError;
use crate::memory::Memory;
use crate::mount::{Propagation, metadata, open_path};
use crate::share::{ContainerFiles, SharedDirectory};
use crate::trail::StepError;

pub(crate) mod shared;
#[cfg(test)]
mod tests;

use shared::{Manner, Source};

/// File systems that the guest's kernel provides by itself.
const GUEST_TYPES: [&str; 8] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs"];
/// The file system of huge pages.
const HUGE_PAGES: &str = "hugetlbfs";
/// Directories that mean the guest's own, with all below them.
const GUEST_TREES: [&str; 2] = ["/proc", "/sys"];
/// Directories that mean the guest's own, but not what the host put into them.
const GUEST_DIRS: [&str; 4] = ["/dev", "/dev/pts", "/dev/mqueue", "/dev/shm"];
/// Devices that every kernel has.
const GUEST_DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// Where a pod's shared memory is mounted.
const SHARED_MEMORY: &str = "/dev/shm";

/// Why a volume could not be shared.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A bind mount without a source.
    #[error(
        "The mount on {destination:?} is a bind mount without a source: add one to the container's mounts"
    )]
    NoSource {
        /// Where it should go in the container.
        destination: PathBuf,
    },
    /// The source does not exist on the host.
    #[error("{from:?}, to be mounted on {destination:?}, cannot be opened: create it or remove the mount")]
    Source {
        /// The source on the host.
        from: PathBuf,
        /// Where it should go in the container.
        destination: PathBuf,
        /// Why it cannot be opened.
        #[source]
        source: io::Error,
    },
    /// The source is nothing that can be carried into a VM.
    #[error(
        "{from:?}, to be mounted on {destination:?}, is a {kind}: only files and directories can go into a VM"
    )]
    Kind {
        /// The source on the host.
        from: PathBuf,
        /// Where it should go in the container.
        destination: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A type that neither host nor guest mounts.
    #[error(
        "The mount on {destination:?} has the type {fs_type:?}, which is not supported: mount it on the host and bind it"
    )]
    Type {
        /// Where it should go in the container.
        destination: PathBuf,
        /// Its type.
        fs_type: String,
    },
    /// The source is of huge pages, and nobody knows of how many.
    #[error(
        "{from:?}, to be mounted on {destination:?}, is of huge pages, and nothing says of how many: give the container a limit \
         of pages of that size (`hugepages-2Mi`, `hugepageLimits`), or the mount a `size`"
    )]
    HugePages {
        /// The source on the host.
        from: PathBuf,
        /// Where it should go in the container.
        destination: PathBuf,
    },
    /// Ids are to be mapped where there are no files of the host's.
    #[error(
        "The ids of the mount on {destination:?} cannot be mapped: only files and directories of the host can, not memory or images of \
         the guest's"
    )]
    NoFiles {
        /// Where it should go in the container.
        destination: PathBuf,
    },
    /// Ids are to be mapped, but not which.
    #[error("The ids of the mount on {destination:?} cannot be mapped")]
    Ids {
        /// Where it should go in the container.
        destination: PathBuf,
        /// Why.
        #[source]
        source: NoIds,
    },
    /// The source could not be mounted into the share.
    #[error("{from:?} cannot be shared with the VM")]
    Share {
        /// The source on the host.
        from: PathBuf,
        /// Why.
        #[source]
        source: Box<StepError>,
    },
    /// A volume has no image.
    #[error("{from:?} cannot be an image")]
    Image {
        /// The source on the host.
        from: PathBuf,
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
}

/// What must be in the guest for a container's volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InGuest {
    /// Memory.
    pub memories: Vec<Memory>,
    /// Images.
    pub images: Vec<ImageVolume>,
    /// Huge pages.
    pub huge_pages: Vec<HugePages>,
}

impl SharedDirectory {
    /// The memory that must be in the guest in place of those of `mounts` that share the host's. Nothing else of them is
    /// looked at. Relative sources are in `bundle`.
    ///
    /// # Errors
    /// A source cannot be opened.
    pub fn memories(&self, mounts: &[Mount], bundle: &Path) -> Result<Vec<Memory>, VolumeError> {
        let mut memories = Vec::new();
        for mount in mounts.iter().filter(|mount| mount.destination() == Path::new(SHARED_MEMORY)) {
            let Some(source) = bind_source(mount)?.map(|source| bundle.join(source)) else { continue };
            let fd = open_path(&source).map_err(|error| VolumeError::Source {
                from: source.clone(),
                destination: SHARED_MEMORY.into(),
                source: error,
            })?;
            memories.extend(self.memories.shared(&source, &fd));
        }
        Ok(memories)
    }
}

impl ContainerFiles {
    /// Carries the host's part of `mounts` into the share and rewrites each to what the guest must mount.
    /// Relative sources are in `bundle`; `ids` are the container's own, for mounts that are mapped and do not say how.
    /// Returns what must be in the guest before.
    ///
    /// # Errors
    /// A source is missing or cannot be shared, or a mount fails. What was made before it is taken back by
    /// [`ContainerFiles::remove`].
    pub fn share_volumes(
        &mut self,
        mounts: &mut [Mount],
        bundle: &Path,
        ids: &IdMap,
    ) -> Result<InGuest, VolumeError> {
        let mut in_guest = InGuest::default();
        for mount in mounts {
            let destination = mount.destination().clone();
            let mapping = idmap::take(mount, ids);
            let mapping =
                mapping.map_err(|source| VolumeError::Ids { destination: destination.clone(), source })?;
            let shared = self.share_volume(mount, bundle, mapping.as_ref())?;
            if !matches!(shared, Shared::Files) && mapping.is_some() {
                return Err(VolumeError::NoFiles { destination });
            }
            match shared {
                Shared::Memory(memory) => in_guest.memories.push(memory),
                Shared::Image(image) => in_guest.images.push(image),
                Shared::HugePages(pages) => in_guest.huge_pages.push(pages.beside(&in_guest.huge_pages)),
                Shared::Nothing | Shared::Files => {}
            }
        }
        Ok(in_guest)
    }

    /// Has the guest mount `guest_path`, which a disk is mounted on, for whatever binds `source` of the host.
    pub fn assign(&mut self, source: PathBuf, guest_path: PathBuf) {
        self.assigned.insert(source, guest_path);
    }

    fn share_volume(
        &mut self,
        mount: &mut Mount,
        bundle: &Path,
        mapping: Option<&Wanted>,
    ) -> Result<Shared, VolumeError> {
        let Some(source) = bind_source(mount)? else { return self.share_nothing(mount) };
        let source = bundle.join(source);
        let destination = mount.destination().clone();
        if is_guests_own_tree(&source) {
            return Ok(Shared::Nothing);
        }
        if let Some(guest_path) = self.assigned.get(&source) {
            rewrite(mount, guest_path.clone());
            return Ok(Shared::Nothing);
        }
        let opened = open_path(&source).and_then(|fd| metadata(&fd).map(|metadata| (fd, metadata)));
        let (fd, metadata) = opened.map_err(|error| VolumeError::Source {
            from: source.clone(),
            destination: destination.clone(),
            source: error,
        })?;
        // What belongs to others by a mapping stays on the share, where the host maps it. Also on `/dev/shm` it is the pod's volume.
        if mapping.is_none()
            && let Some(memory) = self.memories.empty_dir(&source, &fd)
        {
            rewrite(mount, memory.bound());
            return Ok(Shared::Memory(memory));
        }
        if destination == Path::new(SHARED_MEMORY)
            && let Some(memory) = self.memories.shared(&source, &fd)
        {
            become_memory(mount, &memory);
            return Ok(Shared::Memory(memory));
        }
        if is_guests_own(&source, &metadata) {
            return Ok(Shared::Nothing);
        }
        if let Some((pages, bound)) = self.bound_huge_pages(mount, &source, &fd)? {
            rewrite(mount, bound);
            return Ok(Shared::HugePages(pages));
        }
        if let Some((image, bound)) = self.image_volume(mount, &source, &fd)? {
            rewrite(mount, bound);
            return Ok(Shared::Image(image));
        }
        if let Some(kind) = unshareable(metadata.file_type()) {
            return Err(VolumeError::Kind { from: source, destination, kind });
        }
        let found = Source { path: &source, fd: &fd, metadata: &metadata };
        let (volume, path) = self
            .shared
            .bind(&found, manner(mount, mapping), self.trail.branch())
            .map_err(|error| VolumeError::Share { from: source.clone(), source: Box::new(error) })?;
        self.volumes.push(volume);
        rewrite(mount, path);
        Ok(Shared::Files)
    }

    /// A mount that binds nothing.
    fn share_nothing(&self, mount: &mut Mount) -> Result<Shared, VolumeError> {
        if mount.typ().as_deref() != Some(HUGE_PAGES) {
            return Ok(Shared::Nothing);
        }
        let pages = self.own_huge_pages(mount)?;
        // What is about their file system is not about a bind of it.
        let options =
            mount.options().iter().flatten().filter(|option| !option.contains('=')).cloned().collect();
        mount.set_options(Some(options));
        rewrite(mount, pages.guest_path.clone());
        Ok(Shared::HugePages(pages))
    }
}

/// How `mount` wants its source to be bound.
fn manner(mount: &Mount, mapping: Option<&Wanted>) -> Manner {
    let has = |options: &[&str]| options.iter().any(|option| has_option(mount, option));
    let follows = has(&["rslave", "slave", "rshared", "shared"]);
    Manner {
        read_only: is_read_only(mount),
        recursive: has(&["rbind"]) || !has(&["bind"]),
        propagation: if follows { Propagation::Slave } else { Propagation::Private },
        mapping: mapping.cloned(),
    }
}

/// What a mount has of the host's.
enum Shared {
    Nothing,
    Files,
    Memory(Memory),
    Image(ImageVolume),
    HugePages(HugePages),
}

/// The source of a bind mount; `None` for what the guest mounts by itself.
pub(crate) fn bind_source(mount: &Mount) -> Result<Option<&Path>, VolumeError> {
    let destination = mount.destination();
    let fs_type = mount.typ().as_deref().unwrap_or_default();
    if !is_bind(mount) {
        if matches!(fs_type, "" | HUGE_PAGES) || GUEST_TYPES.contains(&fs_type) {
            return Ok(None);
        }
        return Err(VolumeError::Type { destination: destination.clone(), fs_type: fs_type.to_owned() });
    }
    match mount.source() {
        Some(source) => Ok(Some(source)),
        None => Err(VolumeError::NoSource { destination: destination.clone() }),
    }
}

/// Whether a container with these mounts may need files of the host. Without, it needs no shared directory for them.
pub fn may_bind_files(mounts: &[Mount]) -> bool {
    mounts.iter().any(is_bind)
}

/// Whether the mount is of a file or directory, by its type or its options.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || has_option(mount, "bind") || has_option(mount, "rbind")
}

fn has_option(mount: &Mount, wanted: &str) -> bool {
    mount.options().as_ref().is_some_and(|options| options.iter().any(|option| option == wanted))
}

/// Of several `ro` and `rw` the last counts.
pub(crate) fn is_read_only(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    let last = options.map(String::as_str).rfind(|option| matches!(*option, "ro" | "rw" | "rro"));
    last.is_some_and(|option| option != "rw")
}

fn is_guests_own_tree(source: &Path) -> bool {
    GUEST_TREES.iter().any(|tree| source.starts_with(tree))
}

fn is_guests_own(source: &Path, metadata: &Metadata) -> bool {
    let among = |paths: &[&str]| paths.iter().any(|path| source == Path::new(path));
    if metadata.is_dir() { among(&GUEST_DIRS) } else { among(&GUEST_DEVICES) }
}

pub(crate) fn unshareable(kind: FileType) -> Option<&'static str> {
    let kinds = [
        (kind.is_socket(), "socket"),
        (kind.is_fifo(), "FIFO"),
        (kind.is_block_device(), "block device"),
        (kind.is_char_device(), "character device"),
    ];
    kinds.into_iter().find_map(|(is, name)| is.then_some(name))
}

/// Makes `mount` a bind mount of memory in the guest.
fn become_memory(mount: &mut Mount, memory: &Memory) {
    let mut options: Vec<_> = ["rbind", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec();
    if is_read_only(mount) {
        options.push("ro".to_owned());
    }
    mount.set_options(Some(options));
    rewrite(mount, memory.guest_path.clone());
}

/// Makes `mount` a bind mount of `path`, keeping its options for the guest to apply as well.
fn rewrite(mount: &mut Mount, path: PathBuf) {
    if !has_option(mount, "bind") && !has_option(mount, "rbind") {
        let mut options = mount.options().clone().unwrap_or_default();
        options.insert(0, "rbind".to_owned());
        mount.set_options(Some(options));
    }
    mount.set_typ(Some("bind".to_owned())).set_source(Some(path));
}
