//! What the containers of a pod share of memory and of disks: it has the directories in it that containers bind.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Component, Path};

use kata_protocol::agent::Storage;
use kata_protocol::guest;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat};
use rustix::io::Errno;

/// A directory in a volume could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    /// The host's words.
    #[error(
        "The directory {text:?} in the volume {volume} is not understood; it is `mode:group:path` below it"
    )]
    Form {
        /// What they are.
        text: String,
        /// Where it is mounted.
        volume: String,
    },
    /// It is not there and cannot be made, or is something else.
    #[error(
        "There is no directory {path:?} in the volume {volume}; a container of this pod has put something else there"
    )]
    Make {
        /// Its path in the volume.
        path: String,
        /// Where that is mounted.
        volume: String,
        /// Why not.
        source: io::Error,
    },
}

/// Makes the directories that the host names in these storages, which are mounted.
pub(super) fn make(storages: &[Storage]) -> Result<(), PartError> {
    for storage in storages {
        for option in &storage.driver_options {
            let text = option.strip_prefix(guest::VOLUME_DIRECTORY).and_then(|rest| rest.strip_prefix('='));
            if let Some(text) = text {
                make_one(&storage.mount_point, text)?;
            }
        }
    }
    Ok(())
}

fn make_one(volume: &str, text: &str) -> Result<(), PartError> {
    let form = || PartError::Form { text: text.to_owned(), volume: volume.to_owned() };
    let mut parts = text.splitn(3, ':');
    let mode = parts.next().and_then(|mode| u32::from_str_radix(mode, 8).ok()).ok_or_else(form)?;
    let group = parts.next().and_then(|group| group.parse().ok()).ok_or_else(form)?;
    let path = parts.next().ok_or_else(form)?;
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(form());
    }
    let made = make_folders(Path::new(volume), Path::new(path), mode & 0o7777, group);
    made.map_err(|source| PartError::Make { path: path.to_owned(), volume: volume.to_owned(), source })
}

/// Containers write there, so no link of theirs is followed. What is there stays as they have made it, and may be a file:
/// the kubelet, which does not see it, has made a directory of that name.
fn make_folders(volume: &Path, path: &Path, mode: u32, group: u32) -> io::Result<()> {
    let mut folder = open(CWD, volume)?;
    let mut parts = path.iter().map(Path::new).peekable();
    while let Some(part) = parts.next() {
        match mkdirat(&folder, part, Mode::RWXU) {
            Ok(()) => {
                folder = open(&folder, part)?;
                fchown(&folder, None, Some(group))?;
                File::from(folder.try_clone()?).set_permissions(PermissionsExt::from_mode(mode))?;
            }
            Err(Errno::EXIST) if parts.peek().is_none() && is_file(&folder, part)? => return Ok(()),
            Err(Errno::EXIST) => folder = open(&folder, part)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn is_file(folder: &OwnedFd, name: &Path) -> io::Result<bool> {
    let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode).is_file())
}

fn open(folder: impl std::os::fd::AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(folder, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn storage(memory: &Path, part: &str) -> Storage {
        Storage {
            mount_point: memory.to_str().expect("is text").into(),
            driver_options: vec!["other=1".into(), format!("{}={part}", guest::VOLUME_DIRECTORY)],
            ..Default::default()
        }
    }

    #[test]
    fn a_directory_is_made_with_its_mode_and_group_and_then_left_alone() {
        let memory = tempfile::tempdir().expect("temporary folder");
        let storages = [storage(memory.path(), "2770:5:a:b/c")];
        make(&storages).expect("made");
        let made = memory.path().join("a:b/c");
        let found = fs::metadata(&made).expect("is there");
        assert_eq!((found.permissions().mode() & 0o7777, found.gid()), (0o2770, 5));
        fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).expect("changed");
        make(&storages).expect("is there");
        assert_eq!(fs::metadata(&made).expect("is there").permissions().mode() & 0o7777, 0o700);
    }

    /// An init container's file could not be mounted by itself (`subPath`).
    #[test]
    fn a_file_that_a_container_has_made_may_be_the_part() {
        let memory = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(memory.path().join("a")).expect("made");
        fs::write(memory.path().join("a/app.conf"), "x").expect("written");
        make(&[storage(memory.path(), "755:0:a/app.conf")]).expect("it is there");
        let refused = make(&[storage(memory.path(), "755:0:a/app.conf/b")]).expect_err("no directory");
        assert!(matches!(refused, PartError::Make { .. }), "{refused}");
    }

    #[test]
    fn a_link_that_a_container_has_made_leads_nowhere() {
        let memory = tempfile::tempdir().expect("temporary folder");
        let outside = tempfile::tempdir().expect("temporary folder");
        symlink(outside.path(), memory.path().join("a")).expect("linked");
        for part in ["755:0:a/b", "755:0:a"] {
            let refused = make(&[storage(memory.path(), part)]).expect_err("a link");
            assert!(matches!(refused, PartError::Make { .. }), "{refused}");
        }
        assert_eq!(fs::read_dir(outside.path()).expect("is there").count(), 0);
    }

    #[test]
    fn what_leads_out_of_the_memory_is_refused() {
        let memory = tempfile::tempdir().expect("temporary folder");
        for part in ["755:0:../a", "755:0:/a", "755:0", "999:0:a", "755:x:a", ""] {
            let refused = make(&[storage(memory.path(), part)]).expect_err("no directory in it");
            assert!(matches!(refused, PartError::Form { .. }), "{part}: {refused}");
        }
    }
}
