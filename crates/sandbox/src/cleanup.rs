//! Undoing what a sandbox left on the host: the intent log, replayed backwards.
//!
//! Used by orderly shutdown, failed starts, and by whoever finds a sandbox whose process has died. Can be
//! repeated and can be interrupted at any point: each step is struck out when it is done, and the log itself goes last.

use std::io;
use std::path::{Path, PathBuf};

use kata_storage::intent::{Intent, Intents};
use kata_storage::undo::undo_all;

use crate::SandboxId;
use crate::error::{Result, SandboxError as Error};
use crate::intent_log::{IntentLog, OpenError};

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
    let pending = log.pending().map_err(state)?;
    let left: Vec<String> = undo_all(pending, |number| log.done(number))
        .iter()
        .filter_map(|left| left.error.as_ref().map(|error| format!("{} ({error})", name(&left.intent))))
        .collect();
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

#[cfg(test)]
mod tests;
