//! Undoing what a sandbox left on the host: the intent log, replayed backwards.
//!
//! Used by orderly shutdown, failed starts, and by whoever finds a sandbox whose process has died. Can be
//! repeated and can be interrupted at any point: each step is struck out when it is done, and the log itself goes last.
//! Hooks that nobody has run run here, each once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kata_intent::{Intent, IntentId, Intents, undo_all};
use kata_storage::undo;

use crate::error::{Result, SandboxError as Error};
use crate::hooks::Poststop;
use crate::intent_log::{IntentLog, OpenError};
use crate::{SandboxId, poststop};

/// Removes everything that the sandbox `id` made on the host, and its directory under `state_root`. Runs the
/// `poststop` hooks of containers that were never deleted.
///
/// Nothing of that name is success, so it can be repeated.
///
/// # Errors
/// [`Error::InUse`] if a living process owns the sandbox; [`Error::Left`] if something could not be removed
/// (everything else was; the log keeps what is left).
pub async fn cleanup(state_root: &Path, id: &SandboxId) -> Result<()> {
    let dir = state_dir(state_root, id);
    let (place, name) = (dir.clone(), id.to_string());
    let opened = blocking(move || {
        if !place.exists() {
            return Ok(None);
        }
        match IntentLog::open(&place) {
            Ok(log) => Ok(Some(log).filter(|log| !log.is_removed())),
            Err(OpenError::Locked) => Err(Error::InUse { id: name }),
            Err(OpenError::Io(source)) => Err(Error::State { path: place, source }),
        }
    })
    .await?;
    let Some(log) = opened else { return Ok(()) };
    let owed = log.pending_hooks().map_err(|source| Error::State { path: dir.clone(), source })?;
    replay(Arc::new(log), &dir, id, owed).await
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

/// Undoes what is pending in `log`, runs the hooks that are `owed`, then removes the state directory with the log.
pub(crate) async fn replay(
    log: Arc<IntentLog>,
    dir: &Path,
    id: &SandboxId,
    owed: Vec<(IntentId, Poststop)>,
) -> Result<()> {
    let (place, name) = (dir.to_owned(), id.clone());
    let undoing = log.clone();
    let undone = blocking(move || undo_pending(&undoing, &place, &name)).await;
    // Even if something is left: perhaps nobody comes again.
    let mut ran = Ok(());
    for (number, hooks) in owed.into_iter().rev() {
        ran = ran.and(poststop::run(&log, number, &hooks).await);
    }
    undone?;
    ran.map_err(|source| Error::State { path: dir.to_owned(), source })?;
    let place = dir.to_owned();
    blocking(move || remove(&place)).await
}

fn undo_one(intent: &Intent) -> io::Result<()> {
    match intent {
        Intent::Interface { .. } | Intent::Ingress { .. } | Intent::Limit { .. } => {
            kata_network::undo(intent)
        }
        _ => undo::undo(intent),
    }
}

fn undo_pending(log: &IntentLog, dir: &Path, id: &SandboxId) -> Result<()> {
    let pending = log.pending().map_err(|source| Error::State { path: dir.to_owned(), source })?;
    let left: Vec<String> = undo_all(pending, undo_one, |number| log.done(number))
        .iter()
        .filter_map(|left| left.error.as_ref().map(|error| format!("{} ({error})", left.intent)))
        .collect();
    match left.is_empty() {
        true => Ok(()),
        false => Err(Error::Left { id: id.to_string(), left }),
    }
}

/// Undoes what is pending in `log` once and leaves it there, for a [`replay`] that tells what is left.
pub(crate) async fn undo_ahead(log: Arc<IntentLog>) {
    let undone = blocking(move || {
        undo_all(log.pending().unwrap_or_default(), undo_one, |_| {});
        Ok(())
    });
    undone.await.ok();
}

/// Removes the state directory.
fn remove(dir: &Path) -> Result<()> {
    // Only files of ours are in it now; this does not follow links.
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(Error::State { path: dir.to_owned(), source });
        }
        _ => {}
    }
    // The last sandbox takes the root along; with others in it this does nothing.
    if let Some(root) = dir.parent() {
        std::fs::remove_dir(root).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
