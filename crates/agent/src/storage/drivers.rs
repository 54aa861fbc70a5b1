//! What each driver mounts.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kata_protocol::agent::{FSGroup, Storage};
use kata_protocol::guest::{self, VOLUME_DIRECTORY};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx, syncfs};

use super::folders::Made;
use super::huge_pages::{self, HUGETLBFS};
use super::options::MountOptions;
use super::watchable::{Copy, Updates};
use super::{EPHEMERAL, OVERLAYFS, Result, StorageError, WATCHABLE, group, layers, upper};
use crate::block::{BLK, NVDIMM, SCSI};
use crate::report::chain;

/// Driver option of `overlayfs` that names a folder to be made first.
const CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory";

/// The copies of volumes of driver `watchable-bind`.
const COPIES: &str = "/run/kata-containers/watchable";

/// Mounts over one another on the same mount point that are undone; more would be an attack or a loop.
const MAX_STACKED: usize = 64;

/// Whether it mounts a block device.
pub(super) fn is_block(driver: &str) -> bool {
    matches!(driver, BLK | SCSI | NVDIMM)
}

/// Something that is mounted, and what was made for it.
#[derive(Debug)]
pub(super) struct Mounted {
    target: PathBuf,
    made: Made,
    /// The kernel's number of the mount, which was the last step.
    mount: Option<u64>,
    /// It has data that must be on a disk before that goes, and must let go of the disk.
    is_on_disk: bool,
    /// It is a copy.
    updates: Option<Updates>,
}

impl Mounted {
    /// Nothing yet.
    fn at(target: PathBuf) -> Self {
        Self { target, made: Made::default(), mount: None, is_on_disk: false, updates: None }
    }

    /// The last step is done.
    fn is_made(&mut self) -> Result<()> {
        match mount_number(&self.target) {
            Ok(number) => self.mount = Some(number),
            Err(error) => {
                self.detach().ok();
                return Err(prepare(&self.target, error.into()));
            }
        }
        Ok(())
    }

    /// Unmounts it, and takes away what was made.
    pub(super) fn undo(mut self) {
        if let Some(mount) = self.mount {
            self.uncover(mount);
            let unmounted = if self.is_on_disk { self.let_go() } else { self.detach() };
            if let Err(errno) = unmounted {
                tracing::warn!(target = %self.target.display(), %errno, "A mount is left");
                return;
            }
        }
        drop(self.updates.take());
        self.made.take_back();
    }

    /// Unmounts what stands on it: a container whose volume goes both ways may have mounted something there.
    fn uncover(&self, mount: u64) {
        for _ in 0..MAX_STACKED {
            let is_covered = mount_number(&self.target).is_ok_and(|top| top != mount);
            if !is_covered || self.detach().is_err() {
                return;
            }
        }
    }

    /// Everybody who used it has ended, so the disk is free after that.
    fn let_go(&self) -> nix::Result<()> {
        if let Err(error) = self.flush() {
            let target = self.target.display();
            tracing::error!(%target, error = chain(&error), "Data of a volume may not be on its disk");
        }
        match umount2(&self.target, MntFlags::UMOUNT_NOFOLLOW) {
            Err(nix::Error::EBUSY) => {
                tracing::warn!(target = %self.target.display(), "A volume is still used; its disk stays busy");
                self.detach()
            }
            unmounted => unmounted,
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(syncfs(fs::File::open(&self.target)?)?)
    }

    fn detach(&self) -> nix::Result<()> {
        umount2(&self.target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
    }

    fn folder(&mut self, path: &Path) -> Result<()> {
        self.made.folder(path).map_err(|source| prepare(path, source))
    }
}

/// The number of the topmost mount there; 0 from kernels before 5.8, which do not tell. Asks no file system.
fn mount_number(target: &Path) -> rustix::io::Result<u64> {
    let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    Ok(statx(CWD, target, how, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// What is to be undone later, if anything. `node` is the block device, where the driver has one.
pub(super) fn add(storage: &Storage, node: Option<&Path>) -> Result<Option<Mounted>> {
    let target = PathBuf::from(&storage.mount_point);
    if !target.is_absolute() {
        return Err(StorageError::Path { source_name: storage.source.clone(), path: target });
    }
    let mut mounted = Mounted::at(target);
    let added = match (storage.driver.as_str(), node) {
        (driver, Some(node)) if is_block(driver) => block(storage, node, &mut mounted),
        ("virtio-fs", _) => share(storage, "virtiofs", &mut mounted),
        ("9p", _) => share(storage, "9p", &mut mounted),
        ("bind", _) => bind(storage, Path::new(&storage.source), &mut mounted),
        (WATCHABLE, _) => watchable(storage, &mut mounted),
        (EPHEMERAL, _) => ephemeral(storage, &mut mounted),
        (OVERLAYFS, _) => overlay(storage, &mut mounted),
        (guest::IMAGE_GUEST_PULL, _) => place_of_image(storage, &mut mounted),
        ("local", _) => {
            local(storage, &mut mounted)?;
            // It is there for all containers, as long as the sandbox.
            return Ok(None);
        }
        (driver, _) => Err(StorageError::Driver { driver: driver.to_owned() }),
    };
    match added.and_then(|()| pass_on(&mounted.target)) {
        Ok(()) => Ok(Some(mounted)),
        Err(error) => {
            mounted.undo();
            Err(error)
        }
    }
}

/// Containers that have it by `shared` or `slave` see each other's mounts in it; the others are cut off, see the jail's
/// mounts.
fn pass_on(target: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(none, target, none, MsFlags::MS_SHARED, none).map_err(|errno| StorageError::Mount {
        what: "it as shared".to_owned(),
        target: target.to_owned(),
        source: errno.into(),
    })
}

fn or<'a>(given: &'a str, otherwise: &'a str) -> &'a str {
    if given.is_empty() { otherwise } else { given }
}

fn mount_at(storage: &Storage, (source, fstype): (Option<&str>, &str), mounted: &mut Mounted) -> Result<()> {
    let target = mounted.target.clone();
    mounted.folder(&target)?;
    let options = MountOptions::parse(&storage.options);
    let result = match layers::are_many(&options) {
        true if fstype == "overlay" => layers::mount(source.unwrap_or_default(), &target, &options),
        _ => mount(source, &target, Some(fstype), options.flags, Some(options.data.as_str()))
            .map_err(io::Error::from),
    };
    result.map_err(|source| match source.raw_os_error() {
        Some(libc::ENODEV) => StorageError::FileSystem { fstype: fstype.to_owned() },
        _ => StorageError::Mount { what: format!("{fstype} {:?}", storage.source), target, source },
    })?;
    mounted.is_made()
}

/// A directory of the host's, by its tag.
fn share(storage: &Storage, fstype: &str, mounted: &mut Mounted) -> Result<()> {
    mount_at(storage, (Some(&storage.source), or(&storage.fstype, fstype)), mounted)
}

/// The file system on a disk.
fn block(storage: &Storage, node: &Path, mounted: &mut Mounted) -> Result<()> {
    // They ask for encryption and the like, which must not be left out in silence.
    let known = |option: &&String| option.starts_with(VOLUME_DIRECTORY);
    if let Some(option) = storage.driver_options.iter().find(|option| !known(option)) {
        return Err(StorageError::Option { option: option.clone() });
    }
    if storage.fstype.is_empty() {
        return Err(StorageError::NoFileSystem { source_name: storage.source.clone() });
    }
    let source = node.to_str();
    mount_at(storage, (source, &storage.fstype), mounted)?;
    mounted.is_on_disk = true;
    match storage.fs_group.as_ref() {
        Some(group) => give(&mounted.target, group, group::give),
        None => Ok(()),
    }
}

/// A copy of a small volume, or a large volume itself.
fn watchable(storage: &Storage, mounted: &mut Mounted) -> Result<()> {
    let source = Path::new(&storage.source);
    let failed = |error| StorageError::Copy { volume: source.to_owned(), source: error };
    make_room(mounted)?;
    match Copy::of(source, Path::new(COPIES)).map_err(failed)? {
        Some(copy) => {
            let path = copy.path().to_owned();
            mounted.updates = Some(Updates::of(copy).map_err(failed)?);
            bind(storage, &path, mounted)
        }
        None => bind(storage, source, mounted),
    }
}

/// The guest may not be able to write to the share, where upstream's runtime has an empty directory for such mounts.
fn make_room(mounted: &mut Mounted) -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(folder) = mounted.target.parent().map(Path::to_owned) else { return Ok(()) };
    let trial = folder.join(".kata-trial");
    match fs::create_dir(&trial) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
        made => {
            // Other failures are told by whoever makes the mount point.
            return made.and_then(|()| fs::remove_dir(&trial)).or(Ok(()));
        }
    }
    mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::MS_NODEV | MsFlags::MS_NOSUID, Some("mode=755"))
        .map_err(|errno| StorageError::Mount {
            what: "tmpfs".to_owned(),
            target: folder,
            source: errno.into(),
        })
}

fn bind(storage: &Storage, source: &Path, mounted: &mut Mounted) -> Result<()> {
    let target = mounted.target.clone();
    if source.is_dir() {
        mounted.folder(&target)?;
    } else {
        mounted.made.file(&target).map_err(|source| prepare(&target, source))?;
    }
    let failed = |errno: nix::Error| StorageError::Mount {
        what: source.display().to_string(),
        target: target.clone(),
        source: errno.into(),
    };
    let none: Option<&str> = None;
    let options = MountOptions::parse(&storage.options);
    let bind = MsFlags::MS_BIND | (options.flags & MsFlags::MS_REC);
    mount(Some(source), &target, none, bind, none).map_err(failed)?;
    mounted.is_made()?;
    let remaining = options.flags - MsFlags::MS_BIND - MsFlags::MS_REC;
    if !remaining.is_empty() {
        // The first call ignores all other flags.
        mount(none, &target, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | remaining, none)
            .map_err(failed)?;
    }
    Ok(())
}

fn ephemeral(storage: &Storage, mounted: &mut Mounted) -> Result<()> {
    let of_huge_pages;
    let storage = if storage.fstype == HUGETLBFS {
        of_huge_pages = Storage { options: huge_pages::options(storage)?, ..storage.clone() };
        &of_huge_pages
    } else {
        storage
    };
    mount_at(storage, (Some(&storage.source), or(&storage.fstype, "tmpfs")), mounted)?;
    give_new(&mounted.target, storage)
}

/// Memory for an image that is pulled next, and for what its container writes.
fn place_of_image(storage: &Storage, mounted: &mut Mounted) -> Result<()> {
    if !matches!(storage.fstype.as_str(), "" | "overlay") {
        return Err(StorageError::Option { option: format!("fstype={}", storage.fstype) });
    }
    let memory = Storage { options: vec!["mode=0755".to_owned()], ..storage.clone() };
    mount_at(&memory, (Some("image"), "tmpfs"), mounted)
}

/// Gives mounted memory the options that it has now, such as its size.
pub(super) fn change_memory(storage: &Storage) -> Result<()> {
    let options = MountOptions::parse(&storage.options);
    let (target, fstype) = (Path::new(&storage.mount_point), or(&storage.fstype, "tmpfs"));
    let flags = options.flags | MsFlags::MS_REMOUNT;
    mount(Some(storage.source.as_str()), target, Some(fstype), flags, Some(options.data.as_str())).map_err(
        |errno| StorageError::Change {
            options: storage.options.join(","),
            target: target.to_owned(),
            source: errno.into(),
        },
    )
}

fn overlay(storage: &Storage, mounted: &mut Mounted) -> Result<()> {
    let mut made = Made::default();
    for option in &storage.driver_options {
        if let Some(folder) = option.strip_prefix(CREATE_DIRECTORY).and_then(|rest| rest.strip_prefix('=')) {
            let folder = Path::new(folder);
            let existed = folder.is_dir();
            let is_upper = || storage.options.contains(&format!("upperdir={}", folder.display()));
            let prepared = made.folder(folder).and_then(|()| match !existed && is_upper() {
                true => upper::begin(storage, &mut made),
                false => Ok(()),
            });
            if let Err(source) = prepared {
                made.take_back();
                return Err(prepare(folder, source));
            }
        }
    }
    let added = mount_at(storage, (Some(&storage.source), or(&storage.fstype, "overlay")), mounted);
    mounted.is_on_disk = true;
    if added.is_err() {
        made.take_back();
    }
    added
}

/// A folder of the guest, for all containers of the sandbox.
fn local(storage: &Storage, mounted: &mut Mounted) -> Result<()> {
    let target = mounted.target.clone();
    mounted.folder(&target)?;
    for option in &storage.options {
        let Some(mode) = option.strip_prefix("mode=") else {
            return Err(StorageError::Option { option: option.clone() });
        };
        let mode =
            u32::from_str_radix(mode, 8).map_err(|_| StorageError::Option { option: option.clone() })?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))
            .map_err(|source| prepare(&target, source))?;
    }
    give_new(&target, storage)
}

/// Gives a new volume to its group.
fn give_new(target: &Path, storage: &Storage) -> Result<()> {
    storage.fs_group.as_ref().map_or(Ok(()), |group| give(target, group, group::give_root))
}

fn give(target: &Path, group: &FSGroup, how: fn(&Path, &FSGroup) -> io::Result<()>) -> Result<()> {
    let failed = |source| StorageError::Group { target: target.to_owned(), group: group.group_id, source };
    how(target, group).map_err(failed)
}

fn prepare(path: &Path, source: io::Error) -> StorageError {
    StorageError::Prepare { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_driver_is_named_with_those_there_are() {
        let storage = Storage { driver: "blk-ccw".into(), mount_point: "/x".into(), ..Default::default() };
        let message = add(&storage, None).expect_err("no such driver").to_string();
        assert!(message.contains("\"blk-ccw\"") && message.contains("virtio-fs"), "{message}");
    }

    #[test]
    fn a_relative_mount_point_is_refused() {
        let storage = Storage { driver: "local".into(), mount_point: "x".into(), ..Default::default() };
        assert!(matches!(add(&storage, None), Err(StorageError::Path { .. })));
    }

    #[test]
    fn a_local_folder_gets_its_mode() {
        let root = tempfile::tempdir().expect("temporary folder");
        let target = root.path().join("a/b");
        let storage = Storage {
            driver: "local".into(),
            mount_point: target.to_str().expect("is text").into(),
            options: vec!["mode=0777".into()],
            ..Default::default()
        };
        assert!(add(&storage, None).expect("made").is_none());
        assert_eq!(fs::metadata(&target).expect("is there").permissions().mode() & 0o7777, 0o777);
    }

    #[test]
    fn an_option_that_a_disk_cannot_have_is_refused() {
        let storage = Storage {
            driver: BLK.into(),
            mount_point: "/x".into(),
            driver_options: vec!["encryption_key=ephemeral".into()],
            ..Default::default()
        };
        let error = add(&storage, Some(Path::new("/dev/none"))).expect_err("not encrypted").to_string();
        assert!(error.contains("encryption_key"), "{error}");
    }
}
