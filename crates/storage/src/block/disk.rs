//! A disk on the host: which one it is, and opening it so that nobody else writes to it.
//!
//! Two VMs that write to one file system destroy it. So a writable disk has one user: a block device is claimed
//! (`O_EXCL`, which also fails while it is mounted), and a file is locked (`flock`), which readers share. Both belong to
//! what was opened and last as long as the VMM has it, whoever opened it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::mountinfo::MountTable;

/// Arguments of a VMM that name its pod.
const POD: &str = "sandbox-";
/// The most users that an error names.
const NAMED: usize = 4;

/// A block device or a file that is to be a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskImage {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Nobody may write to it through this disk.
    pub read_only: bool,
    /// What has been found there already: that is the disk, whatever the path leads to by now.
    pub found: Option<Found>,
}

/// What was at a disk's path when somebody looked at it.
#[derive(Debug, Clone)]
pub struct Found(Arc<OwnedFd>);

impl From<OwnedFd> for Found {
    fn from(file: OwnedFd) -> Self {
        Self(Arc::new(file))
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Found {}

/// Which disk it is, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskKey {
    /// A block device, by its number.
    Device(u64),
    /// A regular file.
    File {
        /// Its file system.
        device: u64,
        /// Its number there.
        inode: u64,
    },
}

/// Why something cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be looked at or opened.
    #[error("The disk {path:?} cannot be opened: does it exist, and may it be written to if it must?")]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{path:?} cannot be a disk: it is neither a block device nor a regular file")]
    Kind {
        /// What was named.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error(
        "The disk {path:?} is in use{}: what is written by one would destroy it for the other; end the other use first",
        by(users)
    )]
    InUse {
        /// Where it is.
        path: PathBuf,
        /// Who has it, as far as that can be seen.
        users: Vec<String>,
    },
}

fn by(users: &[String]) -> String {
    if users.is_empty() { String::new() } else { format!(" ({})", users.join(", ")) }
}

impl DiskImage {
    /// The one that is at `path` when it is opened.
    #[must_use]
    pub fn at(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, found: None }
    }

    /// By which it is opened.
    fn way(&self) -> PathBuf {
        match &self.found {
            Some(Found(file)) => Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()),
            None => self.path.clone(),
        }
    }

    /// Which disk it is.
    ///
    /// # Errors
    /// There is nothing, or nothing that can be a disk.
    pub fn key(&self) -> Result<DiskKey, DiskError> {
        let metadata =
            fs::metadata(self.way()).map_err(|source| DiskError::Open { path: self.path.clone(), source })?;
        key(&metadata).ok_or_else(|| DiskError::Kind { path: self.path.clone() })
    }

    /// Opens it for a VMM.
    ///
    /// # Errors
    /// Somebody else writes to it, or has it while it is to be written to; it cannot be opened.
    pub fn open(&self) -> Result<OwnedFd, DiskError> {
        let failed = |source| DiskError::Open { path: self.path.clone(), source };
        let key = self.key()?;
        let in_use = || DiskError::InUse { path: self.path.clone(), users: users(&self.way(), key) };
        let is_device = matches!(key, DiskKey::Device(_));
        let claim = if is_device && !self.read_only { OFlags::EXCL } else { OFlags::empty() };
        let opened = OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .custom_flags(claim.bits().cast_signed())
            .open(self.way());
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(in_use()),
            opened => opened.map_err(failed)?,
        };
        if is_device {
            return Ok(file.into());
        }
        match lock(&file, self.read_only) {
            Err(Errno::WOULDBLOCK) => Err(in_use()),
            locked => locked.map(|()| file.into()).map_err(|error| failed(error.into())),
        }
    }
}

fn lock(file: &File, shared: bool) -> Result<(), Errno> {
    let operation = match shared {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    flock(file, operation)
}

fn key(metadata: &Metadata) -> Option<DiskKey> {
    let kind = metadata.file_type();
    if kind.is_block_device() {
        Some(DiskKey::Device(metadata.rdev()))
    } else if kind.is_file() {
        Some(DiskKey::File { device: metadata.dev(), inode: metadata.ino() })
    } else {
        None
    }
}

/// Who has the disk: mounts, pods, other processes.
fn users(path: &Path, key: DiskKey) -> Vec<String> {
    let mut users = match key {
        DiskKey::Device(number) => mounts_of(number),
        DiskKey::File { .. } => Vec::new(),
    };
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let others = processes.filter(|process| process.join("fd").is_dir() && has_open(process, &path, key));
    users.extend(others.filter_map(|process| name(&process)).take(NAMED));
    users
}

fn mounts_of(number: u64) -> Vec<String> {
    let Ok(table) = MountTable::read() else { return Vec::new() };
    table.points_of(number).map(|at| format!("mounted on {}", at.display())).take(NAMED).collect()
}

/// Only by the names of what is open, as far as that goes: to look at a file may take for ever where it is shared.
fn has_open(process: &Path, path: &Path, key: DiskKey) -> bool {
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.map(|entry| entry.path()).any(|entry| {
        let Ok(name) = fs::read_link(&entry) else { return false };
        match key {
            DiskKey::Device(number) if name.starts_with("/dev") => {
                let metadata = fs::metadata(&entry);
                metadata.is_ok_and(|there| there.file_type().is_block_device() && there.rdev() == number)
            }
            DiskKey::Device(_) => false,
            DiskKey::File { .. } => name == path,
        }
    })
}

/// A process as people know it. This one is not meant.
fn name(process: &Path) -> Option<String> {
    let pid = process.file_name()?.to_str()?.to_owned();
    if pid == std::process::id().to_string() {
        return None;
    }
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    let pod = arguments.split(|byte| *byte == 0).find_map(|argument| {
        let argument = std::str::from_utf8(argument).ok()?;
        let id = &argument[argument.find(POD)? + POD.len()..];
        id.split(',').next().filter(|id| !id.is_empty()).map(str::to_owned)
    });
    let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(match pod {
        Some(pod) => format!("pod {pod}"),
        None => format!("process {pid}, {}", command.trim()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::{DiskError, DiskImage};

    fn image(dir: &std::path::Path, read_only: bool) -> DiskImage {
        DiskImage::at(dir.join("image"), read_only)
    }

    #[test]
    fn a_writable_file_has_one_user_and_a_read_only_one_has_many() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("image")).unwrap();
        let (reader, writer) = (image(dir.path(), true), image(dir.path(), false));
        let readers = (reader.open().unwrap(), reader.open().unwrap());
        assert!(matches!(writer.open(), Err(DiskError::InUse { .. })));
        drop(readers);
        let written = writer.open().unwrap();
        assert!(matches!(writer.open(), Err(DiskError::InUse { .. })));
        assert!(matches!(reader.open(), Err(DiskError::InUse { .. })));
        drop(written);
        reader.open().unwrap();
    }

    #[test]
    fn the_other_user_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        File::create(&path).unwrap();
        let mut other = std::process::Command::new("flock")
            .args(["-x", path.to_str().unwrap(), "-c", "echo locked; read end"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = std::io::BufReader::new(other.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut { output }, &mut line).unwrap();
        let error = image(dir.path(), false).open().unwrap_err().to_string();
        drop(other.stdin.take());
        other.wait().unwrap();
        assert!(error.contains(&format!("process {}", other.id())), "{error}");
    }

    #[test]
    fn one_file_has_one_key_whatever_its_path() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("image")).unwrap();
        std::os::unix::fs::symlink("image", dir.path().join("link")).unwrap();
        fs::hard_link(dir.path().join("image"), dir.path().join("hard")).unwrap();
        let key = |name: &str| DiskImage::at(dir.path().join(name), false).key().unwrap();
        assert_eq!(key("image"), key("link"));
        assert_eq!(key("image"), key("hard"));
    }

    #[test]
    fn directories_and_pipes_are_no_disks() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DiskImage::at(dir.path().to_owned(), true);
        assert!(matches!(directory.open(), Err(DiskError::Kind { .. })));
        let nothing = DiskImage::at(dir.path().join("none"), true);
        assert!(matches!(nothing.open(), Err(DiskError::Open { .. })));
    }
}
