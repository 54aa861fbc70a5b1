//! Memory of the guest in place of a tmpfs of the host's that containers use to share memory (`/dev/shm`), or that the
//! kubelet has mounted for an `emptyDir` with `medium: Memory`.
//!
//! Pages of a file on the share are copies: what one container writes by `mmap`, another would not see. So it is a tmpfs
//! in the guest, one for each directory of the host's, whichever container binds it. What the directory holds on the
//! host is not in it.
//!
//! An `emptyDir` has size, mode and owner of the host's directory, and stays until the sandbox ends: what an init container
//! wrote is for those after it. Where a container binds only a directory in it (`subPath`), which the kubelet
//! then has made and mounted elsewhere, that is made in the guest, too.

use std::fs::Metadata;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kata_protocol::guest;
use rustix::fs::{AtFlags, StatVfsMountFlags, StatxAttributes, StatxFlags, fstatfs, fstatvfs, statx};

use crate::mount::{metadata, open_path};
use crate::mountinfo::{MountTable, mount_id};

/// `f_type` of a tmpfs.
const TMPFS: i64 = 0x0102_1994;
/// `f_type` of a hugetlbfs.
pub(crate) const HUGETLBFS: i64 = 0x9584_58f6;
/// A sandbox's first one, as upstream names it; further ones have a number.
const NAME: &str = "shm";
/// Where those of `emptyDir` volumes are, as upstream has them.
const EPHEMERAL: &str = "ephemeral";
/// The kubelet's directories of a pod: of its volumes, and of those of which a part is bound.
const EMPTY_DIRS: [&str; 2] = ["volumes", "kubernetes.io~empty-dir"];
const SUB_PATHS: &str = "volume-subpaths";

/// A tmpfs that must be in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Its mount point in the guest.
    pub guest_path: PathBuf,
    /// How many bytes it can hold.
    pub size: u64,
    /// Its other mount options.
    pub options: Vec<String>,
    /// It stays until the sandbox ends, although no container may have it.
    pub stays: bool,
    /// The directory in it that is bound in place of the whole.
    pub part: Option<Part>,
}

/// A directory that must be in a [`Memory`], or in an image of the pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its path there.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its group.
    pub group: u32,
}

impl Memory {
    /// The memory that containers share as `/dev/shm`.
    #[must_use]
    pub fn shared(guest_path: PathBuf, size: u64) -> Self {
        let options = ["nosuid", "noexec", "nodev", "mode=1777"].map(str::to_owned).to_vec();
        Self { guest_path, size, options, stays: false, part: None }
    }

    /// What of it is bound.
    pub(crate) fn bound(&self) -> PathBuf {
        self.part.as_ref().map_or_else(|| self.guest_path.clone(), |part| self.guest_path.join(&part.path))
    }
}

/// The directories of the host's that one sandbox has memory for, each with its path in the guest.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<Vec<(PathBuf, PathBuf)>>);

impl Memories {
    /// The memory in place of the directory `source`, opened as `fd`, that is shared as `/dev/shm`; `None` if that is no
    /// tmpfs.
    pub(crate) fn shared(&self, source: &Path, fd: &OwnedFd) -> Option<Memory> {
        let size = size(fd)?;
        Some(Memory::shared(self.place(source, "", NAME), size))
    }

    /// The memory in place of the directory `source`, opened as `fd`, that the kubelet has mounted for an `emptyDir`, or of
    /// one in it; `None` if it is not that.
    pub(crate) fn empty_dir(&self, source: &Path, fd: &OwnedFd) -> Option<Memory> {
        if let Some(volume) = volume_of(source) {
            return self.whole(source, volume, fd);
        }
        let dir = empty_dir_of(source)?;
        let whole = open_path(&dir).ok()?;
        let (inner, outer) = (metadata(fd).ok()?, metadata(&whole).ok()?);
        if inner.dev() != outer.dev() || !inner.is_dir() {
            return None;
        }
        let memory = self.whole(&dir, volume_of(&dir)?, &whole)?;
        let part = Part { path: path_in_file_system(fd)?, mode: mode(&inner), group: inner.gid() };
        Some(Memory { part: Some(part), ..memory })
    }

    /// Where the `emptyDir` of this name whose directory is `dir` is mounted in the guest.
    pub(crate) fn volume(&self, dir: &Path, name: &str) -> PathBuf {
        self.place(dir, EPHEMERAL, name)
    }

    fn whole(&self, source: &Path, volume: &str, fd: &OwnedFd) -> Option<Memory> {
        let size = size(fd).filter(|_| is_mount(fd))?;
        let metadata = metadata(fd).ok()?;
        let owner = [
            format!("mode={:o}", mode(&metadata)),
            format!("uid={}", metadata.uid()),
            format!("gid={}", metadata.gid()),
        ];
        let options = flags(fd).into_iter().chain(owner).collect();
        let guest_path = self.volume(source, volume);
        Some(Memory { guest_path, size, options, stays: true, part: None })
    }

    /// Where the memory for `source` is in the guest: under this name, or with a number where another has it.
    fn place(&self, source: &Path, dir: &str, name: &str) -> PathBuf {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, place)) = known.iter().find(|(path, _)| path == source) {
            return place.clone();
        }
        let numbered = |number| if number == 0 { name.to_owned() } else { format!("{name}-{number}") };
        let dir = Path::new(guest::SHARED_MEMORY_DIR).join(dir);
        let mut places = (0..=known.len()).map(|number| dir.join(numbered(number)));
        let place = places.find(|place| known.iter().all(|(_, taken)| taken != place));
        let place = place.expect("there is one more of them than are taken");
        known.push((source.to_owned(), place.clone()));
        place
    }
}

/// Whether `fd` is the root of memory that is mounted by itself.
pub(crate) fn is_memory(fd: &OwnedFd) -> bool {
    size(fd).is_some() && is_mount(fd)
}

/// How many bytes the tmpfs can hold that `fd` is in; `None` if it is in none.
fn size(fd: &OwnedFd) -> Option<u64> {
    if fstatfs(fd).ok()?.f_type != TMPFS {
        return None;
    }
    let space = fstatvfs(fd).ok()?;
    Some(space.f_blocks.saturating_mul(space.f_frsize))
}

/// The name of the `emptyDir` whose directory this is, whatever the kubelet's own directory: it can be chosen.
pub(crate) fn volume_of(path: &Path) -> Option<&str> {
    let dir = path.parent()?;
    let pods = dir.ancestors().nth(EMPTY_DIRS.len() + 1)?;
    let is_one = dir.ends_with(EMPTY_DIRS.iter().collect::<PathBuf>()) && pods.ends_with("pods");
    path.file_name()?.to_str().filter(|_| is_one)
}

/// The directory of the `emptyDir` of which a container has a part at `pods/UID/volume-subpaths/VOLUME/CONTAINER/NUMBER`.
pub(crate) fn empty_dir_of(part: &Path) -> Option<PathBuf> {
    let volume = part.parent()?.parent()?;
    let pod = volume.parent().filter(|dir| dir.ends_with(SUB_PATHS))?.parent()?;
    Some(pod.join(EMPTY_DIRS.iter().collect::<PathBuf>()).join(volume.file_name()?))
}

/// Whether `fd` is the root of a mount: a directory on a tmpfs that has more than this volume is none.
fn is_mount(fd: &OwnedFd) -> bool {
    let found = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// What the mount that `fd` is in shows of its file system, relative to that one's root.
pub(crate) fn path_in_file_system(fd: &OwnedFd) -> Option<PathBuf> {
    let table = MountTable::read().ok()?;
    Some(table.root(mount_id(fd)?)?.strip_prefix("/").ok()?.to_owned())
}

pub(crate) fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

/// The options of the host's mount that hold for every file.
pub(crate) fn flags(fd: &OwnedFd) -> Vec<String> {
    let found = fstatvfs(fd).map_or(StatVfsMountFlags::empty(), |space| space.f_flag);
    let known = [
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
    ];
    known.into_iter().filter(|(flag, _)| found.contains(*flag)).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{empty_dir_of, volume_of};

    #[test]
    fn the_kubelets_directories_are_known_wherever_it_keeps_them() {
        let volume = |path: &'static str| volume_of(Path::new(path));
        assert_eq!(volume("/var/lib/kubelet/pods/7f/volumes/kubernetes.io~empty-dir/cache"), Some("cache"));
        assert_eq!(volume("/srv/k0s/pods/7f/volumes/kubernetes.io~empty-dir/a.b"), Some("a.b"));
        assert_eq!(volume("/var/lib/kubelet/pods/7f/volumes/kubernetes.io~secret/cache"), None);
        assert_eq!(volume("/var/lib/kubelet/pods/7f/volumes/kubernetes.io~empty-dir/cache/sub"), None);
        assert_eq!(volume("/home/me/volumes/kubernetes.io~empty-dir/cache"), None);
        assert_eq!(
            empty_dir_of(Path::new("/k/pods/7f/volume-subpaths/cache/main/0")).as_deref(),
            Some(Path::new("/k/pods/7f/volumes/kubernetes.io~empty-dir/cache"))
        );
        assert_eq!(empty_dir_of(Path::new("/k/pods/7f/plugins/cache/main/0")), None);
    }
}
