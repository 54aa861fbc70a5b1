//! What the guest's kernel remembers of the share longer than it is there.

use std::collections::BTreeSet;
use std::fs;
use std::future::pending;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::locked;

/// The host has taken away by then what was a container's, and the kernel looks again at names that it knows: the daemon lets
/// it know them for a second.
const LOOK_AFTER: Duration = Duration::from_secs(2);

/// Folders of containers on the share, and volumes. The kernel remembers what it has seen there, and the daemon on the host
/// keeps that open, until somebody looks again and it is not there any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Stale(Arc<State>);

#[derive(Debug, Default)]
struct State {
    folders: Mutex<BTreeSet<PathBuf>>,
    /// Removals since nobody is about to look.
    removals: AtomicU64,
}

impl Stale {
    /// To be looked for as long as they are there: other containers may have them, too.
    pub(super) fn add(&self, folders: impl IntoIterator<Item = PathBuf>) {
        locked(&self.0.folders).extend(folders);
    }

    /// A container has been removed: somebody looks, a while later, and nobody waits for it, as what they lie on may hang.
    pub(super) fn look_later(&self) {
        if self.0.removals.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            loop {
                let seen = state.removals.load(Ordering::Relaxed);
                let _ = tokio::time::timeout(LOOK_AFTER, pending::<()>()).await;
                let looking = Arc::clone(&state);
                // It fails only if it panics, and then there is no more to be done.
                let _ = tokio::task::spawn_blocking(move || looking.look()).await;
                // What was removed meanwhile may have been looked for too early.
                if state.removals.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    return;
                }
            }
        });
    }
}

impl State {
    fn look(&self) {
        let mut folders = std::mem::take(&mut *locked(&self.folders));
        folders.retain(|folder| fs::symlink_metadata(folder).is_ok());
        locked(&self.folders).append(&mut folders);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn comes_to_rest(stale: &Stale) {
        while stale.0.removals.load(Ordering::Relaxed) > 0 {
            let _ = tokio::time::timeout(Duration::from_millis(100), pending::<()>()).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_looked_for_once_and_what_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let [gone, there] = ["gone", "there"].map(|name| dir.path().join(name));
        fs::create_dir(&there).unwrap();
        let stale = Stale::default();
        stale.add([gone, there.clone()]);
        stale.look_later();
        stale.look_later();
        comes_to_rest(&stale).await;
        assert_eq!(*locked(&stale.0.folders), BTreeSet::from([there.clone()]));
        fs::remove_dir(&there).unwrap();
        stale.look_later();
        comes_to_rest(&stale).await;
        assert!(locked(&stale.0.folders).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_while_somebody_is_about_to_look_is_looked_after_in_full_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let stale = Stale::default();
        stale.add([folder.clone()]);
        stale.look_later();
        let _ = tokio::time::timeout(LOOK_AFTER * 9 / 10, pending::<()>()).await;
        stale.look_later();
        // It goes after the first look, and before the second.
        let _ = tokio::time::timeout(LOOK_AFTER / 2, pending::<()>()).await;
        fs::remove_dir(&folder).unwrap();
        comes_to_rest(&stale).await;
        assert!(locked(&stale.0.folders).is_empty());
    }
}
