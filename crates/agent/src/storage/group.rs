//! Volumes that belong to a group (Kubernetes' `fsGroup`): everything in them can be read and written by it, and what is
//! made in their folders is the group's, too.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kata_protocol::agent::FSGroup;
use kata_protocol::types::FSGroupChangePolicy;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, StatVfsMountFlags, chownat, fstat, fstatvfs, openat,
};

/// Readable and writable.
const FILE: u32 = 0o660;
/// And searchable, with the group handed down.
const FOLDER: u32 = 0o2770;

/// Gives all of the volume at `root` to its group, as its policy says. A read-only volume stays as it is, and so does what
/// may not be changed: an immutable file, or all of a file system that has no groups, as vfat.
pub(super) fn give(root: &Path, group: &FSGroup) -> io::Result<()> {
    let volume = Entry::open(CWD, root)?;
    if fstatvfs(&volume.0)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let only_if_needed = group.group_change_policy.enum_value() == Ok(FSGroupChangePolicy::OnRootMismatch);
    if only_if_needed && volume.belongs_to(group.group_id)? {
        return Ok(());
    }
    // Contents first: a root that belongs to the group says that everything does.
    let mut kept = give_contents(&volume, group.group_id)?;
    kept += refused(volume.give(group.group_id, FOLDER))?;
    if kept > 0 {
        let volume = root.display();
        tracing::warn!(%volume, group = group.group_id, kept, "Some of a volume may not be given to its group");
    }
    Ok(())
}

/// One if it may not be changed, whoever asks.
fn refused(given: io::Result<()>) -> io::Result<u64> {
    match given {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(1),
        Err(error) => Err(error),
    }
}

/// Gives only the folder to the group: a volume that has just been made.
pub(super) fn give_root(root: &Path, group: &FSGroup) -> io::Result<()> {
    Entry::open(CWD, root)?.give(group.group_id, FOLDER)
}

/// How many may not be given. Depth first, so that no more folders are open than lie in each other.
fn give_contents(volume: &Entry, group: u32) -> io::Result<u64> {
    let (mut open, mut kept) = (vec![volume.list()?], 0);
    while let Some(folder) = open.last_mut() {
        let Some(found) = folder.next() else {
            open.pop();
            continue;
        };
        let found = found?;
        if is_self_or_parent(found.file_name()) {
            continue;
        }
        let entry = match Entry::open(folder.fd()?, found.file_name()) {
            // Somebody else uses the volume, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entry => entry?,
        };
        match entry.kind()? {
            FileType::Directory => {
                kept += refused(entry.give(group, FOLDER))?;
                open.push(entry.list()?);
            }
            // A link's own permissions mean nothing.
            FileType::Symlink => kept += refused(entry.change_group(group))?,
            _ => kept += refused(entry.give(group, FILE))?,
        }
    }
    Ok(kept)
}

fn is_self_or_parent(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Something in a volume, never what a link there leads to.
struct Entry(OwnedFd);

impl Entry {
    fn open(folder: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(folder, name, flags, Mode::empty())?))
    }

    fn kind(&self) -> io::Result<FileType> {
        Ok(FileType::from_raw_mode(fstat(&self.0)?.st_mode))
    }

    fn list(&self) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir::new(openat(&self.0, ".", flags, Mode::empty())?)?)
    }

    fn belongs_to(&self, group: u32) -> io::Result<bool> {
        let found = fstat(&self.0)?;
        Ok(found.st_gid == group && found.st_mode & FOLDER == FOLDER)
    }

    fn change_group(&self, group: u32) -> io::Result<()> {
        Ok(chownat(&self.0, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?)
    }

    /// What is right already is not written to: a large volume is walked again with each start. The permissions come second,
    /// as a change of the group takes set-id bits away.
    fn give(&self, group: u32, mode: u32) -> io::Result<()> {
        let found = fstat(&self.0)?;
        if found.st_gid == group && found.st_mode & mode == mode {
            return Ok(());
        }
        let before = found.st_mode & 0o7777;
        self.change_group(group)?;
        // The descriptor is only a place: permissions are changed by a name for it.
        let name = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        fs::set_permissions(name, fs::Permissions::from_mode(before | mode))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn group(policy: FSGroupChangePolicy) -> FSGroup {
        FSGroup { group_id: 4321, group_change_policy: policy.into(), ..Default::default() }
    }

    /// Group and permissions.
    fn of(path: &Path) -> (u32, u32) {
        let found = fs::symlink_metadata(path).expect("is there");
        (found.gid(), found.mode() & 0o7777)
    }

    fn volume() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary folder");
        fs::create_dir_all(root.path().join("volume/a/b")).expect("folders");
        fs::write(root.path().join("volume/a/b/file"), "").expect("a file");
        fs::write(root.path().join("outside"), "").expect("a file");
        let modes = [("volume/a/b/file", 0o600), ("volume/a", 0o755), ("outside", 0o600)];
        for (path, mode) in modes {
            fs::set_permissions(root.path().join(path), fs::Permissions::from_mode(mode)).expect("changed");
        }
        symlink(root.path().join("outside"), root.path().join("volume/a/link")).expect("a link");
        root
    }

    #[test]
    fn everything_in_a_volume_is_given_to_its_group_and_nothing_outside() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = volume();
        give(&root.path().join("volume"), &group(FSGroupChangePolicy::Always)).expect("given");
        let of = |path: &str| of(&root.path().join(path));
        assert_eq!(of("volume").0, 4321);
        assert_eq!((of("volume/a"), of("volume/a/b/file")), ((4321, 0o2775), (4321, 0o660)));
        assert_eq!((of("volume/a/link").0, of("outside")), (4321, (0, 0o600)));
    }

    /// One immutable file kept a volume's pod from starting.
    #[test]
    fn what_may_not_be_changed_stays_and_the_rest_is_given() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = volume();
        let at = |path: &str| root.path().join("volume").join(path);
        let change = |flag: &str| {
            let changed = std::process::Command::new("chattr").arg(flag).arg(at("a/b/file")).status();
            changed.is_ok_and(|status| status.success())
        };
        if !change("+i") {
            return println!("skipped: no file can be made immutable here");
        }
        let given = give(&at(""), &group(FSGroupChangePolicy::Always));
        assert!(change("-i"));
        given.expect("given");
        assert_eq!((of(&at("a/b/file")), of(&at("a/b")).0, of(&at("")).0), ((0, 0o600), 4321, 4321));
    }

    #[test]
    fn what_is_right_already_is_not_written_to() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = volume();
        let file = root.path().join("volume/a/b/file");
        let changed =
            || fs::metadata(&file).map(|found| (found.ctime(), found.ctime_nsec())).expect("is there");
        let give = || give(&root.path().join("volume"), &group(FSGroupChangePolicy::Always)).expect("given");
        give();
        let before = changed();
        // Times are those of the last tick.
        while fs::write(root.path().join("outside"), "x").is_ok()
            && fs::metadata(root.path().join("outside")).expect("is there").ctime_nsec() == before.1
        {}
        give();
        assert_eq!(changed(), before);
    }

    #[test]
    fn a_root_that_belongs_to_the_group_ends_it_if_the_policy_says_so() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = volume();
        let file = root.path().join("volume/a/b/file");
        give_root(&root.path().join("volume"), &group(FSGroupChangePolicy::Always)).expect("given");
        give(&root.path().join("volume"), &group(FSGroupChangePolicy::OnRootMismatch)).expect("as it is");
        assert_eq!(of(&file), (0, 0o600));
        give(&root.path().join("volume"), &group(FSGroupChangePolicy::Always)).expect("given");
        assert_eq!(of(&file), (4321, 0o660));
    }
}
