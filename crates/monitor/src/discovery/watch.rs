//! Which sandboxes have a management socket, by watching the directories that they are in (inotify).
//!
//! An event only says that it is time to look. What is looked at is watched before, so nothing is missed between.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kata_sandbox::MANAGEMENT_SOCKET;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// What is read of the kernel's queue at once; what overflows is an event, too.
const READ_AT_ONCE: usize = 16 << 10;

/// Where a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its state directory.
    pub(crate) dir: PathBuf,
    /// Device, number and time of its socket: another one is another life.
    life: (u64, u64, i64, i64),
}

impl Place {
    /// Its management socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join(MANAGEMENT_SOCKET)
    }
}

/// The directories that are watched.
#[derive(Debug)]
pub(crate) struct Watch {
    events: AsyncFd<OwnedFd>,
    roots: Vec<PathBuf>,
    /// The kernel's numbers.
    watched: HashSet<i32>,
}

impl Watch {
    /// Nothing is watched before the first look. Of a sandbox in several of `roots` the first one counts.
    pub(crate) fn new(roots: &[PathBuf]) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let roots = roots.iter().map(std::path::absolute).collect::<io::Result<_>>()?;
        Ok(Self { events: sys::register(events)?, roots, watched: HashSet::new() })
    }

    /// All sandboxes that there are now.
    pub(crate) fn look(&mut self) -> io::Result<BTreeMap<String, Place>> {
        let mut found = BTreeMap::new();
        let mut watched = HashSet::new();
        for root in &self.roots {
            if self.begin(root, &mut watched)? {
                self.look_into(root, &mut watched, &mut found)?;
            }
        }
        for stale in self.watched.difference(&watched) {
            // It is gone with its directory.
            let _ = inotify::remove_watch(&self.events, *stale);
        }
        self.watched = watched;
        Ok(found)
    }

    /// Returns when something may have changed since the last look.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.events.readable_mut().await?;
        let mut buffer = [MaybeUninit::uninit(); READ_AT_ONCE];
        let mut reader = Reader::new(ready.get_inner(), &mut buffer);
        loop {
            match reader.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }

    /// Watches a root, or what it will be made in; true: it is there.
    fn begin(&self, root: &Path, watched: &mut HashSet<i32>) -> io::Result<bool> {
        'again: loop {
            for directory in root.ancestors() {
                let Some(number) = self.add(directory)? else { continue };
                // The next one below may have been made before this one was watched.
                let below = root.ancestors().take_while(|below| *below != directory).last();
                if below.is_some_and(Path::is_dir) {
                    continue 'again;
                }
                watched.insert(number);
                return Ok(directory == root);
            }
            return Ok(false);
        }
    }

    fn look_into(
        &self,
        root: &Path,
        watched: &mut HashSet<i32>,
        found: &mut BTreeMap<String, Place>,
    ) -> io::Result<()> {
        let Ok(entries) = fs::read_dir(root) else { return Ok(()) };
        for entry in entries.flatten() {
            let dir = entry.path();
            let Some(id) = dir.file_name().and_then(OsStr::to_str).map(str::to_owned) else { continue };
            if found.contains_key(&id) {
                continue;
            }
            let mut place = place(&dir);
            if place.is_none()
                && let Some(number) = self.add(&dir)?
            {
                watched.insert(number);
                place = self::place(&dir);
            }
            found.extend(place.map(|place| (id, place)));
        }
        Ok(())
    }

    /// Watches a directory, or what a link leads to; `None`: it is none, or gone.
    fn add(&self, directory: &Path) -> io::Result<Option<i32>> {
        let what = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.events, directory, what) {
            Ok(number) => Ok(Some(number)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where the socket is; `None`: there is none yet.
fn place(dir: &Path) -> Option<Place> {
    let socket = fs::metadata(dir.join(MANAGEMENT_SOCKET)).ok()?;
    let life = (socket.dev(), socket.ino(), socket.ctime(), socket.ctime_nsec());
    socket.file_type().is_socket().then(|| Place { dir: dir.to_owned(), life })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::Watch;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Scene {
        dir: TempDir,
        watch: Watch,
    }

    impl Scene {
        fn new() -> Self {
            let dir = TempDir::new().unwrap();
            let roots = [dir.path().join("run/kata"), dir.path().join("run/vc/sbs")];
            Self { watch: Watch::new(&roots).unwrap(), dir }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join("run").join(path)
        }

        fn sandbox(&self, dir: &str) {
            fs::create_dir_all(self.path(dir)).unwrap();
            UnixListener::bind(self.path(dir).join("shim-monitor.sock")).unwrap();
        }

        fn ids(&mut self) -> Vec<String> {
            self.watch.look().unwrap().into_keys().collect()
        }

        /// Looks whenever told to, until there are these.
        async fn awaits(&mut self, ids: &[&str]) {
            let seen = async {
                while self.ids() != ids {
                    self.watch.changed().await.unwrap();
                }
            };
            timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("never {ids:?}"));
        }
    }

    #[tokio::test]
    async fn directories_may_be_made_and_removed_at_any_depth() {
        let mut scene = Scene::new();
        scene.awaits(&[]).await;
        scene.sandbox("kata/a");
        scene.awaits(&["a"]).await;
        fs::create_dir_all(scene.path("vc/sbs")).unwrap();
        symlink(scene.path("kata/a"), scene.path("vc/sbs/a")).unwrap();
        scene.sandbox("vc/sbs/go");
        scene.awaits(&["a", "go"]).await;
        fs::remove_dir_all(scene.path("")).unwrap();
        scene.awaits(&[]).await;
        scene.sandbox("kata/b");
        scene.awaits(&["b"]).await;
    }

    #[tokio::test]
    async fn a_sandbox_is_there_when_its_socket_is() {
        let mut scene = Scene::new();
        fs::create_dir_all(scene.path("kata/a")).unwrap();
        fs::write(scene.path("kata/file"), "").unwrap();
        scene.awaits(&[]).await;
        scene.sandbox("kata/a");
        scene.awaits(&["a"]).await;
        // Its own files are no longer looked at.
        timeout(Duration::from_millis(1), scene.watch.changed()).await.ok();
        fs::write(scene.path("kata/a/timeline.json"), "{}").unwrap();
        timeout(Duration::from_millis(50), scene.watch.changed()).await.unwrap_err();
    }

    #[tokio::test]
    async fn the_first_directory_counts() {
        let mut scene = Scene::new();
        scene.sandbox("kata/a");
        fs::create_dir_all(scene.path("vc/sbs")).unwrap();
        symlink(scene.path("kata/a"), scene.path("vc/sbs/a")).unwrap();
        let found = scene.watch.look().unwrap();
        assert_eq!(found["a"].socket(), scene.path("kata/a/shim-monitor.sock"));
    }

    #[tokio::test]
    async fn a_new_socket_is_a_new_life() {
        let mut scene = Scene::new();
        scene.sandbox("kata/a");
        let first = scene.watch.look().unwrap();
        assert_eq!(first, scene.watch.look().unwrap());
        fs::remove_file(scene.path("kata/a/shim-monitor.sock")).unwrap();
        scene.sandbox("kata/a");
        assert_ne!(first, scene.watch.look().unwrap());
    }

    #[tokio::test]
    async fn a_root_that_is_a_file_has_no_sandboxes() {
        let mut scene = Scene::new();
        fs::create_dir(scene.path("")).unwrap();
        fs::write(scene.path("kata"), "").unwrap();
        assert_eq!(scene.ids(), Vec::<String>::new());
        assert!(Path::new("/").is_dir());
    }
}
