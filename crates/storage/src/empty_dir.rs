//! `emptyDir` volumes that are images: in the kubelet's directory of such a volume stands one file, and its file system is a disk
//! that the guest mounts for whichever containers bind the volume, or a directory in it (`subPath`).
//!
//! So the kubelet counts what it takes, and removes it with the pod; a container that is restarted, and a VM that is started anew
//! for the same pod, find what was written. Files are in a directory of the image that has mode and group of the host's.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::statvfs;

use crate::block::DiskImage;
use crate::image;
use crate::memory::{Part, empty_dir_of, is_memory, mode, volume_of};
use crate::mount::{metadata, open_path};
use crate::mountinfo::{MountTable, mount_id};
use crate::share::ContainerFiles;
use crate::volumes::VolumeError;

/// The image in a volume's directory.
const IMAGE: &str = "kata-emptydir.img";
/// The directory in the image that has the volume's files: beside it is what the file system has for itself.
const FILES: &str = "data";
/// What the kubelet counts beside the image's blocks: its directory, and a part of the image for where they are.
const BESIDE: u64 = 64 << 10;
const BESIDE_PART: u64 = 256;
/// Images are whole pages.
const PAGE: u64 = 4096;

/// Which `emptyDir` volumes are images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmptyDirs {
    /// All are. Otherwise only those with a limit.
    pub are_images: bool,
    /// What one can hold that has no limit of its own, in bytes.
    pub limit: Option<u64>,
    /// What those of these names can hold.
    pub limits: BTreeMap<String, u64>,
}

/// An `emptyDir` on a disk of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageVolume {
    /// The disk.
    pub image: DiskImage,
    /// Where the guest mounts its file system.
    pub guest_path: PathBuf,
    /// Directories that must be in it, in this order. The last one is what is bound.
    pub parts: Vec<Part>,
}

impl ImageVolume {
    fn bound(&self) -> PathBuf {
        self.parts.last().map_or_else(|| self.guest_path.clone(), |part| self.guest_path.join(&part.path))
    }
}

/// The largest image.
const LARGEST_FILE: u64 = 15 << 40;

/// The directory of an `emptyDir`, and what of it is bound.
struct Found {
    dir: PathBuf,
    name: String,
    metadata: Metadata,
    part: Option<PathBuf>,
}

/// Where something that is bound lies.
enum Place {
    /// It is the directory of an `emptyDir` on a disk of the host's, or a directory in it.
    Within(Box<Found>),
    /// It is something else in one, whose volume has this name.
    Other { name: String },
    /// It is in none.
    Elsewhere,
}

impl ContainerFiles {
    /// Which `emptyDir` volumes of this container are images; none are unless this is called.
    pub fn set_empty_dirs(&mut self, empty_dirs: EmptyDirs) {
        self.empty_dirs = empty_dirs;
    }

    /// The image in place of what `mount` binds, `source`, opened as `fd`; `None` if that is no `emptyDir` or none on an image.
    pub(crate) fn image_volume(
        &self,
        mount: &Mount,
        source: &Path,
        fd: &OwnedFd,
    ) -> Result<Option<(ImageVolume, PathBuf)>, VolumeError> {
        let EmptyDirs { are_images, limit, limits } = &self.empty_dirs;
        if !*are_images && limit.is_none() && limits.is_empty() {
            return Ok(None);
        }
        let failed = |error| VolumeError::Source {
            from: source.to_owned(),
            destination: mount.destination().clone(),
            source: error,
        };
        let is_image = |name: &str| *are_images || limit.is_some() || limits.contains_key(name);
        let found = match find(source, fd).map_err(failed)? {
            Place::Within(found) if is_image(&found.name) => found,
            // The image itself, for one: who could write to it would pass the limit by.
            Place::Other { name } if is_image(&name) => {
                return Err(VolumeError::Kind {
                    from: source.to_owned(),
                    destination: mount.destination().clone(),
                    kind: "part of an emptyDir on an image, and no directory",
                });
            }
            _ => return Ok(None),
        };
        let size = match limits.get(&found.name).copied().or(*limit) {
            Some(limit) => within(limit),
            None => capacity(&found.dir).map_err(failed)?,
        };
        // The clean-up follows no links.
        let dir = fs::canonicalize(&found.dir).map_err(failed)?;
        let path = dir.join(IMAGE);
        let draft = dir.join(format!("{IMAGE}.{}", self.name()));
        let made = image::make_once(self.trail.branch(), &path, &draft, size);
        made.map_err(|error| VolumeError::Image { from: source.to_owned(), source: Box::new(error) })?;
        let volume = ImageVolume {
            image: DiskImage::at(path, false),
            guest_path: self.memories.volume(&found.dir, &found.name),
            parts: parts(&found, &metadata(fd).map_err(failed)?),
        };
        let bound = volume.bound();
        Ok(Some((volume, bound)))
    }
}

fn parts(found: &Found, bound: &Metadata) -> Vec<Part> {
    let part =
        |path: PathBuf, metadata: &Metadata| Part { path, mode: mode(metadata), group: metadata.gid() };
    let whole = part(FILES.into(), &found.metadata);
    let inner = found.part.as_ref().map(|path| part(Path::new(FILES).join(path), bound));
    std::iter::once(whole).chain(inner).collect()
}

/// The size of an image such that the kubelet does not count more than `limit`.
fn within(limit: u64) -> u64 {
    (limit - limit / BESIDE_PART - BESIDE) / PAGE * PAGE
}

/// The size of the file system that `dir` is in, as far as a file there may be as large.
fn capacity(dir: &Path) -> io::Result<u64> {
    let space = statvfs(dir)?;
    Ok(within_a_file(space.f_blocks.saturating_mul(space.f_frsize)))
}

/// ext4 has files of less than 16 TiB.
fn within_a_file(bytes: u64) -> u64 {
    bytes.min(LARGEST_FILE) / PAGE * PAGE
}

fn find(source: &Path, fd: &OwnedFd) -> io::Result<Place> {
    if let Some(name) = volume_of(source) {
        return found(source, name, fd, None);
    }
    let Some(dir) = empty_dir_of(source) else { return Ok(Place::Elsewhere) };
    let (Some(name), Ok(whole)) = (volume_of(&dir), open_path(&dir)) else { return Ok(Place::Elsewhere) };
    let (inner, outer) = (metadata(fd)?, metadata(&whole)?);
    if inner.dev() != outer.dev() || is_memory(&whole) {
        return Ok(Place::Elsewhere);
    }
    if !inner.is_dir() {
        return Ok(Place::Other { name: name.to_owned() });
    }
    let table = MountTable::read()?;
    let real = fs::canonicalize(&dir)?;
    let outer = mount_id(&whole).and_then(|id| table.path_of(id, &real));
    let inner = mount_id(fd).and_then(|id| table.root(id));
    let part = inner.zip(outer).and_then(|(inner, outer)| inner.strip_prefix(outer).ok().map(Path::to_owned));
    match part {
        Some(part) => found(&dir, name, &whole, Some(part)),
        None => Ok(Place::Other { name: name.to_owned() }),
    }
}

fn found(dir: &Path, name: &str, fd: &OwnedFd, part: Option<PathBuf>) -> io::Result<Place> {
    let metadata = metadata(fd)?;
    if is_memory(fd) || !metadata.is_dir() {
        return Ok(Place::Elsewhere);
    }
    Ok(Place::Within(Box::new(Found { dir: dir.to_owned(), name: name.to_owned(), metadata, part })))
}

#[cfg(test)]
mod tests {
    use super::{within, within_a_file};

    #[test]
    fn the_kubelet_never_counts_more_than_the_limit() {
        for limit in [4 << 20, 5_000_001, 1 << 30, 1 << 40] {
            let image = within(limit);
            // Three hundred and forty extents, of a page each if it comes to the worst, stand in one more page.
            assert!(image + image / 340 + 8192 <= limit + 4096, "{limit}: {image}");
            assert!(image > limit / 100 * 97 && image.is_multiple_of(4096), "{limit}: {image}");
        }
    }

    /// On a larger file system of the host every image was refused.
    #[test]
    fn an_image_is_no_larger_than_a_file_of_ext4() {
        assert_eq!(within_a_file((1 << 40) + 5), 1 << 40);
        assert_eq!(within_a_file(20 << 40), 15 << 40);
    }
}
