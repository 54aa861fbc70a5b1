//! Images of file systems that the host makes: sparse files with an ext4 in them, which become disks of a VM.
//!
//! The guest has no programs that make file systems, so the host's `mke2fs` does. What it writes depends on neither its version nor
//! its configuration: every feature is named. An image takes only the space of what is written to it, and gives it back
//! when the guest discards it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::trail::{StepError, Trail};

/// What the guest calls the file system.
pub const FS_TYPE: &str = "ext4";
/// How the guest mounts it: freed space goes back to the host, and tables that nothing stands in are not written.
pub const OPTIONS: [&str; 2] = ["discard", "noinit_itable"];

/// Makes the file system.
const PROGRAM: &str = "mke2fs";
/// Where it is, beside the places of `PATH`.
const PLACES: &str = "/usr/sbin:/sbin:/usr/local/sbin";
/// What the file system has, beyond a journal.
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,\
                        dir_nlink,extra_isize,metadata_csum";
/// File systems with less than this have small blocks, so that a small journal does.
const SMALL: u64 = 64 << 20;
/// Those with less than this have more inodes, for small files.
const MIDDLE: u64 = 512 << 20;
/// Units of the size of a journal.
const MIB: u64 = 1 << 20;
/// How much of the program's words an error tells.
const WORDS: usize = 300;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be made.
    #[error("The image {path:?} cannot be made: check that its directory can be written to and has room")]
    File {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not one that this runtime has made.
    #[error("{path:?} is no image that this runtime has made: remove it")]
    Foreign {
        /// Where it is.
        path: PathBuf,
    },
    /// The program could not be run.
    #[error("{PROGRAM} cannot be run on the host, which makes file systems in images: install e2fsprogs")]
    Program(#[source] io::Error),
    /// The program did not do it.
    #[error("{PROGRAM} could not make a file system of {size} bytes in {path:?} ({status}): {words}")]
    Format {
        /// The image.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        words: String,
    },
    /// The intent log cannot be written, or what was made cannot be removed.
    #[error("The image cannot be accounted for")]
    Step(#[from] StepError),
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It stays when its VM has died, so that it needs a journal.
    Kept,
    /// It ends with its container.
    Once,
}

/// Makes the image `path` of `size` bytes, in place of what an attempt that was cut off has left. Its removal is up to `trail`.
pub(crate) fn make(trail: &mut Trail, path: &Path, size: u64, purpose: Use) -> Result<(), ImageError> {
    let failed = |source| ImageError::File { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => trail.file(path)?,
    }
    let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(nofollow).open(path).map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    format(path, size, purpose)
}

/// Makes the image `path` of `size` bytes unless it is there; then it stays as it is. It has no name before it is complete:
/// until then that is `draft`.
pub(crate) fn make_once(mut trail: Trail, path: &Path, draft: &Path, size: u64) -> Result<(), ImageError> {
    if exists(path)? {
        return Ok(());
    }
    let failed = |source| ImageError::File { path: path.to_owned(), source };
    let made = make(&mut trail, draft, size, Use::Kept).and_then(|()| match fs::hard_link(draft, path) {
        // Another container of the pod was faster.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    });
    let undone = trail.undo();
    made?;
    undone?;
    exists(path).map(drop)
}

/// A guest may once have written to the image's directory, where it is shared in another mode: nothing that it has put there may
/// lead to another file of the host's.
fn exists(path: &Path) -> Result<bool, ImageError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.uid() == geteuid().as_raw() => Ok(true),
        Ok(_) => Err(ImageError::Foreign { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ImageError::File { path: path.to_owned(), source }),
    }
}

fn format(path: &Path, size: u64, purpose: Use) -> Result<(), ImageError> {
    let block: u64 = if size < SMALL { 1024 } else { 4096 };
    let inode_ratio = if size < MIDDLE { "8192" } else { "16384" };
    let mut command = Command::new(PROGRAM);
    command.args([
        "-q",
        "-F",
        "-t",
        FS_TYPE,
        "-I",
        "256",
        "-m",
        "0",
        "-i",
        inode_ratio,
        "-b",
        &block.to_string(),
    ]);
    match purpose {
        Use::Kept => {
            // At least 1024 blocks; more than the most is of no use here.
            let journal = (size / 64 / MIB).clamp(block / 1024, 64);
            command.args(["-J", &format!("size={journal}"), "-O", &format!("{FEATURES},has_journal")]);
            command.args(["-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]);
        }
        Use::Once => drop(command.args(["-O", FEATURES, "-E", "nodiscard,lazy_itable_init=1"])),
    }
    let places = std::env::var("PATH").map_or_else(|_| PLACES.to_owned(), |path| format!("{path}:{PLACES}"));
    command.arg("--").arg(path).env("PATH", places).env("MKE2FS_CONFIG", "/dev/null").env("LC_ALL", "C");
    let output = command.stdin(Stdio::null()).output().map_err(ImageError::Program)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim().chars().take(WORDS).collect();
    Err(ImageError::Format { path: path.to_owned(), size, status: output.status, words })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::process::Command;

    use super::{ImageError, Use, make, make_once};
    use crate::testing::MemoryLog;
    use crate::trail::Trail;

    #[test]
    fn an_image_of_any_size_is_a_sparse_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let log = MemoryLog::new();
        for (number, (size, purpose)) in
            [(4 << 20, Use::Kept), (5 << 20, Use::Once), (100 << 20, Use::Kept), (300 << 30, Use::Kept)]
                .into_iter()
                .enumerate()
        {
            let path = dir.path().join(number.to_string());
            make(&mut Trail::new(log.clone()), &path, size, purpose).unwrap();
            let found = fs::metadata(&path).unwrap();
            assert_eq!(found.len(), size);
            assert!(found.blocks() * 512 < (4 << 20) + size / 1000, "{size}: {} blocks", found.blocks());
            let checked = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&path).output().unwrap();
            assert!(checked.status.success(), "{size}: {checked:?}");
        }
    }

    #[test]
    fn an_image_is_made_once_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (path, draft) = (dir.path().join("image"), dir.path().join("draft"));
        fs::write(&draft, "left by an attempt that was cut off").unwrap();
        let log = MemoryLog::new();
        let make = |size| make_once(Trail::new(log.clone()), &path, &draft, size);
        make(8 << 20).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        make(9 << 20).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.ino(), found.len(), found.nlink()), (inode, 8 << 20, 1));
        assert!(!draft.exists() && log.open().is_empty());
    }

    /// A guest to which the directory was shared before may have put a link to a disk of the host's there.
    #[test]
    fn a_link_in_the_place_of_an_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, draft) = (dir.path().join("image"), dir.path().join("draft"));
        fs::write(dir.path().join("precious"), "x").unwrap();
        symlink("precious", &path).unwrap();
        let refused = make_once(Trail::new(MemoryLog::new()), &path, &draft, 8 << 20).unwrap_err();
        assert!(matches!(refused, ImageError::Foreign { .. }), "{refused}");
        assert_eq!(fs::read(dir.path().join("precious")).unwrap(), b"x");
    }

    #[test]
    fn the_words_of_the_program_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let refused =
            make(&mut Trail::new(MemoryLog::new()), &path, 8 << 10, Use::Kept).unwrap_err().to_string();
        assert!(refused.contains("8192 bytes") && refused.contains("space"), "{refused}");
    }
}
