//! Direct-assigned volumes: block devices that a CSI driver leaves to the guest to mount, in place of a directory that the
//! host has mounted. The driver says so by `kata-runtime direct-volume add`, which writes below `/run` (upstream's paths):
//!
//! ```text
//! kata-containers/shared/direct-volumes/        0700
//!     <base64url(path of the volume)>/          0700; the path is the source of the containers' bind mounts
//!         mountInfo.json                        0600, see [`MountInfo`]; `mount-info.json` is read where that is not
//!         <sandbox>                             the sandbox that has the device
//! ```
//!
//! Who could write here could have any device of the host put into a pod. So nothing of it is believed that not only root
//! can change, and no symbolic link is followed. A device is for one sandbox: what two kernels mounted would be destroyed.
//! The directory is locked while its sandbox is looked for and written down; the file goes with the sandbox, and one that a
//! dead sandbox left is replaced.

mod mount_info;
mod mounts;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64URL;
use kata_intent::{Intent, Intents};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, flock, fstat, mkdirat, openat2,
    renameat, unlinkat,
};
use rustix::io::Errno;

pub use mount_info::{ChangePolicy, MAX_MOUNT_INFO, MountInfo, MountInfoError, OpenDevice};

#[cfg(test)]
mod tests;

/// The directories on the way, below the runtime directory (`/run`), with their modes.
const WAY: [(&str, u32); 3] = [("kata-containers", 0o755), ("shared", 0o755), ("direct-volumes", 0o700)];
const MOUNT_INFO: &str = "mountInfo.json";
/// As upstream's documents have it, and tools that were written after them.
const MOUNT_INFO_OF_OTHERS: &str = "mount-info.json";
/// The longest name of a file.
const MAX_NAME: usize = 255;
/// How often directories are made anew that the end of another sandbox or volume removes at the same time.
const ATTEMPTS: usize = 10;

/// Something about direct-assigned volumes failed.
#[derive(Debug, thiserror::Error)]
pub enum DirectVolumeError {
    /// The volume's path cannot be the source of a mount.
    #[error("The volume path {path:?} {why}: give the absolute path that the pod's volume is published at")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What is written down of the volume cannot be used.
    #[error("The direct-assigned volume {volume:?} cannot be used")]
    Info {
        /// The volume.
        volume: PathBuf,
        /// Why.
        #[source]
        source: MountInfoError,
    },
    /// Not only root could have written it.
    #[error("{path:?} {why}, so it is not believed: remove it, and add the volume again as root")]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody has added it.
    #[error("{volume:?} is no direct-assigned volume: `kata-runtime direct-volume add` makes it one")]
    Unknown {
        /// The volume.
        volume: PathBuf,
    },
    /// Another sandbox has the device.
    #[error("The direct-assigned volume {volume:?} is in use by the sandbox {sandbox}: end that pod first")]
    InUse {
        /// The volume.
        volume: PathBuf,
        /// The sandbox.
        sandbox: String,
    },
    /// The kubelet has mounted a directory of what the host has not mounted.
    #[error(
        "{part:?} is a part of the direct-assigned volume {volume:?}, and only the guest has its files: mount the whole volume, \
         without subPath"
    )]
    SubPath {
        /// The part.
        part: PathBuf,
        /// The volume.
        volume: PathBuf,
    },
    /// The file system refuses.
    #[error("{path:?} cannot be read or written: are you root, and has its file system room?")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, DirectVolumeError>;

/// The direct-assigned volumes of this host.
pub struct DirectVolumes {
    run_dir: PathBuf,
    is_alive: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl DirectVolumes {
    /// Those below `run_dir` (usually `/run`). `is_alive` says whether a sandbox has an owner who lives.
    pub fn below(run_dir: &Path, is_alive: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { run_dir: run_dir.to_owned(), is_alive: Box::new(is_alive) }
    }

    /// Makes `volume` a direct-assigned volume, or changes what it is.
    ///
    /// # Errors
    /// It cannot be written; a sandbox that runs has the volume, and it is another device for it.
    pub fn add(&self, volume: &Path, info: &MountInfo) -> Result<()> {
        let name = name_of(volume)?;
        let place = self.make(&name)?;
        if let (Some(sandbox), false) = (self.user_in(&place)?, place.info(volume)?.as_ref() == Some(info)) {
            return Err(DirectVolumeError::InUse { volume: volume.to_owned(), sandbox });
        }
        let new = format!(".{MOUNT_INFO}.new");
        place.write(&new, info.to_json().as_bytes())?;
        renameat(&place.fd, &*new, &place.fd, MOUNT_INFO).map_err(|errno| place.failed(MOUNT_INFO, errno))
    }

    /// Makes it an ordinary directory again. No error if it is one.
    ///
    /// # Errors
    /// A sandbox that runs has it; it cannot be removed.
    pub fn remove(&self, volume: &Path) -> Result<()> {
        let name = name_of(volume)?;
        let Some(place) = self.open(&name)? else { return Ok(()) };
        if let Some(sandbox) = self.user_in(&place)? {
            return Err(DirectVolumeError::InUse { volume: volume.to_owned(), sandbox });
        }
        for entry in place.names()? {
            unlinkat(&place.fd, &*entry, AtFlags::empty()).map_err(|errno| place.failed(&entry, errno))?;
        }
        let gone = unlinkat(&place.parent, &*name, AtFlags::REMOVEDIR);
        gone.map_err(|errno| failed(&place.path, errno))?;
        self.remove_empty_way();
        Ok(())
    }

    /// What the volume at `source` is, if it is a direct-assigned one.
    ///
    /// # Errors
    /// What stands there cannot be read, or must not be believed.
    pub fn find(&self, source: &Path) -> Result<Option<MountInfo>> {
        // No path that cannot have been added is one that was.
        let Ok(name) = name_of(source) else { return Ok(None) };
        match self.open(&name)? {
            Some(place) => place.info(source),
            None => Ok(None),
        }
    }

    /// The sandbox that has the volume.
    ///
    /// # Errors
    /// It is no direct-assigned volume; what stands there must not be believed.
    pub fn user(&self, volume: &Path) -> Result<Option<String>> {
        match self.open(&name_of(volume)?)? {
            Some(place) => self.user_in(&place),
            None => Err(DirectVolumeError::Unknown { volume: volume.to_owned() }),
        }
    }

    /// Writes down that `sandbox` has the volume from now on, until its `intents` are undone. Can be repeated.
    ///
    /// # Errors
    /// [`DirectVolumeError::InUse`] if another has it; it cannot be written.
    pub fn claim(&self, volume: &Path, sandbox: &str, intents: &Arc<dyn Intents>) -> Result<()> {
        let Some(place) = self.open(&name_of(volume)?)? else {
            return Err(DirectVolumeError::Unknown { volume: volume.to_owned() });
        };
        let mut is_ours = false;
        for user in place.users()? {
            if user == sandbox {
                is_ours = true;
            } else if (self.is_alive)(&user) {
                return Err(DirectVolumeError::InUse { volume: volume.to_owned(), sandbox: user });
            } else {
                unlinkat(&place.fd, &*user, AtFlags::empty()).map_err(|errno| place.failed(&user, errno))?;
            }
        }
        if is_ours {
            return Ok(());
        }
        let announced = intents.will(Intent::File { path: place.path.join(sandbox) });
        let id = announced.map_err(|source| place.failed(sandbox, source))?;
        place.write(sandbox, b"").inspect_err(|_| intents.done(id))
    }

    fn user_in(&self, place: &Place) -> Result<Option<String>> {
        Ok(place.users()?.into_iter().find(|user| (self.is_alive)(user)))
    }

    /// The volume's directory, locked; `None` if there is none.
    fn open(&self, name: &str) -> Result<Option<Place>> {
        let mut path = self.run_dir.clone();
        let mut dir = match open_run(&path) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(|errno| failed(&path, errno))?,
        };
        for (part, _) in WAY {
            path.push(part);
            match open_trusted(dir.as_fd(), part, &path, FileType::Directory)? {
                Some(next) => dir = next,
                None => return Ok(None),
            }
        }
        path.push(name);
        let Some(fd) = open_trusted(dir.as_fd(), name, &path, FileType::Directory)? else { return Ok(None) };
        flock(&fd, FlockOperation::LockExclusive).map_err(|errno| failed(&path, errno))?;
        let place = Place { parent: dir, fd, path };
        // Removed while the lock was waited for?
        let is_there = fstat(&place.fd).map_err(|errno| failed(&place.path, errno))?.st_nlink > 0;
        Ok(is_there.then_some(place))
    }

    /// The same, made if there is none.
    fn make(&self, name: &str) -> Result<Place> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            self.make_way(name)?;
            match self.open(name)? {
                Some(place) => return Ok(place),
                None if attempts.next().is_none() => {
                    return Err(failed(&self.run_dir.join(WAY[0].0), Errno::NOENT));
                }
                None => {}
            }
        }
    }

    /// Makes what is missing. What another removes meanwhile is left to the next attempt.
    fn make_way(&self, name: &str) -> Result<()> {
        let mut path = self.run_dir.clone();
        let mut dir = open_run(&path).map_err(|errno| failed(&path, errno))?;
        for (part, mode) in WAY.into_iter().chain([(name, 0o700)]) {
            path.push(part);
            match mkdirat(&dir, part, Mode::from_raw_mode(mode)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(failed(&path, errno)),
            }
            match open_trusted(dir.as_fd(), part, &path, FileType::Directory)? {
                Some(next) => dir = next,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Who still uses a directory keeps it: only empty ones go.
    fn remove_empty_way(&self) {
        let mut path = self.run_dir.join(WAY.map(|(part, _)| part).iter().collect::<PathBuf>());
        for _ in WAY {
            if std::fs::remove_dir(&path).is_err() {
                return;
            }
            path.pop();
        }
    }
}

/// The directory of a volume, locked as long as this lives.
struct Place {
    parent: OwnedFd,
    fd: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// What the volume is; `None` if that was not written yet, or is being removed.
    fn info(&self, volume: &Path) -> Result<Option<MountInfo>> {
        let open = |name| open_trusted(self.fd.as_fd(), name, &self.path.join(name), FileType::RegularFile);
        let (name, fd) = match open(MOUNT_INFO)? {
            Some(fd) => (MOUNT_INFO, fd),
            None => match open(MOUNT_INFO_OF_OTHERS)? {
                Some(fd) => (MOUNT_INFO_OF_OTHERS, fd),
                None => return Ok(None),
            },
        };
        let mut json = Vec::new();
        // One byte more than there may be tells that there are too many.
        let read = File::from(fd).take(MAX_MOUNT_INFO as u64 + 1).read_to_end(&mut json);
        read.map_err(|error| failed(&self.path.join(name), error))?;
        let info = MountInfo::parse(&json);
        info.map(Some).map_err(|source| DirectVolumeError::Info { volume: volume.to_owned(), source })
    }

    /// The names of all that is in it.
    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(|errno| failed(&self.path, errno))? {
            let entry = entry.map_err(|errno| failed(&self.path, errno))?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => names.push(name.to_owned()),
                Err(_) => return Err(self.untrusted("has a file whose name is no text")),
            }
        }
        names.sort();
        Ok(names)
    }

    /// The sandboxes that were written down.
    fn users(&self) -> Result<Vec<String>> {
        let mut users = Vec::new();
        for name in self.names()? {
            if name == MOUNT_INFO || name == MOUNT_INFO_OF_OTHERS || name.starts_with('.') {
                continue;
            }
            if !is_id(&name) {
                return Err(self.untrusted("has a file in it that is not named for a sandbox"));
            }
            let path = self.path.join(&name);
            if open_trusted(self.fd.as_fd(), &name, &path, FileType::RegularFile)?.is_some() {
                users.push(name);
            }
        }
        Ok(users)
    }

    /// Writes a file that is not there yet; what a writer left that died goes.
    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.failed(name, errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat2(&self.fd, name, flags, Mode::from_raw_mode(0o600), inside());
        let mut file = File::from(file.map_err(|errno| self.failed(name, errno))?);
        file.write_all(content).map_err(|error| self.failed(name, error))
    }

    fn failed(&self, name: &str, error: impl Into<io::Error>) -> DirectVolumeError {
        failed(&self.path.join(name), error)
    }

    fn untrusted(&self, why: &'static str) -> DirectVolumeError {
        DirectVolumeError::Untrusted { path: self.path.clone(), why }
    }
}

fn failed(path: &Path, error: impl Into<io::Error>) -> DirectVolumeError {
    DirectVolumeError::Io { path: path.to_owned(), source: error.into() }
}

/// The name of a volume's directory: as upstream's, base64 for URLs with padding.
fn name_of(volume: &Path) -> Result<String> {
    let refused = |why| DirectVolumeError::Path { path: volume.to_owned(), why };
    if let Some(why) = mount_info::no_plain_path(volume) {
        return Err(refused(why));
    }
    // Slashes in a row or at the end mean nothing, and upstream's tools write none.
    let plain: PathBuf = volume.components().filter(|part| *part != Component::CurDir).collect();
    let name = BASE64URL.encode(plain.as_os_str().as_bytes());
    if name.len() > MAX_NAME { Err(refused("is longer than 189 bytes")) } else { Ok(name) }
}

fn is_id(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Nobody but root (or whom this process runs as) has made or may change what has this owner and mode.
fn is_ours(uid: u32, mode: u32) -> bool {
    let is_owner = uid == 0 || uid == rustix::process::geteuid().as_raw();
    is_owner && mode & 0o022 == 0
}

fn inside() -> ResolveFlags {
    ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH
}

/// The runtime directory itself may stand behind a link: root has made it.
fn open_run(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::empty())
}

/// Opens what only root can have made; `None` if it is not there.
fn open_trusted(
    dir: BorrowedFd<'_>,
    name: impl AsRef<OsStr>,
    path: &Path,
    kind: FileType,
) -> Result<Option<OwnedFd>> {
    let untrusted = |why| Err(DirectVolumeError::Untrusted { path: path.to_owned(), why });
    let wrong = match kind {
        FileType::Directory => "is no directory",
        _ => "is no regular file",
    };
    // A FIFO would be waited for, and be refused a moment later.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match openat2(dir, name.as_ref(), flags, Mode::empty(), inside()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return untrusted("is a symbolic link"),
        Err(Errno::NXIO) => return untrusted(wrong),
        Err(errno) => return Err(failed(path, errno)),
    };
    let stat = fstat(&fd).map_err(|errno| failed(path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return untrusted(wrong);
    }
    if !is_ours(stat.st_uid, stat.st_mode) {
        return untrusted("can be changed by others than root");
    }
    Ok(Some(fd))
}
