//! Changes that the host makes to shared files, carried to who watches them in the guest (`kata_storage::watch`).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use kata_protocol::kata;
use kata_storage::watch::{Change, Watcher};

use crate::SandboxId;
use crate::agent::Agent;
use crate::error::{Result, chain};
use crate::host::SharedFiles;
use crate::jobs::{Reach, Site};

/// Carries them for one sandbox.
struct Carrier {
    id: SandboxId,
    agent: Agent,
    files: SharedFiles,
    /// None before anything is watched.
    watcher: Option<Watcher>,
}

impl Site {
    /// Carries changes as long as the sandbox lives, if its guest can tell what is watched.
    pub(crate) async fn carry_changes(self, reach: Reach) {
        let Reach { machine, agent, .. } = reach;
        let Some(files) = machine.files.clone() else { return };
        drop(machine);
        if agent.is_foreign() {
            return;
        }
        let carrier = Carrier { id: self.id, agent, files, watcher: None };
        if let Err(error) = self.gone.unless(carrier.run()).await.and_then(|end| end) {
            tracing::debug!(
                error = chain(&error),
                "Changes of the host are not told to the guest (any more)"
            );
        }
    }
}

impl Carrier {
    async fn run(mut self) -> Result<()> {
        let agent = self.agent.clone();
        let mut asked = Box::pin(agent.next_watches());
        loop {
            tokio::select! {
                watches = &mut asked => {
                    let watches = watches?;
                    asked = Box::pin(agent.next_watches());
                    self.watch(watches).await?;
                }
                ready = ready(self.watcher.as_ref()) => {
                    let changes = match ready {
                        Ok(()) => self.off_thread(Watcher::changes).await.unwrap_or_else(|| Ok(Vec::new())),
                        Err(error) => Err(error),
                    };
                    self.tell(changes).await?;
                }
            }
        }
    }

    /// Does `work` where it may block: the files' file system may be one that does not answer. `None` if nothing is
    /// watched.
    async fn off_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Watcher) -> T + Send + 'static,
    ) -> Option<T> {
        let mut watcher = self.watcher.take()?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut watcher);
            (watcher, done)
        });
        match done.await {
            Ok((watcher, done)) => {
                self.watcher = Some(watcher);
                Some(done)
            }
            Err(error) => {
                tracing::warn!(sandbox = %self.id, %error, "Changes of shared files are not seen any more");
                None
            }
        }
    }

    async fn tell(&mut self, changes: io::Result<Vec<Change>>) -> Result<()> {
        match changes {
            Ok(changes) if changes.is_empty() => Ok(()),
            Ok(changes) => self.agent.host_changed(changes.into_iter().map(message).collect()).await,
            Err(error) => {
                tracing::warn!(sandbox = %self.id, %error, "Changes of shared files are not seen any more");
                self.watcher = None;
                Ok(())
            }
        }
    }

    /// Watches what the guest watches, and says so: who watches there waits for it.
    async fn watch(&mut self, watches: Vec<kata::Watch>) -> Result<()> {
        let is_new = |watch: &&kata::Watch| !watch.path.is_empty();
        let answers: Vec<_> = watches
            .iter()
            .filter(is_new)
            .map(|watch| kata::HostChange { id: watch.id, ..Default::default() })
            .collect();
        if !answers.is_empty() {
            self.begin();
        }
        let id = self.id.clone();
        self.off_thread(move |watcher| {
            for watch in watches {
                change(&id, watcher, watch);
            }
        })
        .await;
        if answers.is_empty() { Ok(()) } else { self.agent.host_changed(answers).await }
    }

    /// There is a watcher from the first watch on.
    fn begin(&mut self) {
        if self.watcher.is_some() {
            return;
        }
        match Watcher::new(&self.files.dir, self.files.daemon) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                let hint = "is `fs.inotify.max_user_instances` used up?";
                tracing::warn!(sandbox = %self.id, %error, "Shared files cannot be watched: {hint}");
            }
        }
    }
}

/// One watch more or one less, as the guest says.
fn change(sandbox: &SandboxId, watcher: &mut Watcher, watch: kata::Watch) {
    if watch.path.is_empty() {
        return watcher.remove(watch.id);
    }
    let path = PathBuf::from(OsString::from_vec(watch.path));
    if let Err(error) = watcher.add(watch.id, &path, watch.inode) {
        tracing::warn!(%sandbox, error = chain(&error), "Changes of a file are not told to the guest");
    }
}

async fn ready(watcher: Option<&Watcher>) -> io::Result<()> {
    match watcher {
        Some(watcher) => watcher.ready().await,
        None => std::future::pending().await,
    }
}

fn message(change: Change) -> kata::HostChange {
    let Change { watch: id, mask, cookie, name } = change;
    kata::HostChange { id, mask, cookie, name, ..Default::default() }
}
