//! What is mounted in the sandbox, and who holds it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kata_protocol::agent::Storage;

use super::drivers::{self, Mounted, is_block};
use super::huge_pages::{self, Reserved};
use super::{EPHEMERAL, Result, StorageError};
use crate::block::{self, Address};

/// What is mounted in the sandbox. Memory (`ephemeral`) and disks are shared: who names a mount point that is there
/// already gets what is there, and it goes with the last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    /// What is shared at each mount point. One is held while it is mounted or unmounted, the whole only to find it.
    shared: Arc<Mutex<HashMap<PathBuf, Arc<Mutex<Shared>>>>>,
}

/// A shared mount.
#[derive(Debug, Default)]
struct Shared {
    holders: usize,
    driver: String,
    source: String,
    mounted: Option<Mounted>,
}

/// Something to be given back.
#[derive(Debug)]
enum Held {
    Own(Mounted),
    Shared(PathBuf),
    Pages(Reserved),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Volumes {
    /// Mounts all, or none. Block devices must appear within `limit`. Runs where blocking is allowed: a mount may wait
    /// for the host.
    pub(crate) async fn mount(&self, storages: Vec<Storage>, limit: Duration) -> Result<Mounts> {
        let mut mounts = Mounts { held: Vec::new(), volumes: self.clone() };
        if storages.is_empty() {
            return Ok(mounts);
        }
        let mut nodes = nodes(&storages, limit).await?.into_iter();
        let mounted = tokio::task::spawn_blocking(move || {
            for storage in &storages {
                let node = if is_block(&storage.driver) { nodes.next() } else { None };
                match mounts.volumes.add(storage, node.as_deref()) {
                    Ok(held) => mounts.held.extend(held),
                    Err(error) => {
                        mounts.volumes.undo_all(mounts.held);
                        return Err(error);
                    }
                }
            }
            Ok(mounts)
        });
        match mounted.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Gives memory that is mounted other options, such as its size.
    pub(crate) async fn change_memory(&self, storages: Vec<Storage>) -> Result<()> {
        let volumes = self.clone();
        let changing = tokio::task::spawn_blocking(move || {
            storages.iter().try_for_each(|storage| volumes.change(storage))
        });
        match changing.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn change(&self, storage: &Storage) -> Result<()> {
        let target = PathBuf::from(&storage.mount_point);
        let shared = locked(&self.shared).get(&target).cloned().unwrap_or_default();
        let shared = locked(&shared);
        match shared.holders > 0 && shared.driver == EPHEMERAL {
            true => drivers::change_memory(storage),
            false => Err(StorageError::NoMemory { target }),
        }
    }

    /// What is to be given back later, the last first.
    fn add(&self, storage: &Storage, node: Option<&Path>) -> Result<Vec<Held>> {
        if storage.driver != EPHEMERAL && !is_block(&storage.driver) {
            return Ok(drivers::add(storage, node)?.map(Held::Own).into_iter().collect());
        }
        let pages = huge_pages::reserve(storage)?;
        let target = PathBuf::from(&storage.mount_point);
        let shared = Arc::clone(locked(&self.shared).entry(target.clone()).or_default());
        let joined = locked(&shared).join(storage, node);
        self.forget(&target, &shared);
        match joined {
            Ok(()) => Ok(pages.map(Held::Pages).into_iter().chain([Held::Shared(target)]).collect()),
            Err(error) => {
                pages.into_iter().for_each(Reserved::release);
                Err(error)
            }
        }
    }

    /// Leaves out what nobody holds and nobody is about to.
    fn forget(&self, target: &Path, shared: &Arc<Mutex<Shared>>) {
        let mut all = locked(&self.shared);
        // One is in the table, one is ours, and others are made under its lock.
        if Arc::strong_count(shared) == 2 && locked(shared).holders == 0 {
            all.remove(target);
        }
    }

    fn undo_all(&self, held: Vec<Held>) {
        for held in held.into_iter().rev() {
            match held {
                Held::Own(mounted) => mounted.undo(),
                Held::Pages(reserved) => reserved.release(),
                Held::Shared(target) => {
                    let Some(shared) = locked(&self.shared).get(&target).cloned() else { continue };
                    locked(&shared).leave();
                    self.forget(&target, &shared);
                }
            }
        }
    }
}

impl Shared {
    fn join(&mut self, storage: &Storage, node: Option<&Path>) -> Result<()> {
        if self.holders == 0 {
            self.mounted = drivers::add(storage, node)?;
            self.driver.clone_from(&storage.driver);
            self.source.clone_from(&storage.source);
        } else if self.driver != storage.driver || (node.is_some() && self.source != storage.source) {
            return Err(StorageError::Taken {
                target: PathBuf::from(&storage.mount_point),
                holder: self.source.clone(),
            });
        }
        self.holders += 1;
        Ok(())
    }

    fn leave(&mut self) {
        self.holders = self.holders.saturating_sub(1);
        if self.holders == 0
            && let Some(mounted) = self.mounted.take()
        {
            mounted.undo();
        }
    }
}

/// The block devices of those storages that have one, in their order.
async fn nodes(storages: &[Storage], limit: Duration) -> Result<Vec<PathBuf>> {
    let disks = storages.iter().filter(|storage| is_block(&storage.driver));
    let addresses: Vec<Address> = disks
        .map(|storage| Address::new(&storage.driver, &storage.source))
        .collect::<std::result::Result<_, _>>()?;
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    Ok(block::arrival(&addresses, limit).await?.into_iter().map(|node| node.path).collect())
}

/// What was mounted, to be undone in reverse.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    held: Vec<Held>,
    volumes: Volumes,
}

impl Mounts {
    /// Adds what `other` holds.
    pub(crate) fn extend(&mut self, other: Self) {
        self.held.extend(other.held);
        self.volumes = other.volumes;
    }

    /// Unmounts all that nobody else holds. What is on disks is written there first.
    pub(crate) async fn undo(&mut self) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            let volumes = self.volumes.clone();
            // Cannot fail but by a panic, of which there is none.
            let _ = tokio::task::spawn_blocking(move || volumes.undo_all(held)).await;
        }
    }
}
