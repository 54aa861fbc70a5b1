//! The containers by name, those that are being made among them, and how that is called off.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Result, SandboxError};
use crate::cgroup::CgroupError;
use crate::container::Container;
use crate::id::ContainerId;
use crate::report::chain;

/// Tells who makes a container that nobody wants it any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallOff(Arc<watch::Sender<bool>>);

impl CallOff {
    /// Says so.
    pub(crate) fn tell(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is said.
    pub(crate) async fn told(&self) {
        // Its sender is here.
        let _ = self.0.subscribe().wait_for(|told| *told).await;
    }

    pub(super) fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// The outcome of `work`, which `kill` brings to its end sooner. What it does not end goes on, and is undone later.
    pub(super) async fn or<T>(
        &self,
        work: impl Future<Output = T>,
        kill: impl FnOnce() -> std::result::Result<(), CgroupError>,
    ) -> T {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.told() => {}
        }
        if let Err(error) = kill() {
            tracing::warn!(error = chain(&error), "What makes a container is not ended");
        }
        work.await
    }
}

/// A sandbox's containers.
#[derive(Debug, Default)]
pub(super) struct Containers(Mutex<HashMap<ContainerId, Entry>>);

/// What has a name.
#[derive(Debug)]
enum Entry {
    /// It is being made; the receiver hears of the end by the sender's.
    Making(CallOff, watch::Receiver<()>),
    Made(Container),
}

/// A creation that has not come to its end.
pub(super) struct UnderWay(#[expect(dead_code, reason = "only its end matters")] watch::Sender<()>);

impl Containers {
    /// Takes the name for a container that is about to be made.
    pub(super) fn reserve(&self, id: &ContainerId, call_off: &CallOff) -> Result<UnderWay> {
        let mut all = self.lock();
        if all.contains_key(id) {
            return Err(SandboxError::Exists { id: id.clone() });
        }
        let (under_way, end) = watch::channel(());
        all.insert(id.clone(), Entry::Making(call_off.clone(), end));
        Ok(UnderWay(under_way))
    }

    /// It is made.
    pub(super) fn put(&self, id: &ContainerId, container: Container) {
        self.lock().insert(id.clone(), Entry::Made(container));
    }

    /// Gives the name back.
    pub(super) fn forget(&self, id: &ContainerId) {
        self.lock().remove(id);
    }

    /// Calls the creation off if one is under way, and waits for its end; whether there was one.
    pub(super) async fn call_off(&self, id: &ContainerId) -> bool {
        let mut end = match self.lock().get(id) {
            Some(Entry::Making(call_off, end)) => {
                call_off.tell();
                end.clone()
            }
            Some(Entry::Made(_)) | None => return false,
        };
        // Nothing is ever sent.
        let _ = end.changed().await;
        true
    }

    /// The container of that name, if it is made.
    pub(super) fn made(&self, id: &ContainerId) -> Option<Container> {
        match self.lock().get(id) {
            Some(Entry::Made(container)) => Some(container.clone()),
            Some(Entry::Making(..)) | None => None,
        }
    }

    /// Those that are made.
    pub(super) fn all(&self) -> Vec<Container> {
        let made = |entry: &Entry| match entry {
            Entry::Made(container) => Some(container.clone()),
            Entry::Making(..) => None,
        };
        self.lock().values().filter_map(made).collect()
    }

    /// All names.
    pub(super) fn ids(&self) -> Vec<ContainerId> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, Entry>> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
