//! Sandboxes whose process has died and of which nobody else knows: when `start` dies together with its server,
//! containerd (1.6 to 2.x) calls nobody, and forgets the bundle.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::SandboxId;
use crate::cleanup::{blocking, replay};
use crate::error::{Result, SandboxError as Error, chain};
use crate::intent_log::{Abandoned, IntentLog};

/// Cleans up after every sandbox under `state_root` whose owner is dead and that nobody else is cleaning up. What
/// fails is logged and left to the next time. Returns the sockets on which the owners listened.
pub async fn sweep(state_root: &Path) -> Vec<PathBuf> {
    let mut sockets = Vec::new();
    for (id, dir) in sandboxes(state_root) {
        match sweep_one(&id, dir).await {
            Ok(Some(socket)) => sockets.push(socket),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(abandoned = %id, error = chain(&error), "Remains of a dead sandbox are left");
            }
        }
    }
    sockets
}

/// None if the directory is not there.
fn sandboxes(state_root: &Path) -> Vec<(SandboxId, PathBuf)> {
    // Paths in the clean-up must not lead through links.
    let Ok(root) = state_root.canonicalize() else { return Vec::new() };
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect()
}

async fn sweep_one(id: &SandboxId, dir: PathBuf) -> Result<Option<PathBuf>> {
    let place = dir.clone();
    let state = move |source| Error::State { path: place.clone(), source };
    let (place, failed) = (dir.clone(), state.clone());
    let Some(Abandoned { log, socket }) =
        blocking(move || IntentLog::open_abandoned(&place).map_err(failed)).await?
    else {
        return Ok(None);
    };
    tracing::info!(abandoned = %id, "Cleaning up after a dead sandbox");
    let owed = log.pending_hooks().map_err(state)?;
    replay(Arc::new(log), &dir, id, owed).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use kata_intent::{Intent, Intents};

    use super::sweep;
    use crate::intent_log::IntentLog;
    use crate::intent_log::tests::without_forks;

    /// A state directory with a log in which a directory is announced and made.
    fn sandbox(root: &std::path::Path, id: &str) -> IntentLog {
        std::fs::create_dir_all(root.join("state").join(id)).unwrap();
        let log = IntentLog::open(&root.join("state").join(id)).unwrap();
        log.will(Intent::Dir { path: root.join(id) }).unwrap();
        std::fs::create_dir(root.join(id)).unwrap();
        log
    }

    /// What `start` and its server had made stayed when both were killed at once, as nobody calls `delete` then.
    #[test]
    fn only_the_sandboxes_of_dead_owners_are_swept() {
        let _alone = without_forks();
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let living = sandbox(&root, "living");
        living.own(None).unwrap();
        sandbox(&root, "beginning");
        let dead = sandbox(&root, "dead");
        dead.own(Some("/run/s/dead".into())).unwrap();
        drop(dead);
        std::fs::create_dir(root.join("state/empty")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(sweep(&root.join("state"))), [std::path::Path::new("/run/s/dead")]);
        let there = |id: &str| (root.join(id).exists(), root.join("state").join(id).exists());
        assert_eq!(
            (there("dead"), there("living"), there("beginning")),
            ((false, false), (true, true), (true, true))
        );
        assert!(root.join("state/empty").exists(), "somebody is about to open a log in it");
        drop(living);
    }

    #[test]
    fn without_a_state_directory_there_is_nothing_to_sweep() {
        let temp = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(sweep(&temp.path().join("absent"))).is_empty());
    }
}
