//! Taking back what was announced in the file system, and processes.
//!
//! Used while a sandbox lives, at its orderly end, after failed starts, and by whoever finds a sandbox whose process
//! has died. It can be repeated, and interrupted at any point.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::processes;
use kata_intent::Intent;

/// Mounts over one another on the same mount point that are undone; more would be an attack or a loop.
const MAX_STACKED: usize = 64;

/// Takes back what `intent` announced. It is no error if it was never made or is gone already.
///
/// A directory that is not empty stays: something else uses it, or something below it could not be undone. No
/// symbolic link on the way is followed. Processes are killed and waited for.
///
/// # Errors
/// It is still there.
pub fn undo(intent: &Intent) -> io::Result<()> {
    match intent {
        Intent::Process { argv_token, exe } => processes::kill_all(argv_token, exe),
        Intent::Mount { target } => undo_mount(target),
        Intent::Dir { path } => remove(path, AtFlags::REMOVEDIR),
        Intent::Cgroup { path } => remove_cgroup(path),
        Intent::Scope { unit, socket } => {
            kata_cgroup::Systemd::at(socket.clone()).stop(unit).map_err(io::Error::other)
        }
        Intent::File { path } | Intent::Socket { path } | Intent::Link { path } => {
            remove(path, AtFlags::empty())
        }
        Intent::Interface { .. } | Intent::Ingress { .. } | Intent::Limit { .. } => {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

/// Removes the last component of `path` itself, whatever it is.
fn remove(path: &Path, flags: AtFlags) -> io::Result<()> {
    let Some((parent, name)) = parent(path)? else { return Ok(()) };
    match unlinkat(&parent, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // What was announced as a directory is not there, but something else is: not ours.
        Err(Errno::NOTDIR | Errno::ISDIR) => Ok(()),
        // Another sandbox still uses it; or what is in it could not be undone, which was reported then.
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a cgroup, unless others are below it. Its processes were killed before: the last of them may still be on their
/// way out.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    match remove(path, AtFlags::REMOVEDIR) {
        // Of another sandbox; if it is of this one, that was reported.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && has_directories(path) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            processes::wait_for_members(path)?;
            // A hook may have left something running, which is not ours to end.
            remove(path, AtFlags::REMOVEDIR).or_else(|_| {
                kata_cgroup::evict(path)?;
                remove(path, AtFlags::REMOVEDIR)
            })
        }
        removed => removed,
    }
}

fn has_directories(path: &Path) -> bool {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// Unmounts everything from the mount point; lazily only if something still holds it.
fn undo_mount(target: &Path) -> io::Result<()> {
    let Some((parent, name)) = parent(target)? else { return Ok(()) };
    // The last component is not followed, and those before it were checked when `parent` was opened.
    let at = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    for _ in 0..MAX_STACKED {
        let result = match unmount(&at, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => unmount(&at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
            other => other,
        };
        match result {
            Ok(()) => {}
            // Not a mount point (any more).
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("there are too many mounts on one another"))
}

/// Opens the parent directory of `path` without following any link: what the guest or a container made must
/// not lead the clean-up elsewhere. `None` if it is not there.
fn parent(path: &Path) -> io::Result<Option<(OwnedFd, &OsStr)>> {
    let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path of something"));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(CWD, parent, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(fd) => Ok(Some((fd, name))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(Errno::LOOP) => Err(io::Error::other("a symbolic link is in the way; it was not followed")),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use rustix::mount::{MountFlags, mount};

    use super::undo;
    use crate::testing::in_private_mounts;
    use kata_intent::Intent;

    #[test]
    fn undoing_what_is_not_there_does_no_harm() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("missing");
        for intent in [
            Intent::Dir { path: path.clone() },
            Intent::File { path: path.clone() },
            Intent::Socket { path: path.clone() },
            Intent::Link { path: path.clone() },
            Intent::Cgroup { path: path.clone() },
            Intent::Mount { target: path.clone() },
            Intent::Mount { target: temp.path().to_owned() },
            Intent::Process { argv_token: "no-such-token-1f8".to_owned(), exe: "/bin/true".into() },
        ] {
            match undo(&intent) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    eprintln!("skipped {intent:?}: {error}");
                }
                undone => undone.unwrap(),
            }
        }
    }

    #[test]
    fn a_directory_in_use_stays() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("precious"), "").unwrap();
        undo(&Intent::Dir { path: temp.path().to_owned() }).unwrap();
        assert!(temp.path().join("precious").exists());
    }

    /// A killed process is reported gone a moment before its cgroup is free of its children.
    #[test]
    fn a_cgroup_goes_when_the_last_process_in_it_has() {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists());
        let path = root.unwrap_or(Path::new("/nowhere")).join(format!("kata-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            return eprintln!("skipped: no cgroup can be made: {error}");
        }
        let mut member = Command::new("sleep").arg("0.3").spawn().unwrap();
        fs::write(path.join("cgroup.procs"), member.id().to_string()).unwrap();
        undo(&Intent::Cgroup { path: path.clone() }).unwrap();
        assert!(!path.exists());
        assert!(member.wait().unwrap().success(), "it was not killed");
    }

    /// A cgroup of the test's own, if this host lets it have one.
    fn own_cgroup(name: &str) -> Option<std::path::PathBuf> {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists())?;
        let path = root.join(format!("kata-test-{name}-{}", std::process::id()));
        let made = fs::create_dir(&path);
        made.inspect_err(|error| eprintln!("skipped: no cgroup can be made: {error}")).ok().map(|()| path)
    }

    #[test]
    fn a_process_that_stays_in_a_cgroup_is_moved_and_lives() {
        let Some(path) = own_cgroup("stays") else { return };
        let mut member = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(path.join("cgroup.procs"), member.id().to_string()).unwrap();
        undo(&Intent::Cgroup { path: path.clone() }).unwrap();
        let lives = member.try_wait().unwrap().is_none();
        member.kill().unwrap();
        member.wait().unwrap();
        assert!(lives && !path.exists());
    }

    #[test]
    fn a_cgroup_with_another_sandboxs_below_it_stays() {
        let Some(path) = own_cgroup("shared") else { return };
        fs::create_dir(path.join("other")).unwrap();
        undo(&Intent::Cgroup { path: path.clone() }).unwrap();
        let stayed = path.exists();
        fs::remove_dir(path.join("other")).unwrap();
        undo(&Intent::Cgroup { path: path.clone() }).unwrap();
        assert!(stayed && !path.exists());
    }

    #[test]
    fn a_relative_path_is_refused() {
        assert!(undo(&Intent::Dir { path: "relative".into() }).is_err());
    }

    #[test]
    fn stacked_and_busy_mounts_are_undone() {
        in_private_mounts(|| {
            let temp = tempfile::tempdir().unwrap();
            for _ in 0..2 {
                mount("none", temp.path(), "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
            }
            let _busy = fs::File::create(temp.path().join("open")).unwrap();
            undo(&Intent::Mount { target: temp.path().to_owned() }).unwrap();
            assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
        });
    }
}
