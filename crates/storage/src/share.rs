//! The directory that a sandbox shares with its guest.
//!
//! ```text
//! /run/kata-containers/shared/sandboxes/<sandbox>/
//!     rw/                        mounted on itself, a peer group of its own: what is mounted in it …
//!         passthrough/<container>/rootfs
//!         volumes/<n>-<name>      volumes of all containers
//!         sandbox-mounts/<name>   what the guest itself has of the host
//!     ro/                        … appears here, and this read-only mount is what virtiofsd exports
//! ```
//!
//! `ro` is a read-only slave of `rw`: the guest can write into root file systems and volumes, which are mounts
//! with flags of their own, but can make nothing next to them, so no path that the host uses can be replaced by a
//! symbolic link. It must be mounted before virtiofsd starts; later mounts in `rw` then reach virtiofsd's own mount
//! namespace by propagation. Not all of them: virtiofsd copies `ro` and attaches the copy later, and nothing reaches a
//! mount that is attached nowhere. So nothing may be mounted in `rw` until virtiofsd has answered the VMM.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kata_protocol::guest::{self, VOLUMES};

use crate::empty_dir::EmptyDirs;
use crate::memory::Memories;
use crate::mount::{DetachedMount, Propagation, open_path};
use crate::trail::{StepError, Trail};
use crate::volumes::shared::{VolumeId, Volumes};
use kata_intent::Intents;

/// Where sandboxes' directories are kept, below the runtime directory (`/run`). Removed when the last one leaves.
const PARENTS: [&str; 3] = ["kata-containers", "kata-containers/shared", "kata-containers/shared/sandboxes"];
/// Where containers have their root file systems, below it.
const CONTAINERS: &str = "passthrough";
/// Where mounts are made, below a sandbox's directory.
const WRITABLE: &str = "rw";
/// How often the parents are made anew when a sandbox that ends removes them at the same time.
const PARENT_ATTEMPTS: usize = 10;

/// Why a share could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// A sandbox or container id that is no plain file name.
    #[error("The id {id:?} cannot be a directory's name: use letters, digits, '-', '_' and '.'")]
    Name {
        /// The id.
        id: String,
    },
    /// A directory or mount could not be made or removed.
    #[error("The shared directory cannot be set up")]
    Step(#[from] StepError),
}

/// A sandbox's shared directory.
pub struct SharedDirectory {
    root: PathBuf,
    trail: Trail,
    pub(crate) memories: Arc<Memories>,
    volumes: Arc<Volumes>,
}

impl SharedDirectory {
    /// The sandbox's directory below `run_dir` (usually `/run`), whether it exists or not.
    #[must_use]
    pub fn path_for(run_dir: &Path, sandbox: &str) -> PathBuf {
        run_dir.join(PARENTS[PARENTS.len() - 1]).join(sandbox)
    }

    /// Makes the directory of `sandbox` below `run_dir` (usually `/run`) with both its mounts.
    ///
    /// # Errors
    /// A step fails; what was made before it is taken back.
    pub fn create(run_dir: &Path, sandbox: &str, intents: Arc<dyn Intents>) -> Result<Self, ShareError> {
        check_name(sandbox)?;
        let root = Self::path_for(run_dir, sandbox);
        let volumes = Arc::new(Volumes::new(&root.join(WRITABLE)));
        let mut share = Self { root, trail: Trail::new(intents), memories: Arc::default(), volumes };
        match share.make(run_dir) {
            Ok(()) => Ok(share),
            Err(error) => {
                // The first failure is the one to tell; what cannot be undone stays in the log.
                share.trail.undo().ok();
                Err(error.into())
            }
        }
    }

    fn make(&mut self, run_dir: &Path) -> Result<(), StepError> {
        self.make_root(run_dir)?;
        let (rw, ro) = (self.writable_dir(), self.exported_dir());
        self.trail.dir(&rw)?;
        self.trail.dir(&ro)?;
        self.trail.mount(&rw, || {
            DetachedMount::copy_of(open_path(&rw)?.as_fd(), false)?.shared_anew()?.attach(&rw)
        })?;
        self.trail.mount(&ro, || {
            let copy = DetachedMount::copy_of(open_path(&rw)?.as_fd(), false)?;
            copy.propagate(Propagation::Slave)?.read_only()?.attach(&ro)
        })?;
        self.trail.dir(&rw.join(CONTAINERS))?;
        self.trail.dir(&rw.join(VOLUMES))
    }

    fn make_root(&mut self, run_dir: &Path) -> Result<(), StepError> {
        let mut attempts = 1..=PARENT_ATTEMPTS;
        loop {
            let made = PARENTS
                .iter()
                .try_for_each(|parent| self.trail.shared_dir(&run_dir.join(parent)))
                .and_then(|()| self.trail.dir(&self.root));
            let removed_meanwhile = matches!(&made, Err(StepError::Make { source, .. })
                if source.kind() == io::ErrorKind::NotFound);
            if !removed_meanwhile || attempts.next().is_none() {
                return made;
            }
            self.trail.undo()?;
        }
    }

    /// The sandbox's own directory. Short-lived sockets may be put there.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where mounts are made.
    #[must_use]
    pub fn writable_dir(&self) -> PathBuf {
        self.root.join(WRITABLE)
    }

    /// A new trail into the sandbox's log.
    pub(crate) fn branch(&self) -> Trail {
        self.trail.branch()
    }

    /// What virtiofsd exports.
    #[must_use]
    pub fn exported_dir(&self) -> PathBuf {
        self.root.join("ro")
    }

    /// Makes the directory of a container in the share, still empty.
    ///
    /// # Errors
    /// The id is no file name, there is one already, or the directory cannot be made.
    pub fn container(&self, container: &str) -> Result<ContainerFiles, ShareError> {
        check_name(container)?;
        let dir = self.writable_dir().join(CONTAINERS).join(container);
        let mut trail = self.trail.branch();
        trail.dir(&dir)?;
        let guest_dir = Path::new(guest::SHARED_DIR).join(CONTAINERS).join(container);
        let (shared, memories) = (Arc::clone(&self.volumes), Arc::clone(&self.memories));
        let (assigned, empty_dirs) = (HashMap::new(), EmptyDirs::default());
        Ok(ContainerFiles {
            dir,
            guest_dir,
            trail,
            layer: None,
            volumes: Vec::new(),
            shared,
            memories,
            assigned,
            empty_dirs,
            huge_pages: BTreeMap::new(),
        })
    }

    /// Takes back all that [`SharedDirectory::create`] made. Containers' files must be removed before. May be
    /// called again after a failure.
    ///
    /// # Errors
    /// Something could not be removed; the rest is.
    pub fn remove(&mut self) -> Result<(), StepError> {
        self.trail.undo()
    }
}

/// One container's files in the share: its root file system and its volumes.
pub struct ContainerFiles {
    /// On the host.
    pub(crate) dir: PathBuf,
    /// The same directory as the guest sees it.
    pub(crate) guest_dir: PathBuf,
    pub(crate) trail: Trail,
    /// The image that its root file system is written to, if it is.
    pub(crate) layer: Option<Trail>,
    /// Its volumes, a volume that is mounted twice also here.
    pub(crate) volumes: Vec<VolumeId>,
    /// The sandbox's.
    pub(crate) shared: Arc<Volumes>,
    /// The sandbox's.
    pub(crate) memories: Arc<Memories>,
    /// Where the guest has what the host does not share, by its path on the host.
    pub(crate) assigned: HashMap<PathBuf, PathBuf>,
    /// Which of its volumes are images.
    pub(crate) empty_dirs: EmptyDirs,
    /// What it may use of huge pages, by their size.
    pub(crate) huge_pages: BTreeMap<u64, u64>,
}

impl ContainerFiles {
    /// Unmounts and removes everything of this container. May be called again after a failure.
    ///
    /// # Errors
    /// Something could not be removed; the rest is.
    pub fn remove(&mut self) -> Result<(), StepError> {
        let mut released = Ok(());
        self.volumes.retain(|volume| match self.shared.release(*volume) {
            Ok(()) => false,
            Err(error) => {
                released = std::mem::replace(&mut released, Ok(())).and(Err(error));
                true
            }
        });
        released.and(self.forget_layer()).and(self.trail.undo())
    }

    /// The container's.
    pub(crate) fn name(&self) -> Cow<'_, str> {
        self.dir.file_name().unwrap_or_default().to_string_lossy()
    }

    /// Whether there is nothing (any more).
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.volumes.is_empty() && self.layer.as_ref().is_none_or(Trail::is_empty) && self.trail.is_empty()
    }
}

fn check_name(id: &str) -> Result<(), ShareError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 255 || id.starts_with('.') || !id.chars().all(plain) {
        return Err(ShareError::Name { id: id.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::{ShareError, SharedDirectory};
    use crate::testing::{MemoryLog, in_private_mounts, mounts_below};

    #[test]
    fn what_is_mounted_in_rw_appears_in_ro_and_all_is_undone() {
        in_private_mounts(|| {
            let temp = tempfile::tempdir().unwrap();
            let log = MemoryLog::new();
            let mut share = SharedDirectory::create(temp.path(), "sandbox", log.clone()).unwrap();
            let mut files = share.container("c1").unwrap();
            let source = tempfile::tempdir().unwrap();
            fs::write(source.path().join("hello"), "x").unwrap();
            files.mount_rootfs(&[], source.path()).unwrap();

            let seen = share.exported_dir().join("passthrough/c1/rootfs");
            assert_eq!(fs::read(seen.join("hello")).unwrap(), b"x");
            fs::write(seen.join("new"), "y").unwrap();
            assert_eq!(fs::read(source.path().join("new")).unwrap(), b"y");
            assert!(fs::write(share.exported_dir().join("passthrough/c1/intruder"), "").is_err());

            files.remove().unwrap();
            assert!(files.is_removed() && !share.exported_dir().join("passthrough/c1").exists());
            share.remove().unwrap();
            assert!(log.open().is_empty());
            assert_eq!(mounts_below(temp.path()), Vec::<String>::new());
            assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
            assert!(source.path().join("hello").exists());
        });
    }

    #[test]
    fn two_sandboxes_share_only_the_parents() {
        in_private_mounts(|| {
            let temp = tempfile::tempdir().unwrap();
            let log = MemoryLog::new();
            let mut first = SharedDirectory::create(temp.path(), "a", log.clone()).unwrap();
            let mut second = SharedDirectory::create(temp.path(), "b", log.clone()).unwrap();
            assert!(SharedDirectory::create(temp.path(), "b", log.clone()).is_err());
            assert!(second.exported_dir().is_dir());
            first.remove().unwrap();
            assert!(second.exported_dir().is_dir());
            second.remove().unwrap();
            assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
        });
    }

    #[test]
    fn ids_that_leave_the_directory_are_refused() {
        let log = MemoryLog::new();
        for id in ["", ".", "..", "a/b", "a\0", ".hidden", "ü"] {
            let refused = SharedDirectory::create("/nonexistent".as_ref(), id, Arc::clone(&log) as _);
            assert!(matches!(refused, Err(ShareError::Name { .. })), "{id:?}");
        }
    }
}
