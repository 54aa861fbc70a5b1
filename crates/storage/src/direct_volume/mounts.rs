//! Which of a container's mounts are direct-assigned volumes.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{DirectVolumeError, DirectVolumes, MountInfo, Result};
use crate::volumes::bind_source;

impl DirectVolumes {
    /// The direct-assigned volumes among the sources of `mounts`, each once. Relative sources are in `bundle`.
    ///
    /// # Errors
    /// What is written down of one cannot be read, or must not be believed; a mount is of a part of one.
    pub fn among(&self, mounts: &[Mount], bundle: &Path) -> Result<Vec<(PathBuf, MountInfo)>> {
        let mut found: Vec<(PathBuf, MountInfo)> = Vec::new();
        for mount in mounts {
            // What cannot be mounted at all is told by who shares it.
            let Ok(Some(source)) = bind_source(mount) else { continue };
            let source = bundle.join(source);
            if found.iter().any(|(volume, _)| *volume == source) {
                continue;
            }
            if let Some(volume) = volume_of_part(&source)
                && self.find(&volume)?.is_some()
            {
                return Err(DirectVolumeError::SubPath { part: source, volume });
            }
            if let Some(info) = self.find(&source)? {
                found.push((source, info));
            }
        }
        Ok(found)
    }
}

/// Where the kubelet publishes the volume of which a container has a part (`subPath`) at
/// `pods/UID/volume-subpaths/VOLUME/CONTAINER/NUMBER`. What would be written there would be in no volume.
fn volume_of_part(part: &Path) -> Option<PathBuf> {
    let volume = part.parent()?.parent()?;
    let pod = volume.parent().filter(|dir| dir.ends_with("volume-subpaths"))?.parent()?;
    Some(pod.join("volumes/kubernetes.io~csi").join(volume.file_name()?).join("mount"))
}
