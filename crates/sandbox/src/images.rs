//! The images that a sandbox's nydusd has mounted, one for each container that has such a root.
//!
//! They are in that process's memory and go with it, so nothing is announced.

use std::collections::HashSet;
use std::path::Path;

use kata_storage::nydus::NydusRootfs;
use kata_storage::nydus::api::{Api, ApiError, FileSystem};
use kata_storage::nydus::nydusd::API_SOCKET;
use tokio::sync::Mutex;

use crate::ContainerId;
use crate::error::chain;

/// An image could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("The image {source_file:?} of the root file system cannot be mounted")]
pub(crate) struct ImageFailure {
    /// Its metadata.
    source_file: String,
    /// Why not.
    source: ApiError,
}

/// The images of one sandbox.
pub(crate) struct Images {
    api: Api,
    /// The containers whose image is, or may be, mounted.
    mounted: Mutex<HashSet<ContainerId>>,
}

impl Images {
    /// Of the nydusd that has its socket in `dir`, or will have.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { api: Api::new(dir.join(API_SOCKET)), mounted: Mutex::default() }
    }

    /// Mounts a container's image. What a failure leaves is undone by [`Images::unmount`].
    pub(crate) async fn mount(
        &self,
        container: &ContainerId,
        image: &NydusRootfs,
    ) -> Result<(), ImageFailure> {
        // Even what is not answered may have been done.
        self.mounted.lock().await.insert(container.clone());
        let rafs = FileSystem { source: &image.source, fs_type: "rafs", config: &image.config };
        let mounted = self.api.mount(&NydusRootfs::mountpoint(container.as_str()), rafs).await;
        if let Err(ApiError::Refused { .. } | ApiError::Gone { .. }) = &mounted {
            self.mounted.lock().await.remove(container);
        }
        mounted.map_err(|source| ImageFailure { source_file: image.source.clone(), source })
    }

    /// Unmounts a container's image, if it has one. What fails ends with nydusd, and keeps no container from being removed.
    pub(crate) async fn unmount(&self, container: &ContainerId) {
        if !self.mounted.lock().await.remove(container) {
            return;
        }
        match self.api.unmount(&NydusRootfs::mountpoint(container.as_str())).await {
            Err(error) if !error.is_gone() => {
                tracing::warn!(%container, error = chain(&error), "An image stays mounted until the pod ends");
            }
            _ => {}
        }
    }
}
