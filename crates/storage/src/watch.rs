//! Watching shared files on the host for processes in the guest that watch them (inotify).
//!
//! A host's change to a shared file is nothing the guest's kernel can know of. So what somebody begins to watch there is
//! watched here, the same file with the same kind of watch, and what comes is told to the guest. Only what is watched in
//! the guest costs anything; there is no walking of directories.
//!
//! virtiofsd works for the guest, and the guest's kernel has told of that itself: such changes are found by
//! `causes` and left out. Another volume may show the same files to another container of the pod, which the guest's
//! kernel cannot know; if that can be written to, they are told.

mod causes;
mod sys;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use kata_protocol::guest::VOLUMES;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstat, fstatvfs, openat2, statvfs};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::mount::open_path;

use causes::{Causes, FileKey};
pub(crate) use sys::register;

/// Bytes of events that are read at once.
const READ_AT_ONCE: usize = 64 * 1024;
/// Events of one reading; what is left waits in the kernel, and equal ones become one there.
const MAX_AT_ONCE: usize = 1024;
/// Watches of one sandbox, as a guest could use up those of the whole host.
const MAX_WATCHES: usize = 4096;

/// A file cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Not in a volume, or there are too many already.
    #[error("{path:?} is not watched: {why}")]
    Refused {
        /// Below the shared directory.
        path: PathBuf,
        /// The rule.
        why: &'static str,
    },
    /// The system refused.
    #[error("{path:?} cannot be watched: is `fs.inotify.max_user_instances` or `max_user_watches` used up?")]
    System {
        /// Below the shared directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A change, for one of the guest's watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The number the guest has given the watch.
    pub watch: u32,
    /// As in inotify(7).
    pub mask: u32,
    /// Joins the two halves of a rename.
    pub cookie: u32,
    /// In the watched directory; empty for what is watched itself.
    pub name: Vec<u8>,
}

/// What the guest watches.
#[derive(Debug)]
pub struct Watcher {
    /// The shared directory.
    dir: PathBuf,
    root: OwnedFd,
    events: AsyncFd<OwnedFd>,
    /// None before a volume is watched that can be written to, and where the kernel cannot tell.
    causes: Option<Causes>,
    daemon: u32,
    watches: HashMap<u32, Watch>,
    /// By the kernel's number.
    places: HashMap<i32, Place>,
    /// Those that have left one directory and not come to another, by the rename's number.
    moving: HashMap<u32, Vec<u32>>,
}

#[derive(Debug)]
struct Watch {
    place: i32,
    /// The directory in which its removal is seen; none if it has left for where nobody looks.
    parent: Option<i32>,
    file: OwnedFd,
    /// None if the guest cannot write to it, or the kernel cannot tell who has.
    key: Option<FileKey>,
    /// Path of the volume that it is in.
    volume: PathBuf,
    is_volume: bool,
}

/// Who wants to know about a file of the host.
#[derive(Debug, Default)]
struct Place {
    watches: Vec<u32>,
    /// Those that are in this directory, by their names.
    children: Vec<(Vec<u8>, u32)>,
}

/// One event of the kernel's.
struct Raw {
    place: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Watch {
    /// Whether no name of the file is left.
    fn is_deleted(&self) -> bool {
        fstat(&self.file).is_ok_and(|metadata| metadata.st_nlink == 0)
    }

    /// Whether nobody looks for its end, which a volume has not: its mount keeps it.
    fn is_lost(&self) -> bool {
        self.parent.is_none() && !self.is_volume
    }
}

impl Watcher {
    /// Nothing is watched yet. `dir` is the sandbox's shared directory, `daemon` the virtiofsd that shares it.
    ///
    /// # Errors
    /// The directory cannot be opened, or the user has no more inotify instances.
    pub fn new(dir: &Path, daemon: u32) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            dir: dir.to_owned(),
            root: open_path(dir)?,
            events: register(inotify)?,
            causes: None,
            daemon,
            watches: HashMap::new(),
            places: HashMap::new(),
            moving: HashMap::new(),
        })
    }

    /// Watches the file at `path` below the shared directory for the guest, which calls it `watch` and has seen `inode`.
    /// What it has called so before is not watched any more. Takes as long as the file's file system does.
    ///
    /// # Errors
    /// It is not in a volume, another file by now, or there are too many watches.
    pub fn add(&mut self, watch: u32, path: &Path, inode: u64) -> Result<(), WatchError> {
        let refused = |why| WatchError::Refused { path: path.to_owned(), why };
        let system = |source| WatchError::System { path: path.to_owned(), source };
        self.remove(watch);
        let volume = volume_of(path).ok_or_else(|| refused("it is in no volume"))?;
        if self.watches.len() >= MAX_WATCHES {
            return Err(refused("the guest watches too many files"));
        }
        let file = self.open(path).map_err(system)?;
        let metadata = fstat(&file).map_err(|errno| system(errno.into()))?;
        if metadata.st_ino != inode {
            return Err(refused("it has been replaced meanwhile"));
        }
        let is_directory = rustix::fs::FileType::from_raw_mode(metadata.st_mode).is_dir();
        let flags = fstatvfs(&file).map_err(|errno| system(errno.into()))?.f_flag;
        let place = self.watch(&file, events()).map_err(system)?;
        let parent = if path == volume { None } else { self.watch_parent(path) };
        let is_read_only = flags.contains(StatVfsMountFlags::RDONLY);
        let key = if is_read_only { None } else { self.attribute(&file, is_directory) };
        self.places.entry(place).or_default().watches.push(watch);
        if let Some(parent) = parent {
            let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
            self.places.entry(parent).or_default().children.push((name, watch));
        }
        self.watches.insert(watch, Watch { place, parent, file, key, is_volume: path == volume, volume });
        Ok(())
    }

    /// The guest does not watch it any more.
    pub fn remove(&mut self, watch: u32) {
        let Some(Watch { place, parent, file, key, .. }) = self.watches.remove(&watch) else { return };
        // The number may come to mean another file before the move's second half.
        self.moving.values_mut().for_each(|moved| moved.retain(|other| *other != watch));
        for place in [Some(place), parent].into_iter().flatten() {
            if let Some(known) = self.places.get_mut(&place) {
                known.watches.retain(|other| *other != watch);
                known.children.retain(|(_, other)| *other != watch);
            }
            self.release(place);
        }
        if let (Some(_), Some(causes), false) = (key, &self.causes, self.is_attributed(place)) {
            causes.remove(&file);
        }
    }

    /// Whether it is of matter to somebody who changes the file.
    fn is_attributed(&self, place: i32) -> bool {
        let others = self.places.get(&place).map(|place| place.watches.as_slice()).unwrap_or_default();
        others.iter().filter_map(|other| self.watches.get(other)).any(|other| other.key.is_some())
    }

    /// Ends the kernel's watch of what nobody wants to know of.
    fn release(&mut self, place: i32) {
        let unwanted = |place: &Place| place.watches.is_empty() && place.children.is_empty();
        if self.places.get(&place).is_some_and(unwanted) {
            self.places.remove(&place);
            // It may be gone with its file.
            inotify::remove_watch(self.events.get_ref(), place).ok();
        }
    }

    /// Waits until there may be changes. May be given up at any time.
    ///
    /// # Errors
    /// The system refuses to be asked.
    pub async fn ready(&self) -> io::Result<()> {
        self.events.readable().await.map(drop)
    }

    /// Changes since the last call, in their order; none if nothing has happened that the guest does not know. Looks at
    /// the files, which takes as long as their file system does.
    ///
    /// # Errors
    /// The system refuses to be asked.
    pub fn changes(&mut self) -> io::Result<Vec<Change>> {
        match self.events.try_io(Interest::READABLE, read) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            raw => Ok(self.changes_of(raw?)),
        }
    }

    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat2(&self.root, path, flags, Mode::empty(), resolve)?)
    }

    fn watch(&self, file: &OwnedFd, events: WatchFlags) -> io::Result<i32> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(inotify::add_watch(self.events.get_ref(), path, events)?)
    }

    /// A file that virtiofsd holds does not tell of its own removal.
    fn watch_parent(&self, path: &Path) -> Option<i32> {
        let parent = self.open(path.parent()?).ok()?;
        let events = WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::MASK_ADD;
        self.watch(&parent, events).ok()
    }

    /// Learns from now on who changes the file.
    fn attribute(&mut self, file: &OwnedFd, is_directory: bool) -> Option<FileKey> {
        if self.causes.is_none() {
            match Causes::new(self.daemon) {
                Ok(causes) => self.causes = Some(causes),
                Err(error) => {
                    tracing::debug!(%error, "What the guest changes itself is told to its watchers twice");
                }
            }
        }
        self.causes.as_ref()?.add(file, is_directory).ok()
    }

    fn changes_of(&mut self, raw: Vec<Raw>) -> Vec<Change> {
        if let Some(causes) = &mut self.causes {
            causes.read();
        }
        let mut shared = HashMap::new();
        let mut changes = Vec::new();
        for event in raw {
            let (mask, flags) = (event.mask, ReadFlags::from_bits_retain(event.mask));
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                let all = self.watches.keys();
                changes.extend(all.map(|watch| Change { watch: *watch, mask, cookie: 0, name: Vec::new() }));
                continue;
            }
            if flags.contains(ReadFlags::DELETE) {
                let left = self.take_children(&event);
                self.tell_of_end(left, &mut changes);
            }
            let watches =
                self.places.get(&event.place).map(|place| place.watches.clone()).unwrap_or_default();
            for watch in watches.iter().filter(|watch| self.is_for(**watch, &event, &mut shared)) {
                changes.push(Change { watch: *watch, mask, cookie: event.cookie, name: event.name.clone() });
            }
            if flags.contains(ReadFlags::ATTRIB) && event.name.is_empty() {
                // What is known to be in a directory ends when that says so.
                let lost = |watch: &u32| self.watches.get(watch).is_some_and(Watch::is_lost);
                let lost = watches.into_iter().filter(lost).collect();
                self.tell_of_end(lost, &mut changes);
            }
            self.follow(&event, flags);
            self.release(event.place);
        }
        changes
    }

    /// Those of the name in `event`, which is not theirs any more.
    fn take_children(&mut self, event: &Raw) -> Vec<u32> {
        let Some(place) = self.places.get_mut(&event.place) else { return Vec::new() };
        let taken: Vec<_> = place.children.extract_if(.., |(name, _)| *name == event.name).collect();
        let taken: Vec<u32> = taken.into_iter().map(|(_, watch)| watch).collect();
        for watch in &taken {
            if let Some(watch) = self.watches.get_mut(watch) {
                watch.parent = None;
            }
        }
        taken
    }

    /// Keeps up with renames.
    fn follow(&mut self, event: &Raw, flags: ReadFlags) {
        if flags.contains(ReadFlags::MOVED_FROM) {
            let left = self.take_children(event);
            // Who has moved out of sight is forgotten when another does.
            self.moving.clear();
            self.moving.insert(event.cookie, left);
        }
        if flags.contains(ReadFlags::MOVED_TO) {
            // Replaced, which they are told of next.
            self.take_children(event);
            let Some(place) = self.places.get_mut(&event.place) else { return };
            for id in self.moving.remove(&event.cookie).unwrap_or_default() {
                if let Some(watch) = self.watches.get_mut(&id) {
                    watch.parent = Some(event.place);
                    place.children.push((event.name.clone(), id));
                }
            }
        }
    }

    /// Tells those of `watches` that are deleted.
    fn tell_of_end(&mut self, watches: Vec<u32>, changes: &mut Vec<Change>) {
        for watch in watches {
            if self.watches.get(&watch).is_some_and(Watch::is_deleted) {
                let mask = ReadFlags::DELETE_SELF.bits();
                changes.push(Change { watch, mask, cookie: 0, name: Vec::new() });
                self.remove(watch);
            }
        }
    }

    /// Whether the guest does not know of the event by itself.
    fn is_for(&self, watch: u32, event: &Raw, shared: &mut HashMap<PathBuf, bool>) -> bool {
        let Some(watch) = self.watches.get(&watch) else { return false };
        // Held by this process, it is told of by `tell_of_end`.
        let own = ReadFlags::DELETE_SELF | ReadFlags::UNMOUNT;
        if ReadFlags::from_bits_retain(event.mask).intersects(own) {
            return false;
        }
        let (Some(causes), Some(key)) = (&self.causes, &watch.key) else { return true };
        if !causes.is_guests(key, &event.name, event.mask) {
            return true;
        }
        *shared.entry(watch.volume.clone()).or_insert_with(|| self.has_other_writer(&watch.volume))
    }

    /// Whether the files of `volume` are those of another volume, too, through which they can be changed.
    fn has_other_writer(&self, volume: &Path) -> bool {
        let identity =
            |path: &Path| fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let Some(own) = identity(&self.dir.join(volume)) else { return false };
        let below =
            |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut others = below(self.dir.join(VOLUMES))
            .filter(|path| !path.ends_with(volume) && identity(path) == Some(own));
        others.any(|path| statvfs(&path).is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::RDONLY)))
    }
}

/// What a guest is told of; reading is not among it.
fn events() -> WatchFlags {
    WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
}

/// All events that wait.
fn read(fd: &OwnedFd) -> io::Result<Vec<Raw>> {
    let mut buffer = vec![MaybeUninit::uninit(); READ_AT_ONCE];
    let mut reader = Reader::new(fd, &mut buffer);
    let mut events = Vec::new();
    while events.len() < MAX_AT_ONCE || !reader.is_buffer_empty() {
        match reader.next() {
            Ok(event) => events.push(Raw {
                place: event.wd(),
                mask: event.events().bits(),
                cookie: event.cookie(),
                name: event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default(),
            }),
            Err(_) if !events.is_empty() => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(events)
}

/// `volumes/<n>-<name>` of a path in such a volume.
fn volume_of(path: &Path) -> Option<PathBuf> {
    let mut parts = path.components();
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if !path.components().all(plain) || parts.next()?.as_os_str() != VOLUMES {
        return None;
    }
    Some(Path::new(VOLUMES).join(parts.next()?))
}
