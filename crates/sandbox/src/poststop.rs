//! Hooks that are owed: each container's `poststop`, to be run once when the container is gone, by whoever sees to that.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kata_intent::IntentId;

use crate::ContainerId;
use crate::hooks::Poststop;
use crate::intent_log::IntentLog;

/// The hooks of a sandbox's containers that have not been run, as its owning process knows them.
#[derive(Debug)]
pub(crate) struct OwedHooks {
    log: Arc<IntentLog>,
    owed: Mutex<HashMap<ContainerId, (IntentId, Poststop)>>,
}

impl OwedHooks {
    /// None yet; they are announced in `log`.
    pub(crate) fn new(log: Arc<IntentLog>) -> Self {
        Self { log, owed: Mutex::default() }
    }

    /// From now on they are run even if this process dies.
    pub(crate) fn owe(&self, container: &ContainerId, hooks: Poststop) -> io::Result<()> {
        let id = self.log.will_run(hooks.clone())?;
        self.owed().insert(container.clone(), (id, hooks));
        Ok(())
    }

    /// Runs a container's hooks, unless that was done.
    pub(crate) async fn run(&self, container: &ContainerId) {
        let Some((id, hooks)) = self.owed().remove(container) else { return };
        if let Err(error) = run(&self.log, id, &hooks).await {
            tracing::warn!(%container, %error, "The poststop hooks wait until the intent log can be written");
            self.owed().insert(container.clone(), (id, hooks));
        }
    }

    /// All that are left, for somebody else to run.
    pub(crate) fn take(&self) -> Vec<(IntentId, Poststop)> {
        let mut taken: Vec<_> = self.owed().drain().map(|(_, owed)| owed).collect();
        taken.sort_unstable_by_key(|(id, _)| *id);
        taken
    }

    fn owed(&self) -> MutexGuard<'_, HashMap<ContainerId, (IntentId, Poststop)>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Strikes hooks out of the log, and only then runs them, unless somebody else does.
pub(crate) async fn run(log: &IntentLog, id: IntentId, hooks: &Poststop) -> io::Result<()> {
    if log.runs(id)? {
        hooks.run().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::{OwedHooks, run};
    use crate::ContainerId;
    use crate::hooks::Hooks;
    use crate::intent_log::IntentLog;

    /// Its container and the end of the sandbox came to them at the same time.
    #[tokio::test]
    async fn hooks_that_two_would_run_run_once() {
        let place = tempfile::tempdir().unwrap();
        let told = place.path().join("told");
        let hook = serde_json::json!({
            "path": "/bin/sh", "args": ["sh", "-c", format!("echo ran >> {}", told.display())]
        });
        let spec = serde_json::json!({ "ociVersion": "1.2.0", "hooks": { "poststop": [hook] } });
        let container: ContainerId = "c".parse().unwrap();
        let hooks = Hooks::of(&container, place.path(), &serde_json::from_value(spec).unwrap());
        let log = Arc::new(IntentLog::open(place.path()).unwrap());
        let owed = OwedHooks::new(Arc::clone(&log));
        owed.owe(&container, hooks.poststop(&container).unwrap()).unwrap();
        let pending = log.pending_hooks().unwrap();
        owed.run(&container).await;
        for (id, hooks) in pending {
            run(&log, id, &hooks).await.unwrap();
        }
        assert_eq!(fs::read_to_string(told).unwrap(), "ran\n");
    }
}
