//! Volumes in the share, each mounted once for all containers of the sandbox that bind the same.
//!
//! To the guest each mount of the share is a file system with inodes, pages and locks of its own. With a mount for each
//! container, two containers would never see each other's locks in a common volume, and what one writes by `mmap` late or
//! never. So what is the same is mounted once: one directory or file, whichever path leads to it (a kubelet makes a bind
//! mount of its own for each container's `subPath`), bound the same way, with the same mounts below it.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kata_protocol::guest::{self, VOLUMES};
use rustix::fs::{StatVfsMountFlags, fstatvfs};

use crate::idmap::Wanted;
use crate::mount::{DetachedMount, Propagation};
use crate::mountinfo::{MountTable, mount_id};
use crate::trail::{StepError, Trail};

#[cfg(test)]
mod tests;

/// The longest part of a volume's name that is taken from its source.
const MAX_NAME: usize = 64;

/// A file or directory of the host's to be bound, opened with `O_PATH`.
pub(crate) struct Source<'a> {
    /// As the mount names it.
    pub(crate) path: &'a Path,
    /// The file.
    pub(crate) fd: &'a OwnedFd,
    /// What it is.
    pub(crate) metadata: &'a Metadata,
}

/// How a volume is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) read_only: bool,
    /// With the mounts below it.
    pub(crate) recursive: bool,
    pub(crate) propagation: Propagation,
    pub(crate) mapping: Option<Wanted>,
}

/// A volume that a container uses, until [`Volumes::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VolumeId(usize);

/// A sandbox's volumes.
pub(crate) struct Volumes {
    /// On the host.
    dir: PathBuf,
    /// Held while something is mounted: the kernel makes one mount at a time as well.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// How many there have been: a guest may remember names of those that are gone.
    made: usize,
    volumes: Vec<Volume>,
}

struct Volume {
    id: VolumeId,
    name: String,
    origin: Origin,
    manner: Manner,
    users: usize,
    trail: Trail,
}

/// Which file it is, and what the mount that leads to it allows.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    device: u64,
    inode: u64,
    flags: StatVfsMountFlags,
}

impl Volumes {
    /// Volumes in the share that is written to through `writable_dir`.
    pub(crate) fn new(writable_dir: &Path) -> Self {
        Self { dir: writable_dir.join(VOLUMES), table: Mutex::default() }
    }

    /// Binds `source` into the share, unless it is there already; returns its path in the guest. `trail` is of the
    /// sandbox's log.
    pub(crate) fn bind(
        &self,
        source: &Source<'_>,
        manner: Manner,
        trail: Trail,
    ) -> Result<(VolumeId, PathBuf), StepError> {
        let origin =
            origin(source).map_err(|error| StepError::Mount { target: self.dir.clone(), source: error })?;
        let mut table = self.lock();
        if let Some(volume) = table.volumes.iter_mut().find(|volume| {
            volume.origin == origin && volume.manner == manner && self.has_the_same_below(volume, source)
        }) {
            volume.users += 1;
            return Ok((volume.id, guest_path(&volume.name)));
        }
        let id = VolumeId(table.made);
        let name = format!("{}-{}", id.0, printable(source.path));
        let mut volume = Volume { id, name, origin, manner, users: 1, trail };
        table.made += 1;
        if let Err(error) = volume.mount(&self.dir, source) {
            // The first failure is the one to tell; what cannot be undone stays in the log.
            volume.trail.undo().ok();
            return Err(error);
        }
        let path = guest_path(&volume.name);
        table.volumes.push(volume);
        Ok((id, path))
    }

    /// Gives a volume back. The last one to do so unmounts it; after a failure it may be tried again.
    pub(crate) fn release(&self, id: VolumeId) -> Result<(), StepError> {
        let mut table = self.lock();
        let Some(at) = table.volumes.iter().position(|volume| volume.id == id) else { return Ok(()) };
        if table.volumes[at].users == 1 {
            table.volumes[at].trail.undo()?;
            table.volumes.remove(at);
        } else {
            table.volumes[at].users -= 1;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a mount of `source` would show the same as `volume` does: the same mounts below it, and the same ids. Not if
    /// that cannot be found out.
    fn has_the_same_below(&self, volume: &Volume, source: &Source<'_>) -> bool {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", source.fd.as_raw_fd()));
        let (Ok(path), Ok(table)) = (path, MountTable::read()) else { return false };
        let target = self.dir.join(&volume.name);
        let mapped = table.is_mapped(None, &target) != volume.manner.mapping.is_some()
            || table.is_mapped(mount_id(source.fd), &path);
        let recursive = volume.manner.recursive;
        !mapped && (!recursive || table.below(&path) == table.below(&target))
    }
}

impl Volume {
    fn mount(&mut self, dir: &Path, source: &Source<'_>) -> Result<(), StepError> {
        let target = dir.join(&self.name);
        if source.metadata.is_dir() {
            self.trail.dir(&target)?;
        } else {
            self.trail.file(&target)?;
        }
        let manner = &self.manner;
        self.trail.mount(&target, || {
            let copy = DetachedMount::copy_of(source.fd.as_fd(), manner.recursive)?;
            let mut copy = copy.propagate(manner.propagation)?;
            if manner.read_only {
                copy = copy.read_only()?;
            }
            if let Some(Wanted { ids, recursive }) = &manner.mapping {
                copy = copy.map_ids(ids, *recursive).map_err(explain_mapping)?;
            }
            copy.attach(&target)
        })
    }
}

fn origin(source: &Source<'_>) -> io::Result<Origin> {
    let flags = fstatvfs(source.fd)?.f_flag;
    Ok(Origin { device: source.metadata.dev(), inode: source.metadata.ino(), flags })
}

fn guest_path(name: &str) -> PathBuf {
    Path::new(guest::SHARED_DIR).join(VOLUMES).join(name)
}

fn explain_mapping(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidInput => {
            let text = "the ids of its files cannot be mapped: its file system or the host's kernel does not support it, \
                        or mappings overlap";
            io::Error::new(io::ErrorKind::InvalidInput, text)
        }
        _ => error,
    }
}

/// The source's name, for people who look at the share.
fn printable(source: &Path) -> String {
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    name.chars().take(MAX_NAME).map(plain).collect()
}
