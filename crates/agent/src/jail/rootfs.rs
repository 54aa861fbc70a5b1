//! Paths inside a container's root, which the container's maker may have filled with links to anywhere: all of them are
//! resolved by the kernel as if the root were `/` (`openat2` with `RESOLVE_IN_ROOT`), and used through descriptors.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat, openat2};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A root, by descriptor.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    /// The root that `folder` is.
    pub(super) fn new(folder: OwnedFd) -> Self {
        Self(folder)
    }

    /// The root at a path of the guest, or of the root that this process has entered.
    pub(super) fn at(path: &Path) -> rustix::io::Result<Self> {
        openat(CWD, path, FOLDER, Mode::empty()).map(Self)
    }

    /// Opens what is at `path`, which may begin without a slash.
    pub(super) fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, resolve)?)
    }

    /// What is at `path`, to be mounted on, or passed on.
    pub(super) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH, Mode::empty())
    }

    /// Like `mkdir -p`; the folder. It is made before anybody has looked whether it is there: over virtio-fs each look
    /// is a question to the host.
    pub(super) fn make_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return self.open(path, FOLDER, Mode::empty());
        };
        let made = mkdirat(self.folder(parent)?, name, Mode::from_raw_mode(0o755));
        match (self.open(path, FOLDER, Mode::empty()), made) {
            (Err(error), Err(errno)) if error.kind() == io::ErrorKind::NotFound => Err(errno.into()),
            (found, _) => found,
        }
    }

    /// A folder, made if it is not there.
    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path, FOLDER, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_folder(path),
            found => found,
        }
    }

    /// The folder that `path` lies in, made if it is not there, and the last part of `path`.
    pub(super) fn make_parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a std::ffi::OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((self.folder(parent)?, name))
    }

    /// What is at `path`, or an empty file that is made there.
    pub(super) fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        let (parent, name) = self.make_parent(path)?;
        let made = mknodat(parent, name, FileType::RegularFile, Mode::from_raw_mode(0o755), 0);
        match (self.find(path), made) {
            // A link to what is not there.
            (Err(error), Err(Errno::EXIST)) if error.kind() == io::ErrorKind::NotFound => {
                self.open(path, OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o755))?;
                self.find(path)
            }
            (Err(error), Err(errno)) if error.kind() == io::ErrorKind::NotFound => Err(errno.into()),
            (found, _) => found,
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(folder: &Path) -> Root {
        Root::at(folder).expect("is there")
    }

    #[test]
    fn missing_folders_are_made() {
        let folder = tempfile::tempdir().expect("temporary folder");
        root(folder.path()).make_folder(Path::new("/a/b/c")).expect("made");
        assert!(folder.path().join("a/b/c").is_dir());
    }

    #[test]
    fn a_path_without_a_slash_begins_at_the_root() {
        let folder = tempfile::tempdir().expect("temporary folder");
        root(folder.path()).make_folder(Path::new("a/b")).expect("made");
        assert!(folder.path().join("a/b").is_dir());
    }

    #[test]
    fn a_file_is_made_where_a_link_to_nothing_leads() {
        let folder = tempfile::tempdir().expect("temporary folder");
        symlink("/target", folder.path().join("link")).expect("link");
        root(folder.path()).make_file(Path::new("/link")).expect("made");
        assert!(folder.path().join("target").is_file());
    }

    #[test]
    fn a_missing_file_is_made_with_its_folders() {
        let folder = tempfile::tempdir().expect("temporary folder");
        root(folder.path()).make_file(Path::new("/etc/resolv.conf")).expect("made");
        assert!(folder.path().join("etc/resolv.conf").is_file());
    }

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (inside, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(&inside).expect("folder");
        fs::create_dir(&outside).expect("folder");
        symlink(&outside, inside.join("absolute")).expect("link");
        symlink("../../outside", inside.join("relative")).expect("link");
        let root = root(&inside);
        for link in ["absolute", "relative"] {
            // The link's target is looked for inside, where it is not; nothing is made in its place outside.
            let _ = root.make_folder(&Path::new("/").join(link).join("made"));
            let _ = root.make_file(&Path::new("/").join(link).join("file"));
        }
        assert_eq!(fs::read_dir(&outside).expect("is there").count(), 0);
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("file"), "").expect("file");
        root(folder.path()).make_folder(Path::new("/file/below")).expect_err("a file is no folder");
    }
}
