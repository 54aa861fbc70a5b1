//! Changes that the host makes to shared files, carried to who watches them in the guest (`kata_storage::watch`).

use std::ffi::OsString;
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
                changes = changes(self.watcher.as_mut()) => match changes {
                    Ok(changes) => agent.host_changed(changes.into_iter().map(message).collect()).await?,
                    Err(error) => {
                        tracing::warn!(sandbox = %self.id, %error, "Changes of shared files are not seen any more");
                        self.watcher = None;
                    }
                },
            }
        }
    }

    /// Watches what the guest watches, and says so: who watches there waits for it.
    async fn watch(&mut self, watches: Vec<kata::Watch>) -> Result<()> {
        let mut answers = Vec::new();
        for watch in watches {
            match (watch.path.is_empty(), &mut self.watcher) {
                (true, None) => {}
                (true, Some(watcher)) => watcher.remove(watch.id),
                (false, _) => {
                    answers.push(kata::HostChange { id: watch.id, ..Default::default() });
                    self.add(watch);
                }
            }
        }
        if answers.is_empty() { Ok(()) } else { self.agent.host_changed(answers).await }
    }

    fn add(&mut self, watch: kata::Watch) {
        if self.watcher.is_none() {
            match Watcher::new(&self.files.dir, self.files.daemon) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => {
                    let hint = "is `fs.inotify.max_user_instances` used up?";
                    tracing::warn!(sandbox = %self.id, %error, "Shared files cannot be watched: {hint}");
                }
            }
        }
        let Some(watcher) = &mut self.watcher else { return };
        let path = PathBuf::from(OsString::from_vec(watch.path));
        if let Err(error) = watcher.add(watch.id, &path, watch.inode) {
            tracing::warn!(sandbox = %self.id, error = chain(&error), "Changes of a file are not told to the guest");
        }
    }
}

async fn changes(watcher: Option<&mut Watcher>) -> std::io::Result<Vec<Change>> {
    match watcher {
        Some(watcher) => watcher.changes().await,
        None => std::future::pending().await,
    }
}

fn message(change: Change) -> kata::HostChange {
    let Change { watch: id, mask, cookie, name } = change;
    kata::HostChange { id, mask, cookie, name, ..Default::default() }
}
