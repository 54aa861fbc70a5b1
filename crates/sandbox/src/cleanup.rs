//! Undoing what a sandbox left on the host: the intent log, replayed backwards.
//!
//! Used by orderly shutdown, failed starts, and by whoever finds a sandbox whose process has died. Can be
//! repeated and can be interrupted at any point: each step is struck out when it is done, and the log itself goes last.

use std::io;
use std::path::{Path, PathBuf};

use kata_storage::intent::{Intent, Intents};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::error::{Result, SandboxError as Error};
use crate::intent_log::{IntentLog, OpenError};
use crate::{SandboxId, processes};

/// Mounts over one another on the same mount point that are undone; more would be an attack or a loop.
const MAX_STACKED: usize = 64;

/// Removes everything that the sandbox `id` made on the host, and its directory under `state_root`.
///
/// Nothing of that name is success, so it can be repeated.
///
/// # Errors
/// [`Error::InUse`] if a living process owns the sandbox; [`Error::Left`] if something could not be removed
/// (everything else was; the log keeps what is left).
pub async fn cleanup(state_root: &Path, id: &SandboxId) -> Result<()> {
    let (dir, id) = (state_dir(state_root, id), id.clone());
    blocking(move || {
        if !dir.exists() {
            return Ok(());
        }
        let log = match IntentLog::open(&dir) {
            Ok(log) => log,
            Err(OpenError::Locked) => return Err(Error::InUse { id: id.to_string() }),
            Err(OpenError::Io(source)) => return Err(Error::State { path: dir, source }),
        };
        replay(&log, &dir, &id)
    })
    .await
}

/// The directory of a sandbox.
pub(crate) fn state_dir(state_root: &Path, id: &SandboxId) -> PathBuf {
    state_root.join(id.as_str())
}

/// Runs `work` where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Closed))
}

/// Undoes what is pending in `log`, then removes the state directory with the log.
pub(crate) fn replay(log: &IntentLog, dir: &Path, id: &SandboxId) -> Result<()> {
    let state = |source| Error::State { path: dir.to_owned(), source };
    let mut left = Vec::new();
    let mut stuck: Vec<Intent> = Vec::new();
    for (number, intent) in log.pending().map_err(state)?.into_iter().rev() {
        match undo(&intent) {
            // Its turn comes again after what is stuck in it.
            Ok(()) if stuck.iter().any(|stuck| intent.holds(stuck)) => {}
            Ok(()) => log.done(number),
            Err(error) => {
                left.push(format!("{} ({error})", name(&intent)));
                stuck.push(intent);
            }
        }
    }
    if !left.is_empty() {
        return Err(Error::Left { id: id.to_string(), left });
    }
    // Only files of ours are in it now; this does not follow links.
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(state(error)),
        _ => {}
    }
    // The last sandbox takes the root along; with others in it this does nothing.
    if let Some(root) = dir.parent() {
        std::fs::remove_dir(root).ok();
    }
    Ok(())
}

/// Undoes one intent. That it was never carried out, or undone before, is success.
fn undo(intent: &Intent) -> io::Result<()> {
    match intent {
        Intent::Process { argv_token, exe } => processes::kill_all(argv_token, exe),
        Intent::Mount { target } => undo_mount(target),
        Intent::Dir { path } => remove(path, AtFlags::REMOVEDIR),
        Intent::File { path } | Intent::Socket { path } | Intent::Link { path } => {
            remove(path, AtFlags::empty())
        }
    }
}

fn name(intent: &Intent) -> String {
    match intent {
        Intent::Process { argv_token, exe } => format!("process {} with {argv_token}", exe.display()),
        Intent::Mount { target } => format!("mount {}", target.display()),
        Intent::Dir { path } => format!("directory {}", path.display()),
        Intent::File { path } => format!("file {}", path.display()),
        Intent::Socket { path } => format!("socket {}", path.display()),
        Intent::Link { path } => format!("link {}", path.display()),
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

/// Unmounts everything from the mount point; lazily only if something still holds it.
fn undo_mount(target: &Path) -> io::Result<()> {
    let Some((parent, name)) = parent(target)? else { return Ok(()) };
    // The last component is not followed, and those before it were checked when `parent` was opened.
    let at = Path::new("/proc/self/fd").join(rustix::fd::AsRawFd::as_raw_fd(&parent).to_string()).join(name);
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
fn parent(path: &Path) -> io::Result<Option<(OwnedFd, &std::ffi::OsStr)>> {
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
mod tests;
