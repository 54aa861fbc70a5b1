//! Which of a container's mounts are direct-assigned volumes.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{DirectVolumes, MountInfo, Result};
use crate::volumes::bind_source;

impl DirectVolumes {
    /// The direct-assigned volumes among the sources of `mounts`, each once. Relative sources are in `bundle`.
    ///
    /// # Errors
    /// What is written down of one cannot be read, or must not be believed.
    pub fn among(&self, mounts: &[Mount], bundle: &Path) -> Result<Vec<(PathBuf, MountInfo)>> {
        let mut found: Vec<(PathBuf, MountInfo)> = Vec::new();
        for mount in mounts {
            // What cannot be mounted at all is told by who shares it.
            let Ok(Some(source)) = bind_source(mount) else { continue };
            let source = bundle.join(source);
            if found.iter().any(|(volume, _)| *volume == source) {
                continue;
            }
            if let Some(info) = self.find(&source)? {
                found.push((source, info));
            }
        }
        Ok(found)
    }
}
