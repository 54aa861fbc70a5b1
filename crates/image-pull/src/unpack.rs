//! Layers, unpacked over each other (OCI image specification, "Applying Changesets").
//!
//! An image is not trusted: a layer is unpacked by a thread whose root is the image's. Whatever a name or a link in it
//! says, the kernel finds no other file.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Component, Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot};
use rustix::fs::{
    AtFlags, CWD, FileType, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};

use crate::media::Layer;

#[cfg(test)]
mod tests;

/// A name that begins so takes the file of the remaining name away.
const WHITEOUT: &[u8] = b".wh.";
/// Takes away all that lower layers have in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Attributes in an archive.
const ATTRIBUTE: &str = "SCHILY.xattr.";

/// A layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// No thread of its own, or no root.
    #[error("The image's directory cannot be entered: this needs the rights of root")]
    Enter(#[source] io::Error),
    /// The archive breaks off, or its digest is another.
    #[error("The archive is damaged or not the one that the manifest names; push the image anew")]
    Archive(#[source] io::Error),
    /// The archive is whole, but not the one that the image is made of.
    #[error(
        "The files have the digest {found}, but the image's configuration names {expected}: build the image anew"
    )]
    DiffId {
        /// That of the configuration.
        expected: String,
        /// That of the archive.
        found: String,
    },
    /// A name that leads out.
    #[error("The archive has {path:?}, which leads out of the image")]
    Outside {
        /// The name.
        path: PathBuf,
    },
    /// A kind of file that images do not have.
    #[error("The archive has {path:?}, which is no file that an image can have (type {kind:?})")]
    Kind {
        /// Its name.
        path: PathBuf,
        /// Its kind.
        kind: EntryType,
    },
    /// A file could not be made.
    #[error("{path:?} cannot be made{}", advice(source))]
    File {
        /// Its name in the image.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A bug.
    #[error("The thread that unpacks has ended without a result: report this")]
    Died,
}

fn advice(error: &io::Error) -> &'static str {
    // Some errors come with the kernel's in them.
    let is_full = |error: &(dyn std::error::Error + 'static)| {
        let found = error.downcast_ref::<io::Error>().map(io::Error::kind);
        found == Some(io::ErrorKind::StorageFull)
    };
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if is_full(error) {
            return ": the image does not fit into the guest's memory; give the VM more (`default_memory`, with limits `overhead_memory`)";
        }
        next = error.source();
    }
    ""
}

type Result<T> = std::result::Result<T, UnpackError>;

/// Unpacks one layer over what is in `root`. Its digest when unpacked must be `diff_id`.
pub(crate) fn layer(root: &Path, bytes: impl Read + Send, layer: Layer, diff_id: &str) -> Result<()> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("unpack".to_owned()).spawn_scoped(scope, || {
            enter(root).map_err(UnpackError::Enter)?;
            let mut archive = Hashed::new(layer.archive(bytes).map_err(UnpackError::Archive)?);
            apply(&mut archive)?;
            archive.finish(diff_id)
        });
        thread.map_err(UnpackError::Enter)?.join().unwrap_or(Err(UnpackError::Died))
    })
}

/// From here on the thread knows no files but those in `root`.
fn enter(root: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    chroot(root)?;
    chdir("/")?;
    umask(Mode::empty());
    Ok(())
}

/// What is read, with its digest.
struct Hashed<R> {
    from: R,
    digest: Sha256,
}

impl<R: Read> Hashed<R> {
    fn new(from: R) -> Self {
        Self { from, digest: Sha256::new() }
    }

    /// Reads what follows the archive: only its end says that the digest of the whole is right.
    fn finish(mut self, expected: &str) -> Result<()> {
        io::copy(&mut self, &mut io::sink()).map_err(UnpackError::Archive)?;
        let hex: String = self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let found = format!("sha256:{hex}");
        match found == expected {
            true => Ok(()),
            false => Err(UnpackError::DiffId { expected: expected.to_owned(), found }),
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}

/// Unpacks an archive over what is in `/`.
fn apply(bytes: impl Read) -> Result<()> {
    let mut archive = Archive::new(bytes);
    archive.set_preserve_permissions(true);
    // The library refuses archives that leave the fields of owners and times empty, which others take for 0.
    archive.set_preserve_ownerships(false);
    archive.set_preserve_mtime(false);
    let mut unpacked = Unpacked::default();
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        unpacked.add(entry.map_err(UnpackError::Archive)?)?;
    }
    unpacked.set_directory_times()
}

/// What this layer has made.
#[derive(Default)]
struct Unpacked {
    /// All of it, with the directories above.
    paths: HashSet<PathBuf>,
    directories: Vec<(PathBuf, Timestamps)>,
}

impl Unpacked {
    fn add(&mut self, mut entry: Entry<'_, impl Read>) -> Result<()> {
        let path = inside(&entry)?;
        let failed = |source| UnpackError::File { path: path.clone(), source };
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new("/"));
        if name == OPAQUE {
            return self.clear(parent).map_err(failed);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            // A name of dots would be the directory itself, or the one above.
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(UnpackError::Outside { path });
            }
            return self.hide(&parent.join(OsStr::from_bytes(hidden))).map_err(failed);
        }
        let kind = entry.header().entry_type();
        make_way(&path, kind).map_err(failed)?;
        match kind {
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                node(&path, kind, &entry).map_err(failed)?;
            }
            EntryType::Directory if path == Path::new("/") => {}
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory => {
                if !entry.unpack_in("/").map_err(failed)? {
                    return Err(UnpackError::Outside { path });
                }
            }
            EntryType::XGlobalHeader => return Ok(()),
            kind => return Err(UnpackError::Kind { path, kind }),
        }
        self.finish(&path, kind, &mut entry).map_err(failed)?;
        for made in path.ancestors() {
            if !self.paths.insert(made.to_owned()) {
                break;
            }
        }
        Ok(())
    }

    /// Owner, attributes and times. A hard link has its file's, and a directory gets its times when all is in it.
    fn finish(&mut self, path: &Path, kind: EntryType, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        if kind == EntryType::Link {
            return Ok(());
        }
        own(path, entry)?;
        set_attributes(path, entry)?;
        let header = entry.header();
        let seconds = number(&header.as_old().mtime, || header.mtime())?;
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        if kind == EntryType::Directory {
            self.directories.push((path.to_owned(), times));
            return Ok(());
        }
        Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Takes away what lower layers have in `directory`.
    fn clear(&self, directory: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if !self.paths.contains(&path) {
                remove(&path)?;
            } else if fs::symlink_metadata(&path)?.is_dir() {
                self.clear(&path)?;
            }
        }
        Ok(())
    }

    /// Takes away what lower layers have at `path`.
    fn hide(&self, path: &Path) -> io::Result<()> {
        if self.paths.contains(path) { Ok(()) } else { remove(path) }
    }

    /// The last one made comes first, so that none changes one above it afterwards.
    fn set_directory_times(self) -> Result<()> {
        for (path, times) in self.directories.into_iter().rev() {
            match utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW) {
                // A later entry of the same layer has replaced it.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(UnpackError::File { path, source: errno.into() }),
            }
        }
        Ok(())
    }
}

/// An entry's path from the image's root. None leads up, whatever the kernel would make of it.
fn inside(entry: &Entry<'_, impl Read>) -> Result<PathBuf> {
    let named = entry.path().map_err(UnpackError::Archive)?;
    let mut path = PathBuf::from("/");
    for component in named.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(UnpackError::Outside { path: named.into_owned() });
            }
        }
    }
    Ok(path)
}

/// Takes away what a lower layer has at `path`; only a directory may stay, for a directory.
fn make_way(path: &Path, kind: EntryType) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() && kind == EntryType::Directory => Ok(()),
        Ok(_) if path != Path::new("/") => remove(path),
        Ok(_) => Err(io::ErrorKind::IsADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes whatever is there; links are not followed.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        // A whiteout for what is not there means nothing; nor does one below a file.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        removed => removed,
    }
}

/// A device or FIFO, which the archive's reader would make a file.
fn node(path: &Path, kind: EntryType, entry: &Entry<'_, impl Read>) -> io::Result<()> {
    let header = entry.header();
    let device = || -> io::Result<_> {
        let (major, minor) = (header.device_major()?, header.device_minor()?);
        Ok(makedev(major.unwrap_or_default(), minor.unwrap_or_default()))
    };
    let (kind, device) = match kind {
        EntryType::Char => (FileType::CharacterDevice, device()?),
        EntryType::Block => (FileType::BlockDevice, device()?),
        _ => (FileType::Fifo, 0),
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(mknodat(CWD, path, kind, rustix::fs::Mode::empty(), device)?)
}

/// Owner first: a change of it takes set-id bits away.
fn own(path: &Path, entry: &Entry<'_, impl Read>) -> io::Result<()> {
    let header = entry.header();
    let fields = header.as_old();
    let uid = number(&fields.uid, || header.uid())?;
    let gid = number(&fields.gid, || header.gid())?;
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    lchown(path, Some(id(uid)?), Some(id(gid)?))?;
    if header.entry_type() == EntryType::Symlink {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(header.mode()? & 0o7777))
}

/// A number of a header; that of an empty field is 0.
fn number(field: &[u8], read: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { read() }
}

/// Those that the file system does not have are left out, as other runtimes do.
fn set_attributes(path: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(ATTRIBUTE)) else { continue };
        match lsetxattr(path, name, extension.value_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
