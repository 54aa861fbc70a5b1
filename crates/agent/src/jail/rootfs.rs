//! What must be there in a container's root file system before it is entered.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;

/// The root file system cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    /// It is not there.
    #[error("The container's root file system {} is not there in the guest; was it shared?", path.display())]
    Missing { path: PathBuf, source: io::Error },
    /// The working folder cannot be had.
    #[error("Cannot use the working folder {} of the container's process", path.display())]
    WorkingFolder { path: PathBuf, source: io::Error },
}

/// Opens the root and makes the working folder, as runc does, if it is not there.
pub(super) fn prepare(root: &Path, cwd: &Path) -> Result<(), RootError> {
    let missing = |errno: Errno| RootError::Missing { path: root.to_owned(), source: errno.into() };
    let folder =
        open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(missing)?;
    match make_folder(&folder, cwd) {
        // It may appear with a mount, and if not, entering it says what is wrong.
        Ok(()) | Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Ok(()),
        Err(errno) => Err(RootError::WorkingFolder { path: cwd.to_owned(), source: errno.into() }),
    }
}

/// Like `mkdir -p`, with links followed as if `root` were `/`.
fn make_folder(root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    if open_in(root, path).is_ok() {
        return Ok(());
    }
    let mut parent = open_in(root, Path::new("/"))?;
    let mut so_far = PathBuf::from("/");
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        so_far.push(name);
        parent = match open_in(root, &so_far) {
            Err(Errno::NOENT) => {
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                open_in(root, &so_far)?
            }
            found => found?,
        };
    }
    Ok(())
}

fn open_in(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_missing_root_is_named() {
        let error = prepare(Path::new("/no/such/root"), Path::new("/")).expect_err("no root");
        assert!(error.to_string().contains("/no/such/root"));
    }

    #[test]
    fn a_missing_working_folder_is_made() {
        let root = tempfile::tempdir().expect("temporary folder");
        prepare(root.path(), Path::new("/srv/app")).expect("made");
        assert!(root.path().join("srv/app").is_dir());
    }

    #[test]
    fn a_link_does_not_lead_out_of_the_root() {
        let root = tempfile::tempdir().expect("temporary folder");
        let outside = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(root.path().join("inside")).expect("folder");
        symlink(outside.path(), root.path().join("escape")).expect("link");
        symlink("/inside", root.path().join("link")).expect("link");
        assert!(prepare(root.path(), Path::new("/escape/app")).is_err());
        assert!(!outside.path().join("app").exists());
        prepare(root.path(), Path::new("/link/app")).expect("made");
        assert!(root.path().join("inside/app").is_dir());
    }

    #[test]
    fn a_file_is_no_working_folder() {
        let root = tempfile::tempdir().expect("temporary folder");
        fs::write(root.path().join("file"), "").expect("file");
        assert!(matches!(prepare(root.path(), Path::new("/file")), Err(RootError::WorkingFolder { .. })));
    }
}
