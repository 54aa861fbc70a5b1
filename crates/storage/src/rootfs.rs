//! A container's root file system: containerd's list of mounts, made in the share.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::chdir;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountFlags, mount};

use crate::block::GuestMount;
use crate::mount::{DetachedMount, Propagation, open_path};
use crate::nydus::{self, NydusRootfs, NydusRootfsError};
use crate::share::ContainerFiles;
use crate::trail::StepError;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod options;
#[cfg(test)]
mod tests;

use options::Options;

/// The directory of the root file system below the container's.
const ROOTFS: &str = "rootfs";

/// One of the mounts that make up a root file system, as containerd's `Mount` message has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsMount {
    /// `overlay`, `bind`, `ext4`, …
    pub fs_type: String,
    /// The directory or device; often meaningless (`overlay`) for file systems without one.
    pub source: PathBuf,
    /// A directory inside the root file system; empty for the root itself.
    pub target: PathBuf,
    /// Options as for `mount -o`, one each.
    pub options: Vec<String>,
}

/// Why a root file system could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// There is no list of mounts, and no directory either.
    #[error(
        "The container has no root file system: {path:?} is no directory; unpack the image or fix `root.path`"
    )]
    Missing {
        /// The directory that `root.path` names.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The first mount is not on the root.
    #[error("The first mount of the root file system goes to {target:?}, but must go to its root")]
    FirstTarget {
        /// The mount's target.
        target: PathBuf,
    },
    /// An option that needs work this runtime does not do.
    #[error(
        "The option {option:?} of the root file system's {fs_type} mount is not supported: use another snapshotter"
    )]
    Option {
        /// The file system's type.
        fs_type: String,
        /// The option.
        option: String,
    },
    /// A mount failed.
    #[error(
        "The root file system's {fs_type} mount from {from:?} failed: look for the kernel's reason in `dmesg`"
    )]
    Mount {
        /// The file system's type.
        fs_type: String,
        /// Its source.
        from: PathBuf,
        /// Why.
        #[source]
        source: Box<StepError>,
    },
    /// A mount of nydus-snapshotter's that is no plain overlay.
    #[error(transparent)]
    Nydus(#[from] NydusRootfsError),
    /// A directory could not be made.
    #[error("The root file system's place in the share cannot be made")]
    Step(#[from] StepError),
}

impl ContainerFiles {
    /// Mounts the root file system into the share: `mounts` in their order, one over the other, or, if there are
    /// none, the directory `root_dir` (the bundle's `rootfs`).
    ///
    /// Returns its path in the guest, for `root.path`. It is read-only if what the container writes has a place of its own
    /// ([`ContainerFiles::make_layer`]). An overlay that nydus-snapshotter adds its image to is a plain one here.
    ///
    /// # Errors
    /// A mount fails. What was made before it is taken back by [`ContainerFiles::remove`].
    pub fn mount_rootfs(&mut self, mounts: &[RootfsMount], root_dir: &Path) -> Result<PathBuf, RootfsError> {
        let bind;
        let mounts = if mounts.is_empty() {
            bind = [whole_directory(root_dir)?];
            &bind
        } else {
            mounts
        };
        if let Some(first) = mounts.first().filter(|first| !is_root(&first.target)) {
            return Err(RootfsError::FirstTarget { target: first.target.clone() });
        }
        let root = self.dir.join(ROOTFS);
        self.trail.dir(&root)?;
        for mount in mounts {
            self.mount_one(mount, &root)?;
        }
        Ok(self.guest_dir.join(ROOTFS))
    }

    /// Shares what is above an image that nydusd has, and says what the guest mounts then.
    ///
    /// # Errors
    /// The snapshot's directory cannot be bound. What was made before it is taken back by [`ContainerFiles::remove`].
    pub fn share_image(&mut self, image: &NydusRootfs) -> Result<GuestMount, RootfsError> {
        let place = self.dir.join(nydus::SNAPSHOT);
        self.trail.dir(&place)?;
        self.trail.mount(&place, || {
            let copy = DetachedMount::copy_of(open_path(&image.snapshot)?.as_fd(), false)?;
            copy.propagate(Propagation::Private)?.attach(&place)
        })?;
        Ok(image.guest_mount(&self.guest_dir))
    }

    fn mount_one(&mut self, mount: &RootfsMount, root: &Path) -> Result<(), RootfsError> {
        let plain;
        let mount = if nydus::is_nydus(mount) {
            plain = nydus::as_overlay(mount)?;
            &plain
        } else {
            mount
        };
        let mut options = Options::parse(&mount.options)
            .map_err(|option| RootfsError::Option { fs_type: mount.fs_type.clone(), option })?;
        if self.layer.is_some() {
            options.flags |= MountFlags::RDONLY;
        }
        let bind = options.bind || mount.fs_type == "bind";
        let make = |target: &Target<'_>| match bind {
            true => bind_onto(mount, &options, target),
            false => mount_onto(mount, &options, target),
        };
        let made = if is_root(&mount.target) {
            self.trail.mount(root, || make(&Target::Path(root)))
        } else {
            // It ends with the mount on the root, so it needs no undoing of its own.
            let inside = resolve_inside(root, &mount.target).and_then(|target| make(&Target::Open(target)));
            inside.map_err(|source| StepError::Mount { target: mount.target.clone(), source })
        };
        made.map_err(|source| RootfsError::Mount {
            fs_type: mount.fs_type.clone(),
            from: mount.source.clone(),
            source: Box::new(source),
        })
    }
}

/// Where something is mounted.
enum Target<'a> {
    /// A path that only the host can change.
    Path(&'a Path),
    /// A directory inside an image, resolved already.
    Open(OwnedFd),
}

pub(crate) fn is_root(target: &Path) -> bool {
    target.as_os_str().is_empty() || target == Path::new("/") || target == Path::new(".")
}

/// The mount for a root file system that is just a directory.
fn whole_directory(root_dir: &Path) -> Result<RootfsMount, RootfsError> {
    let missing = |source| RootfsError::Missing { path: root_dir.to_owned(), source };
    if !root_dir.metadata().map_err(missing)?.is_dir() {
        return Err(missing(io::ErrorKind::NotADirectory.into()));
    }
    let options = vec!["rbind".to_owned()];
    Ok(RootfsMount { fs_type: "bind".to_owned(), source: root_dir.to_owned(), options, ..Default::default() })
}

/// Opens `target` inside `root`. The image decides what is there, so no symbolic link may lead out of it.
fn resolve_inside(root: &Path, target: &Path) -> io::Result<OwnedFd> {
    let root = open_path(root)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let relative = target.strip_prefix("/").unwrap_or(target);
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&root, relative, flags, Mode::empty(), resolve)?)
}

fn bind_onto(mount: &RootfsMount, options: &Options, target: &Target<'_>) -> io::Result<()> {
    let source = open_path(&mount.source)?;
    let mut copy =
        DetachedMount::copy_of(source.as_fd(), options.recursive)?.propagate(Propagation::Private)?;
    if options.flags.contains(MountFlags::RDONLY) {
        copy = copy.read_only()?;
    }
    match target {
        Target::Path(path) => copy.attach(path),
        Target::Open(dir) => copy.attach_to(dir.as_fd()),
    }
}

fn mount_onto(from: &RootfsMount, options: &Options, target: &Target<'_>) -> io::Result<()> {
    let by_fd;
    let target = match target {
        Target::Path(path) => *path,
        Target::Open(dir) => {
            by_fd = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            &by_fd
        }
    };
    let (data, base) = options.data_within_a_page()?;
    let zero_byte = |_| io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in an option");
    let data = data.map(CString::new).transpose().map_err(zero_byte)?;
    let fs_type = from.fs_type.as_str();
    let make = || Ok(mount(&from.source, target, fs_type, options.flags, data.as_deref())?);
    match base {
        None => make(),
        Some(base) => in_directory(Path::new(&base), make),
    }
}

/// Runs `make` on a thread that has `directory` as its own working directory.
fn in_directory(directory: &Path, make: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_FS)?;
            chdir(directory)?;
            make()
        });
        thread?.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}
