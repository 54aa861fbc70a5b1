//! File systems that the host asks the guest to mount, by driver name.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod options;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kata_protocol::agent::{FSGroup, Storage};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protobuf::MessageField;

use options::MountOptions;

/// Driver names of storages that this agent can mount (upstream's names).
pub(crate) const DRIVERS: [&str; 5] = ["virtio-fs", "bind", EPHEMERAL, "local", "overlayfs"];
/// The driver of memory.
const EPHEMERAL: &str = "ephemeral";

/// Driver option of `overlayfs` that names a folder to be made first.
const CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory";

/// A storage could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// The agent has no such driver.
    #[error("Storage driver {driver:?} is not supported by this agent; it has {}", DRIVERS.join(", "))]
    Driver { driver: String },
    /// A path is not what it should be.
    #[error("Storage {source_name:?} needs an absolute mount point, not {}", path.display())]
    Path { source_name: String, path: PathBuf },
    /// The kernel refused.
    #[error("Cannot mount {what} on {}", target.display())]
    Mount { what: String, target: PathBuf, source: io::Error },
    /// A folder could not be made or changed.
    #[error("Cannot prepare {}", path.display())]
    Prepare { path: PathBuf, source: io::Error },
    /// An option has no meaning.
    #[error("Storage option {option:?} is not understood")]
    Option { option: String },
}

type Result<T> = std::result::Result<T, StorageError>;

/// What is mounted in the sandbox. Memory (`ephemeral`) is shared: who names a mount point that is there already gets
/// what is there, and it goes with the last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    /// How many hold the memory at each mount point. Held while one is mounted or unmounted, which waits for nobody.
    memory: Arc<Mutex<HashMap<PathBuf, usize>>>,
}

impl Volumes {
    /// Mounts all, or none. Runs where blocking is allowed: a mount may wait for the host.
    pub(crate) async fn mount(&self, storages: Vec<Storage>) -> Result<Mounts> {
        let mut mounts = Mounts { targets: Vec::new(), volumes: self.clone() };
        if storages.is_empty() {
            return Ok(mounts);
        }
        let mounted = tokio::task::spawn_blocking(move || {
            for storage in &storages {
                match mounts.volumes.add(storage) {
                    Ok(Some(target)) => mounts.targets.push(target),
                    Ok(None) => {}
                    Err(error) => {
                        mounts.volumes.unmount_all(mounts.targets);
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

    /// What is to be given back later, if anything.
    fn add(&self, storage: &Storage) -> Result<Option<PathBuf>> {
        if storage.driver != EPHEMERAL {
            return add(storage);
        }
        let mut memory = self.memory();
        let target = PathBuf::from(&storage.mount_point);
        if let Some(holders) = memory.get_mut(&target) {
            *holders += 1;
            return Ok(Some(target));
        }
        let added = add(storage)?;
        memory.extend(added.clone().map(|target| (target, 1)));
        Ok(added)
    }

    fn unmount_all(&self, targets: Vec<PathBuf>) {
        for target in targets.into_iter().rev() {
            let mut memory = self.memory();
            match memory.get_mut(&target) {
                Some(holders) if *holders > 1 => *holders -= 1,
                Some(_) => {
                    memory.remove(&target);
                    unmount(&target);
                }
                None => {
                    drop(memory);
                    unmount(&target);
                }
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        // Every change is complete before anything can panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was mounted, to be undone in reverse.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    targets: Vec<PathBuf>,
    volumes: Volumes,
}

impl Mounts {
    /// Adds what `other` holds.
    pub(crate) fn extend(&mut self, other: Self) {
        self.targets.extend(other.targets);
        self.volumes = other.volumes;
    }

    /// Unmounts all that nobody else holds.
    pub(crate) async fn undo(&mut self) {
        let targets = std::mem::take(&mut self.targets);
        if !targets.is_empty() {
            let volumes = self.volumes.clone();
            // Cannot fail but by a panic, of which there is none.
            let _ = tokio::task::spawn_blocking(move || volumes.unmount_all(targets)).await;
        }
    }
}

fn unmount(target: &Path) {
    if let Err(errno) = umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        tracing::warn!(target = %target.display(), %errno, "A mount is left");
    }
}

/// What is to be unmounted later, if anything.
fn add(storage: &Storage) -> Result<Option<PathBuf>> {
    let target = PathBuf::from(&storage.mount_point);
    if !target.is_absolute() {
        return Err(StorageError::Path { source_name: storage.source.clone(), path: target });
    }
    match storage.driver.as_str() {
        "virtio-fs" => mount_at(storage, or(&storage.fstype, "virtiofs"), &target)?,
        "bind" => bind(storage, &target)?,
        EPHEMERAL => ephemeral(storage, &target)?,
        "overlayfs" => overlay(storage, &target)?,
        "local" => {
            local(storage, &target)?;
            return Ok(None);
        }
        driver => return Err(StorageError::Driver { driver: driver.to_owned() }),
    }
    Ok(Some(target))
}

fn or<'a>(given: &'a str, otherwise: &'a str) -> &'a str {
    if given.is_empty() { otherwise } else { given }
}

fn mount_at(storage: &Storage, fstype: &str, target: &Path) -> Result<()> {
    make_folder(target)?;
    let options = MountOptions::parse(&storage.options);
    let failed = |errno: nix::Error| StorageError::Mount {
        what: format!("{fstype} {:?}", storage.source),
        target: target.to_owned(),
        source: errno.into(),
    };
    mount(Some(storage.source.as_str()), target, Some(fstype), options.flags, Some(options.data.as_str()))
        .map_err(failed)
}

fn bind(storage: &Storage, target: &Path) -> Result<()> {
    let source = Path::new(&storage.source);
    if source.is_dir() {
        make_folder(target)?;
    } else {
        make_file(target)?;
    }
    let failed = |errno: nix::Error| StorageError::Mount {
        what: storage.source.clone(),
        target: target.to_owned(),
        source: errno.into(),
    };
    let none: Option<&str> = None;
    let options = MountOptions::parse(&storage.options);
    let bind = MsFlags::MS_BIND | (options.flags & MsFlags::MS_REC);
    mount(Some(source), target, none, bind, none).map_err(failed)?;
    let remaining = options.flags - MsFlags::MS_BIND - MsFlags::MS_REC;
    if !remaining.is_empty() {
        // The first call ignores all other flags.
        mount(none, target, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | remaining, none)
            .map_err(failed)?;
    }
    Ok(())
}

fn ephemeral(storage: &Storage, target: &Path) -> Result<()> {
    mount_at(storage, or(&storage.fstype, "tmpfs"), target)?;
    set_group(target, &storage.fs_group)
}

fn overlay(storage: &Storage, target: &Path) -> Result<()> {
    for option in &storage.driver_options {
        if let Some(folder) = option.strip_prefix(CREATE_DIRECTORY).and_then(|rest| rest.strip_prefix('=')) {
            make_folder(Path::new(folder))?;
        }
    }
    mount_at(storage, or(&storage.fstype, "overlay"), target)
}

/// A folder of the guest, for all containers of the sandbox.
fn local(storage: &Storage, target: &Path) -> Result<()> {
    make_folder(target)?;
    for option in &storage.options {
        let Some(mode) = option.strip_prefix("mode=") else {
            return Err(StorageError::Option { option: option.clone() });
        };
        let mode =
            u32::from_str_radix(mode, 8).map_err(|_| StorageError::Option { option: option.clone() })?;
        fs::set_permissions(target, fs::Permissions::from_mode(mode))
            .map_err(|source| prepare(target, source))?;
    }
    set_group(target, &storage.fs_group)
}

/// Gives a volume to its group, with the group's id handed down to what is made in it.
fn set_group(target: &Path, group: &MessageField<FSGroup>) -> Result<()> {
    let Some(group) = group.as_ref() else { return Ok(()) };
    let change = || -> io::Result<()> {
        chown(target, None, Some(group.group_id))?;
        let mode = fs::metadata(target)?.permissions().mode();
        fs::set_permissions(target, fs::Permissions::from_mode(mode | 0o2770))
    };
    change().map_err(|source| prepare(target, source))
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| prepare(path, source))
}

fn make_file(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    let file = fs::File::options().create(true).append(true).open(path);
    file.map(|_| ()).map_err(|source| prepare(path, source))
}

fn prepare(path: &Path, source: io::Error) -> StorageError {
    StorageError::Prepare { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_driver_is_named_with_those_there_are() {
        let storage = Storage { driver: "blk".into(), mount_point: "/x".into(), ..Default::default() };
        let message = add(&storage).expect_err("no such driver").to_string();
        assert!(message.contains("\"blk\"") && message.contains("virtio-fs"), "{message}");
    }

    #[test]
    fn a_relative_mount_point_is_refused() {
        let storage = Storage { driver: "local".into(), mount_point: "x".into(), ..Default::default() };
        assert!(matches!(add(&storage), Err(StorageError::Path { .. })));
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
        assert!(add(&storage).expect("made").is_none());
        assert_eq!(fs::metadata(&target).expect("is there").permissions().mode() & 0o7777, 0o777);
    }
}
