//! Volumes that become larger while they are used: first the disk, which the host resizes, then its file system.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{StatFs, fstatfs, major, minor};
use tokio::io::Interest;

use super::sys;
use crate::announcements;

/// linux/magic.h; those of ext2 and ext3 are the same.
const EXT4_SUPER_MAGIC: u64 = 0xef53;
const XFS_SUPER_MAGIC: u64 = 0x5846_5342;

/// The kernel counts disks in these, whatever their own sectors are.
const SECTOR: u64 = 512;

/// A volume has not become larger.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrowthError {
    /// It is not there.
    #[error("Cannot open the volume {}", path.display())]
    Absent { path: PathBuf, source: io::Error },
    /// It has no disk.
    #[error("The volume {} is not on a block device, so it cannot be resized", path.display())]
    NoDisk { path: PathBuf },
    /// The host's change has not arrived.
    #[error("The disk of {} has {has} bytes, not {wanted}, after {} s; resize it on the host first", path.display(), limit.as_secs_f32())]
    Disk { path: PathBuf, has: u64, wanted: u64, limit: Duration },
    /// Changes of the disk cannot be seen.
    #[error("Cannot watch the devices of the guest")]
    Watch(#[source] io::Error),
    /// It would have to shrink.
    #[error("The file system on {} has {has} bytes and cannot shrink to {wanted}; ask for more", path.display())]
    Shrink { path: PathBuf, has: u64, wanted: u64 },
    /// Only some can.
    #[error("The file system on {} (magic number {magic:#x}) cannot grow while it is mounted; only ext4 and XFS can", path.display())]
    Kind { path: PathBuf, magic: u64 },
    /// The kernel refused.
    #[error("Cannot grow the file system on {} to {bytes} bytes", path.display())]
    Grow { path: PathBuf, bytes: u64, source: io::Error },
}

type Result<T> = std::result::Result<T, GrowthError>;

/// Lets the volume at `path`, a mounted file system or a block device, have `bytes` (0: all that its disk has), which the
/// disk must have within `limit`.
pub(crate) async fn grow(path: PathBuf, bytes: u64, limit: Duration) -> Result<()> {
    let absent = |source| GrowthError::Absent { path: path.clone(), source };
    let found = fs::metadata(&path).map_err(absent)?;
    let is_disk = found.file_type().is_block_device();
    let disk = Disk::of(&path, if is_disk { found.rdev() } else { found.dev() })?;
    let available = disk.wait_for(bytes, limit).await?;
    if is_disk {
        return Ok(());
    }
    let bytes = if bytes == 0 { available } else { bytes };
    // It writes tables for all that is new.
    match tokio::task::spawn_blocking(move || grow_file_system(&path, bytes)).await {
        Ok(grown) => grown,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// A disk, or a part of one.
struct Disk<'a> {
    volume: &'a Path,
    size: PathBuf,
}

impl<'a> Disk<'a> {
    fn of(volume: &'a Path, number: u64) -> Result<Self> {
        let size = format!("/sys/dev/block/{}:{}/size", major(number), minor(number)).into();
        let disk = Self { volume, size };
        disk.bytes()?;
        Ok(disk)
    }

    fn bytes(&self) -> Result<u64> {
        let sectors = fs::read_to_string(&self.size).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let none = || GrowthError::NoDisk { path: self.volume.to_owned() };
        Ok(sectors.ok_or_else(none)?.saturating_mul(SECTOR))
    }

    /// What it has when that is at least `bytes`.
    async fn wait_for(&self, bytes: u64, limit: Duration) -> Result<u64> {
        let has = self.bytes()?;
        if has >= bytes {
            return Ok(has);
        }
        // Listening comes before looking, so that nothing is missed in between.
        let socket = announcements::of_devices();
        let events = socket.and_then(|socket| crate::sys::watch(socket, Interest::READABLE));
        let events = events.map_err(GrowthError::Watch)?;
        let waiting = async {
            while self.bytes()? < bytes {
                announcements::next(&events).await.map_err(GrowthError::Watch)?;
            }
            Ok(())
        };
        if let Ok(watched) = tokio::time::timeout(limit, waiting).await {
            watched?;
        }
        match self.bytes()? {
            has if has >= bytes => Ok(has),
            has => Err(GrowthError::Disk { path: self.volume.to_owned(), has, wanted: bytes, limit }),
        }
    }
}

fn grow_file_system(path: &Path, bytes: u64) -> Result<()> {
    let failed = |source| GrowthError::Grow { path: path.to_owned(), bytes, source };
    let shrinks = |has| GrowthError::Shrink { path: path.to_owned(), has, wanted: bytes };
    let place = File::open(path).map_err(|source| GrowthError::Absent { path: path.to_owned(), source })?;
    let about = fstatfs(&place).map_err(|errno| failed(errno.into()))?;
    match magic(&about) {
        EXT4_SUPER_MAGIC => {
            let block_size = u64::try_from(about.f_bsize).unwrap_or_default().max(1);
            // Without its own tables, which are not told.
            let has = about.f_blocks.saturating_mul(block_size);
            if bytes < has {
                return Err(shrinks(has));
            }
            sys::grow_ext4(&place, bytes / block_size).map_err(failed)
        }
        XFS_SUPER_MAGIC => {
            let xfs = sys::xfs(&place).map_err(failed)?;
            let blocks = bytes / xfs.block_size.max(1);
            match blocks.cmp(&xfs.blocks) {
                // The kernel would try.
                std::cmp::Ordering::Less => Err(shrinks(xfs.blocks.saturating_mul(xfs.block_size))),
                std::cmp::Ordering::Equal => Ok(()),
                std::cmp::Ordering::Greater => sys::grow_xfs(&place, xfs, blocks).map_err(failed),
            }
        }
        magic => Err(GrowthError::Kind { path: path.to_owned(), magic }),
    }
}

fn magic(about: &StatFs) -> u64 {
    // A number of 32 bits in a type whose sign depends on the C library.
    u64::from_ne_bytes(about.f_type.to_ne_bytes()) & u64::from(u32::MAX)
}
