//! Listens to the shims while somebody listens to the feed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Feed;
use super::line::Line;
use crate::discovery::{Change, Registry, Sandbox, Sandboxes};
use crate::shim::{Lines, ShimError};

/// After a stream that broke without a reason, the next one waits for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// The end of a sandbox is told after its shim's last words, if they come in time.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Follows all sandboxes whenever there are listeners, for ever; tells of those that have `ended`.
pub(crate) async fn run(feed: Arc<Feed>, registry: Arc<Registry>, mut ended: UnboundedReceiver<Change>) {
    let mut listeners = feed.listeners.subscribe();
    loop {
        tokio::select! {
            some = listeners.wait_for(|count| *count > 0) => if some.is_err() { return },
            change = ended.recv() => if change.is_some() { continue } else { return },
        }
        let mut followers =
            Followers { feed: feed.clone(), registry: registry.clone(), tasks: HashMap::new() };
        let mut known = registry.follow();
        loop {
            let sandboxes = known.borrow_and_update().clone();
            followers.take_over(&sandboxes);
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return },
                change = ended.recv() => match change {
                    Some(change) => followers.end(change),
                    None => return,
                },
                gone = listeners.wait_for(|count| *count == 0) => {
                    if gone.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

/// One task for each sandbox; they end with this.
struct Followers {
    feed: Arc<Feed>,
    registry: Arc<Registry>,
    tasks: HashMap<Arc<str>, Follower>,
}

struct Follower {
    sandbox: Sandbox,
    /// True: it has told that the shim is dead.
    task: JoinHandle<bool>,
}

impl Followers {
    fn take_over(&mut self, sandboxes: &Sandboxes) {
        for (id, sandbox) in sandboxes {
            if !self.tasks.contains_key(id) {
                let sandbox = sandbox.clone();
                let task = tokio::spawn(follow(self.feed.clone(), self.registry.clone(), sandbox.clone()));
                self.tasks.insert(id.clone(), Follower { sandbox, task });
            }
        }
    }

    /// A shim may be gone from the directories before all that it has told is read.
    fn end(&mut self, change: Change) {
        let sandbox = change.sandbox();
        let same = self.tasks.get(&sandbox.id).is_some_and(|one| one.sandbox.has_life_of(sandbox));
        let follower = if same { self.tasks.remove(&sandbox.id) } else { None };
        let feed = self.feed.clone();
        tokio::spawn(async move {
            let mut told = false;
            if let Some(Follower { mut task, .. }) = follower {
                told = timeout(LAST_WORDS, &mut task).await.is_ok_and(|ended| ended.unwrap_or(false));
                task.abort();
            }
            if !(told && matches!(change, Change::ShimDied(_))) {
                feed.tell(|| Line::of(change.event(), change.sandbox()));
            }
        });
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.tasks.values().for_each(|follower| follower.task.abort());
    }
}

/// To the end of the sandbox; true: its shim was dead, and that is told.
async fn follow(feed: Arc<Feed>, registry: Arc<Registry>, mut sandbox: Sandbox) -> bool {
    loop {
        match listen(&feed, &registry, &mut sandbox).await {
            // Upstream's shims have no such stream.
            Err(error) if error.is_unknown() => return false,
            Err(error) if error.is_dead() => return died(&feed, &registry, &mut sandbox).await,
            Err(error) => {
                unheard(&error, &sandbox);
                pause().await;
            }
            Ok(heard) if heard => {}
            Ok(_) => pause().await,
        }
    }
}

fn unheard(error: &ShimError, sandbox: &Sandbox) {
    let error = error as &dyn std::error::Error;
    tracing::debug!(error, sandbox = &*sandbox.id, "its events cannot be heard");
}

/// A dead shim leaves its socket; an orderly end takes it away.
async fn died(feed: &Feed, registry: &Registry, sandbox: &mut Sandbox) -> bool {
    let died = tokio::fs::try_exists(sandbox.socket()).await.unwrap_or(false);
    if died {
        take_name(registry, sandbox);
        feed.tell(|| Line::of("shim-died", sandbox));
        registry.suspect();
    }
    died
}

/// Passes on one stream, to its end; whether anything was in it.
async fn listen(feed: &Feed, registry: &Registry, sandbox: &mut Sandbox) -> Result<bool, ShimError> {
    let mut heard = false;
    let mut lines = Lines::open(&sandbox.socket(), "/events").await?;
    registry.named().await;
    take_name(registry, sandbox);
    feed.tell(|| Line::of("listening", sandbox));
    while let Some(text) = lines.next().await {
        if text.is_empty() {
            continue;
        }
        heard = true;
        // A pod's first events may come before the manager lists it.
        registry.named().await;
        take_name(registry, sandbox);
        match Line::told(&text, sandbox) {
            Some(line) => feed.tell(|| line),
            None => tracing::debug!(sandbox = &*sandbox.id, text, "the shim tells what is no event"),
        }
    }
    Ok(heard)
}

/// The name that it may have got meanwhile; one that has gone keeps its own.
fn take_name(registry: &Registry, sandbox: &mut Sandbox) {
    if let Some(now) = registry.sandboxes().get(&sandbox.id) {
        sandbox.pod.clone_from(&now.pod);
    }
}

/// Nobody waits for it: it bounds how often a shim is asked that does not want to be.
async fn pause() {
    let _ = timeout(PAUSE, std::future::pending::<()>()).await;
}
