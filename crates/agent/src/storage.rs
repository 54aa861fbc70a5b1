//! File systems that the host asks the guest to mount, by driver name, and what it asks about them later.

mod drivers;
mod folders;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod group;
pub(crate) mod growth;
mod huge_pages;
mod layers;
mod options;
mod sys;
mod upper;
pub(crate) mod usage;
mod volumes;
mod watchable;

use std::io;
use std::path::PathBuf;

use kata_protocol::guest;

use crate::block::{BLK, BlockError, NVDIMM, SCSI};

pub(crate) use huge_pages::take_no_pages;
pub(crate) use upper::note_places;
pub(crate) use volumes::{Mounts, Volumes};

/// Driver names of storages that this agent can mount (upstream's names).
const DRIVERS: [&str; 10] =
    ["virtio-fs", "9p", "bind", WATCHABLE, EPHEMERAL, "local", OVERLAYFS, BLK, SCSI, NVDIMM];

/// All drivers that this guest has.
pub(crate) fn drivers() -> impl Iterator<Item = &'static str> {
    DRIVERS.into_iter().chain(crate::image::is_there().then_some(guest::IMAGE_GUEST_PULL))
}
/// The driver of memory.
const EPHEMERAL: &str = "ephemeral";

/// The driver of layers.
const OVERLAYFS: &str = "overlayfs";

/// The driver of copies that follow a volume.
const WATCHABLE: &str = "watchable-bind";

/// A storage could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// The agent has no such driver.
    #[error("Storage driver {driver:?} is not supported by this agent; it has {}", DRIVERS.join(", "))]
    Driver { driver: String },
    /// A path is not what it should be.
    #[error("Storage {source_name:?} needs an absolute mount point, not {}", path.display())]
    Path { source_name: String, path: PathBuf },
    /// The kernel refused.
    #[error("Cannot mount {what} on {}", target.display())]
    Mount { what: String, target: PathBuf, source: io::Error },
    /// The kernel does not know it.
    #[error(
        "The guest's kernel has no file system {fstype:?}; use one that it has, such as ext4, xfs or erofs"
    )]
    FileSystem { fstype: String },
    /// A disk without a file system.
    #[error("Storage {source_name:?} names no file system; set its fstype, such as ext4")]
    NoFileSystem { source_name: String },
    /// A disk.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Its mount point is another's.
    #[error("Mount point {} is already that of {holder:?}; choose another", target.display())]
    Taken { target: PathBuf, holder: String },
    /// A folder could not be made or changed.
    #[error("Cannot prepare {}", path.display())]
    Prepare { path: PathBuf, source: io::Error },
    /// A volume could not be copied.
    #[error("Cannot copy the volume {} for those who watch it", volume.display())]
    Copy { volume: PathBuf, source: io::Error },
    /// A volume could not be given to a group.
    #[error("Cannot give the volume {} to group {group}", target.display())]
    Group { target: PathBuf, group: u32, source: io::Error },
    /// An option has no meaning.
    #[error("Storage option {option:?} is not understood")]
    Option { option: String },
    /// The CPU has no such pages.
    #[error("The guest has no huge pages of {kilobytes} kB; its CPU has not, or its kernel")]
    PageSize { kilobytes: u64 },
    /// There is no room for them.
    #[error(
        "The guest has memory for {found} of {wanted} huge pages of {kilobytes} kB; give the VM more memory (default_memory), or \
         ask for fewer"
    )]
    NoHugePages { wanted: u64, found: u64, kilobytes: u64 },
    /// The kernel does not tell.
    #[error("Cannot change the number of huge pages in {}", path.display())]
    Pool { path: PathBuf, source: io::Error },
    /// Only memory can be changed.
    #[error("No memory is mounted on {}; only a storage of driver {EPHEMERAL:?} can be changed", target.display())]
    NoMemory { target: PathBuf },
    /// The kernel refused a change.
    #[error("Cannot change the memory on {} to {options:?}", target.display())]
    Change { options: String, target: PathBuf, source: io::Error },
}

type Result<T> = std::result::Result<T, StorageError>;
