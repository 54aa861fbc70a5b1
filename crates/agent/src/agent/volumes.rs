//! What the host asks of volumes that are in use.

use std::path::PathBuf;

use kata_protocol::agent::Storage;
use kata_protocol::csi::VolumeStatsResponse;

use super::{Agent, Result};
use crate::storage::{growth, usage};

impl Agent {
    /// Gives memory that is mounted other options, such as its size.
    pub(crate) async fn change_memory(&self, storages: Vec<Storage>) -> Result<()> {
        Ok(self.volumes.change_memory(storages).await?)
    }

    /// Lets the volume at a path have so many bytes; 0 for all that its disk has.
    pub(crate) async fn grow_volume(&self, path: PathBuf, bytes: u64) -> Result<()> {
        Ok(growth::grow(path, bytes, self.hotplug_timeout).await?)
    }

    /// How full the volume at a path is.
    pub(crate) async fn volume_stats(&self, path: PathBuf) -> Result<VolumeStatsResponse> {
        match tokio::task::spawn_blocking(move || usage::of(&path)).await {
            Ok(stats) => Ok(stats?),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}
