//! Files and directories of the host's for the guest itself: for its hooks, not for containers.
//!
//! They are in the share beside what belongs to containers, and no container sees them.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::mount::metadata;
use crate::mount::{DetachedMount, Propagation, open_path};
use crate::share::SharedDirectory;
use crate::trail::{StepError, Trail};
use crate::volumes::unshareable;

/// Where they are in the share, below [`kata_protocol::guest::SHARED_DIR`].
const SANDBOX_MOUNTS: &str = "sandbox-mounts";

/// One of them. The guest finds it under its last name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxMount {
    /// An absolute path of the host's.
    pub source: PathBuf,
    /// Whether even the guest's kernel can only read it.
    pub read_only: bool,
}

/// Why one could not be shared.
#[derive(Debug, thiserror::Error)]
pub enum SandboxMountError {
    /// The source does not exist on the host.
    #[error(
        "{path:?} of `sandbox_bind_mounts` cannot be opened: create it or take it out of the configuration"
    )]
    Source {
        /// The source.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The source is nothing that can be carried into a VM.
    #[error("{path:?} of `sandbox_bind_mounts` is a {kind}: only files and directories can go into a VM")]
    Kind {
        /// The source.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A step failed.
    #[error("What `sandbox_bind_mounts` names cannot be shared with the VM")]
    Step(#[from] StepError),
}

impl SharedDirectory {
    /// Binds `mounts` into the share. Later mounts below a directory are not followed. The log takes them back with the
    /// sandbox.
    ///
    /// # Errors
    /// A source cannot be shared; what was made before it is taken back.
    pub fn mount_for_guest(&self, mounts: &[SandboxMount]) -> Result<(), SandboxMountError> {
        let mut trail = self.branch();
        self.make_sandbox_mounts(mounts, &mut trail).inspect_err(|_| {
            // The first failure is the one to tell; what cannot be undone stays in the log.
            trail.undo().ok();
        })
    }

    fn make_sandbox_mounts(
        &self,
        mounts: &[SandboxMount],
        trail: &mut Trail,
    ) -> Result<(), SandboxMountError> {
        let dir = self.writable_dir().join(SANDBOX_MOUNTS);
        trail.dir(&dir)?;
        for mount in mounts {
            let opened = open_path(&mount.source).and_then(|fd| metadata(&fd).map(|metadata| (fd, metadata)));
            let (fd, metadata) =
                opened.map_err(|source| SandboxMountError::Source { path: mount.source.clone(), source })?;
            if let Some(kind) = unshareable(metadata.file_type()) {
                return Err(SandboxMountError::Kind { path: mount.source.clone(), kind });
            }
            let name = mount.source.file_name().map_or_else(|| OsString::from("root"), ToOwned::to_owned);
            let target = dir.join(name);
            if metadata.is_dir() {
                trail.dir(&target)?;
            } else {
                trail.file(&target)?;
            }
            trail.mount(&target, || {
                let copy = DetachedMount::copy_of(fd.as_fd(), true)?.propagate(Propagation::Private)?;
                let copy = if mount.read_only { copy.read_only()? } else { copy };
                copy.attach(&target)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::{SandboxMount, SandboxMountError};
    use crate::share::SharedDirectory;
    use crate::testing::{MemoryLog, in_private_mounts, mounts_below};
    use crate::undo::undo;

    #[test]
    fn files_and_directories_are_in_the_share_read_only_or_not_until_the_log_is_undone() {
        in_private_mounts(|| {
            let (run, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            fs::create_dir(host.path().join("tools")).unwrap();
            fs::write(host.path().join("file"), "x").unwrap();
            let log = MemoryLog::new();
            let share = SharedDirectory::create(run.path(), "s", log.clone()).unwrap();
            let mounts = [("tools", false), ("file", true)]
                .map(|(name, read_only)| SandboxMount { source: host.path().join(name), read_only });
            share.mount_for_guest(&mounts).unwrap();
            let seen = share.exported_dir().join("sandbox-mounts");
            fs::write(seen.join("tools/new"), "").unwrap();
            assert_eq!(fs::read(seen.join("file")).unwrap(), b"x");
            assert!(fs::write(seen.join("file"), "").is_err());
            log.open().iter().rev().for_each(|intent| undo(intent).unwrap());
            assert_eq!(mounts_below(run.path()), Vec::<String>::new());
            assert!(host.path().join("tools/new").exists());
        });
    }

    #[test]
    fn what_cannot_be_shared_is_named_and_leaves_nothing() {
        in_private_mounts(|| {
            let (run, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let log = MemoryLog::new();
            let share = SharedDirectory::create(run.path(), "s", log.clone()).unwrap();
            let before = log.open().len();
            let _listener = UnixListener::bind(host.path().join("socket")).unwrap();
            let one = |name: &str| [SandboxMount { source: host.path().join(name), read_only: true }];
            let refused = share.mount_for_guest(&one("missing")).unwrap_err();
            assert!(matches!(refused, SandboxMountError::Source { .. }), "{refused}");
            let refused = share.mount_for_guest(&one("socket")).unwrap_err();
            assert!(refused.to_string().contains("is a socket"), "{refused}");
            assert_eq!(log.open().len(), before);
            assert!(!share.exported_dir().join("sandbox-mounts").exists());
        });
    }
}
