//! Copies of small volumes that are brought up to date every two seconds (`watchable-bind`).
//!
//! Upstream's runtime asks for them for ConfigMaps and Secrets: a process that watches such a copy (inotify) is told of
//! its changes, where it would not be told of the host's in a shared directory. Our own runtime never does: it tells of
//! the changes themselves, at once (`crate::watches`). The limits are upstream's.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::report::chain;

/// Files, directories and links of one volume, with its root.
const MAX_ENTRIES: usize = 16;
/// Bytes of its files.
const MAX_BYTES: u64 = 1 << 20;
/// How long a change may stay unseen.
const PERIOD: Duration = Duration::from_secs(2);
/// Begins the name of a link that replaces another.
const NEW: &str = ".kata-new-";

/// What something in a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Link,
}

/// One entry of a volume, as it was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds of its last change.
    changed: (i64, i64),
    owner: (u32, u32),
}

/// A volume's entries, by their paths in it; that of its root is empty.
type Entries = BTreeMap<PathBuf, Entry>;

/// A volume and its copy.
#[derive(Debug)]
pub(super) struct Copy {
    source: PathBuf,
    target: PathBuf,
    /// What the copy has.
    entries: Entries,
}

/// Brings a copy up to date until it is dropped, and then removes it.
#[derive(Debug)]
pub(super) struct Updates {
    target: PathBuf,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Entry {
    /// `None` for what is not copied, such as sockets.
    fn of(metadata: &Metadata) -> Option<Self> {
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_file() => Kind::File,
            kind if kind.is_symlink() => Kind::Link,
            _ => return None,
        };
        Some(Self {
            kind,
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            owner: (metadata.uid(), metadata.gid()),
        })
    }
}

impl Copy {
    /// Copies `source`, a directory or file, to a new place below `copies`; `None` if it is too large for that.
    pub(super) fn of(source: &Path, copies: &Path) -> io::Result<Option<Self>> {
        let Some(entries) = entries(source)? else { return Ok(None) };
        let target = place(copies)?.join("copy");
        let mut copy = Self { source: source.to_owned(), target, entries: BTreeMap::new() };
        match copy.take(&entries) {
            Ok(()) => Ok(Some(copy)),
            Err(error) => {
                remove_place(&copy.target);
                Err(error)
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.target
    }

    /// Copies what has changed. A volume that has grown too large stays as it was.
    fn update(&mut self) -> io::Result<()> {
        match entries(&self.source)? {
            Some(now) => self.take(&now),
            None => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it has grown to more than {MAX_ENTRIES} entries or {MAX_BYTES} bytes"),
            )),
        }
    }

    /// New files come before the links that may lead to them, and what is gone goes last: a reader finds the old volume
    /// or the new one by `..data`.
    fn take(&mut self, now: &Entries) -> io::Result<()> {
        let changed: Vec<_> =
            now.iter().filter(|(path, entry)| self.entries.get(*path) != Some(*entry)).collect();
        let (links, files): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|(_, entry)| entry.kind == Kind::Link);
        for (path, entry) in files.into_iter().chain(links) {
            match self.put(path, entry) {
                // It has gone meanwhile, which the next look tells.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.as_os_str().is_empty() => {}
                put => put?,
            }
        }
        let gone: Vec<_> = self.entries.keys().filter(|path| !now.contains_key(*path)).cloned().collect();
        for path in gone.into_iter().rev() {
            remove(&at(&self.target, &path))?;
            self.entries.remove(&path);
        }
        Ok(())
    }

    fn put(&mut self, path: &Path, entry: &Entry) -> io::Result<()> {
        let (source, target) = (at(&self.source, path), at(&self.target, path));
        if self.entries.get(path).is_some_and(|before| before.kind != entry.kind) {
            remove(&target)?;
            self.entries.remove(path);
        }
        match entry.kind {
            Kind::Directory => {
                if !target.is_dir() {
                    fs::create_dir(&target)?;
                }
                fs::set_permissions(&target, fs::symlink_metadata(&source)?.permissions())?;
                lchown(&target, Some(entry.owner.0), Some(entry.owner.1))?;
            }
            Kind::File => {
                fs::copy(&source, &target)?;
                lchown(&target, Some(entry.owner.0), Some(entry.owner.1))?;
            }
            Kind::Link => {
                let mut name = std::ffi::OsString::from(NEW);
                name.push(target.file_name().unwrap_or_default());
                let new = target.with_file_name(name);
                symlink(fs::read_link(&source)?, &new)?;
                lchown(&new, Some(entry.owner.0), Some(entry.owner.1))?;
                fs::rename(&new, &target)?;
            }
        }
        self.entries.insert(path.to_owned(), entry.clone());
        Ok(())
    }
}

impl Updates {
    /// Begins.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn of(mut copy: Copy) -> io::Result<Self> {
        let target = copy.target.clone();
        let (end, ended) = mpsc::channel::<()>();
        let work = move || {
            let mut fails = false;
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let updated = copy.update();
                if let (Err(error), false) = (&updated, fails) {
                    let (source, error) = (copy.source.display(), chain(error));
                    tracing::warn!(%source, error, "The copy of a watched volume is not up to date");
                }
                fails = updated.is_err();
            }
        };
        let thread = thread::Builder::new().name("watchable".to_owned()).spawn(work);
        match thread {
            Ok(thread) => Ok(Self { target, end: Some(end), thread: Some(thread) }),
            Err(error) => {
                remove_place(&target);
                Err(error)
            }
        }
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        drop(self.end.take());
        // It cannot panic; and the copy must not be written to any more.
        self.thread.take().map(JoinHandle::join);
        remove_place(&self.target);
    }
}

/// A new directory below `copies`.
fn place(copies: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(copies)?;
    for number in 0_u32.. {
        let place = copies.join(number.to_string());
        match fs::create_dir(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| place),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn remove_place(target: &Path) {
    // It is memory that ends with the guest at the latest.
    let _ = target.parent().map(fs::remove_dir_all);
}

/// Removes what is there; it may have gone with its directory.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// `path` in `root`, which may be a file.
fn at(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) }
}

/// What `source` has; `None` if that is too much. Links are not followed but at its root.
fn entries(source: &Path) -> io::Result<Option<Entries>> {
    let mut entries = Entries::new();
    let mut bytes = 0;
    let mut next = vec![PathBuf::new()];
    while let Some(path) = next.pop() {
        let found = at(source, &path);
        let metadata =
            if path.as_os_str().is_empty() { fs::metadata(&found)? } else { fs::symlink_metadata(&found)? };
        let Some(entry) = Entry::of(&metadata) else { continue };
        if entry.kind == Kind::File {
            bytes += entry.length;
        }
        if entry.kind == Kind::Directory {
            for child in fs::read_dir(&found)?.take(MAX_ENTRIES + 1) {
                next.push(path.join(child?.file_name()));
            }
        }
        entries.insert(path, entry);
        if entries.len() > MAX_ENTRIES || bytes > MAX_BYTES {
            return Ok(None);
        }
    }
    Ok(Some(entries))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    /// A volume as kubelet makes a ConfigMap.
    fn config_map(volume: &Path, version: &str, text: &str) {
        let data = format!("..{version}");
        fs::create_dir(volume.join(&data)).unwrap();
        fs::write(volume.join(&data).join("key"), text).unwrap();
        symlink(&data, volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        if !volume.join("key").is_symlink() {
            symlink("..data/key", volume.join("key")).unwrap();
        }
    }

    fn volume() -> (TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume");
        fs::create_dir(&volume).unwrap();
        (root, volume)
    }

    fn copy(root: &TempDir, volume: &Path) -> Copy {
        Copy::of(volume, &root.path().join("copies")).unwrap().expect("small")
    }

    #[test]
    fn an_updated_config_map_is_copied_with_its_links() {
        let (root, volume) = volume();
        config_map(&volume, "1", "first");
        let mut copy = copy(&root, &volume);
        assert_eq!(fs::read_link(copy.path().join("key")).unwrap(), Path::new("..data/key"));
        assert_eq!(fs::read_to_string(copy.path().join("key")).unwrap(), "first");
        config_map(&volume, "2", "second");
        fs::remove_dir_all(volume.join("..1")).unwrap();
        copy.update().unwrap();
        assert_eq!(fs::read_to_string(copy.path().join("key")).unwrap(), "second");
        assert!(!copy.path().join("..1").exists());
    }

    #[test]
    fn directories_come_and_go() {
        let (root, volume) = volume();
        let mut copy = copy(&root, &volume);
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/b/file"), "text").unwrap();
        fs::set_permissions(volume.join("a"), fs::Permissions::from_mode(0o750)).unwrap();
        copy.update().unwrap();
        assert_eq!(fs::read_to_string(copy.path().join("a/b/file")).unwrap(), "text");
        assert_eq!(fs::metadata(copy.path().join("a")).unwrap().permissions().mode() & 0o777, 0o750);
        fs::remove_dir_all(volume.join("a")).unwrap();
        fs::write(volume.join("a"), "a file now").unwrap();
        copy.update().unwrap();
        assert_eq!(fs::read_to_string(copy.path().join("a")).unwrap(), "a file now");
    }

    #[test]
    fn a_file_that_stays_is_written_where_it_is() {
        let (root, volume) = volume();
        let file = volume.join("config");
        fs::write(&file, "first").unwrap();
        let mut copy = copy(&root, &file);
        let inode = fs::metadata(copy.path()).unwrap().ino();
        fs::write(&file, "second").unwrap();
        copy.update().unwrap();
        assert_eq!(fs::read_to_string(copy.path()).unwrap(), "second");
        assert_eq!(fs::metadata(copy.path()).unwrap().ino(), inode, "who watches it is told");
    }

    #[test]
    fn sixteen_entries_with_the_root_are_copied_and_no_more() {
        let (root, volume) = volume();
        for number in 1..MAX_ENTRIES {
            fs::write(volume.join(number.to_string()), "").unwrap();
        }
        let mut full = copy(&root, &volume);
        fs::create_dir(volume.join("one more")).unwrap();
        assert!(full.update().unwrap_err().to_string().contains("16 entries"));
        assert!(full.path().join("1").exists(), "it stays as it was");
        assert!(Copy::of(&volume, root.path()).unwrap().is_none());
    }

    #[test]
    fn more_than_a_mebibyte_is_not_copied() {
        let (root, volume) = volume();
        let large = usize::try_from(MAX_BYTES).unwrap() + 1;
        fs::write(volume.join("large"), vec![0; large]).unwrap();
        assert!(Copy::of(&volume, root.path()).unwrap().is_none());
    }

    #[test]
    fn a_copy_is_gone_when_its_updates_end() {
        let (root, volume) = volume();
        fs::write(volume.join("file"), "").unwrap();
        let copy = copy(&root, &volume);
        let path = copy.path().to_owned();
        drop(Updates::of(copy).unwrap());
        assert!(!path.exists() && fs::read_dir(root.path().join("copies")).unwrap().next().is_none());
    }
}
