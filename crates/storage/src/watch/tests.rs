//! Watching, on real files.

use std::fs::{self, File, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc::{
    IN_ATTRIB, IN_CLOSE_WRITE, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_ISDIR, IN_MODIFY, IN_MOVE_SELF,
    IN_MOVED_FROM, IN_MOVED_TO,
};

use super::{Change, WatchError, Watcher, volume_of};

/// No process.
const NOBODY: u32 = u32::MAX;
const VOLUME: &str = "volumes/0-vol";

/// A shared directory with one volume.
fn share() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let volume = temp.path().join(VOLUME);
    fs::create_dir_all(&volume).unwrap();
    (temp, volume)
}

fn add(watcher: &mut Watcher, dir: &Path, watch: u32, path: &str) {
    let inode = fs::symlink_metadata(dir.join(path)).unwrap().ino();
    watcher.add(watch, Path::new(path), inode).unwrap();
}

/// The next changes, once there are any.
async fn changes(watcher: &mut Watcher) -> Vec<Change> {
    loop {
        watcher.ready().await.unwrap();
        let changes = watcher.changes().unwrap();
        if !changes.is_empty() {
            return changes;
        }
    }
}

fn told(changes: &[Change]) -> Vec<(u32, u32, &str)> {
    let name = |change: &Change| str::from_utf8(&change.name).unwrap().len();
    changes.iter().map(|c| (c.watch, c.mask, str::from_utf8(&c.name[..name(c)]).unwrap())).collect()
}

#[tokio::test]
async fn changes_come_in_their_order() {
    let (temp, volume) = share();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    add(&mut watcher, temp.path(), 7, VOLUME);
    fs::write(volume.join("a"), "x").unwrap();
    symlink("a", volume.join("new")).unwrap();
    fs::rename(volume.join("new"), volume.join("data")).unwrap();
    fs::set_permissions(volume.join("a"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(volume.join("a")).unwrap();
    let changes = changes(&mut watcher).await;
    let expected = [
        (7, IN_CREATE, "a"),
        (7, IN_MODIFY, "a"),
        (7, IN_CLOSE_WRITE, "a"),
        (7, IN_CREATE, "new"),
        (7, IN_MOVED_FROM, "new"),
        (7, IN_MOVED_TO, "data"),
        (7, IN_ATTRIB, "a"),
        (7, IN_DELETE, "a"),
    ];
    assert_eq!(told(&changes), expected);
    assert!(changes[4].cookie != 0 && changes[4].cookie == changes[5].cookie);
}

#[tokio::test]
async fn a_file_that_is_held_ends_all_the_same() {
    let (temp, volume) = share();
    fs::write(volume.join("a"), "x").unwrap();
    let _held = File::open(volume.join("a")).unwrap();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    add(&mut watcher, temp.path(), 1, "volumes/0-vol/a");
    fs::remove_file(volume.join("a")).unwrap();
    let changes = changes(&mut watcher).await;
    assert_eq!(told(&changes), [(1, IN_ATTRIB, ""), (1, IN_DELETE_SELF, "")]);
    assert!(watcher.watches.is_empty() && watcher.places.is_empty());
}

#[tokio::test]
async fn a_directory_ends_before_its_parent_tells_of_it() {
    let (temp, volume) = share();
    fs::create_dir(volume.join("d")).unwrap();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    add(&mut watcher, temp.path(), 1, "volumes/0-vol/d");
    add(&mut watcher, temp.path(), 2, VOLUME);
    fs::remove_dir(volume.join("d")).unwrap();
    let changes = changes(&mut watcher).await;
    assert_eq!(told(&changes), [(1, IN_DELETE_SELF, ""), (2, IN_DELETE | IN_ISDIR, "d")]);
}

/// What is read at once may tell of what has ended long since.
#[tokio::test]
async fn the_end_is_told_where_it_was() {
    let (temp, volume) = share();
    fs::create_dir_all(volume.join("d/e")).unwrap();
    fs::write(volume.join("a"), "").unwrap();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    add(&mut watcher, temp.path(), 1, "volumes/0-vol/a");
    add(&mut watcher, temp.path(), 2, "volumes/0-vol/d/e");
    add(&mut watcher, temp.path(), 3, VOLUME);
    fs::set_permissions(volume.join("a"), Permissions::from_mode(0o600)).unwrap();
    fs::rename(volume.join("d/e"), volume.join("f")).unwrap();
    fs::rename(volume.join("a"), volume.join("b")).unwrap();
    fs::remove_dir(volume.join("f")).unwrap();
    fs::remove_file(volume.join("b")).unwrap();
    let changes = changes(&mut watcher).await;
    let expected = [
        (1, IN_ATTRIB, ""),
        (3, IN_ATTRIB, "a"),
        (3, IN_MOVED_TO | IN_ISDIR, "f"),
        (2, IN_MOVE_SELF, ""),
        (3, IN_MOVED_FROM, "a"),
        (3, IN_MOVED_TO, "b"),
        (1, IN_MOVE_SELF, ""),
        (2, IN_DELETE_SELF, ""),
        (3, IN_DELETE | IN_ISDIR, "f"),
        (1, IN_ATTRIB, ""),
        (1, IN_DELETE_SELF, ""),
        (3, IN_DELETE, "b"),
    ];
    let mut told = told(&changes);
    // A file and its directory are told of one chmod in either order.
    told[..2].sort_unstable();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_is_replaced_ends_after_its_links_are_counted() {
    let (temp, volume) = share();
    fs::write(volume.join("a"), "").unwrap();
    fs::write(volume.join("b"), "").unwrap();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    add(&mut watcher, temp.path(), 1, "volumes/0-vol/a");
    fs::rename(volume.join("b"), volume.join("a")).unwrap();
    let changes = changes(&mut watcher).await;
    assert_eq!(told(&changes), [(1, IN_ATTRIB, ""), (1, IN_DELETE_SELF, "")]);
}

/// What the guest does is done by virtiofsd, here by this process's child.
#[tokio::test]
async fn what_the_guest_has_done_is_left_out() {
    let (temp, volume) = share();
    let mut watcher = Watcher::new(temp.path(), std::process::id()).unwrap();
    add(&mut watcher, temp.path(), 1, VOLUME);
    if watcher.causes.is_none() {
        eprintln!("skipped: no fanotify with names here");
        return;
    }
    fs::write(volume.join("own"), "x").unwrap();
    // A grandchild is somebody else.
    let script = format!("(echo x >{}/others; true); true", volume.display());
    let status = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status().unwrap();
    assert!(status.success());
    let changes = changes(&mut watcher).await;
    let expected = [(1, IN_CREATE, "others"), (1, IN_MODIFY, "others"), (1, IN_CLOSE_WRITE, "others")];
    assert_eq!(told(&changes), expected);
}

/// Files that the kernel watches for this descriptor, of inotify or fanotify.
fn kernel_watches(fd: &OwnedFd) -> usize {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    info.lines().filter(|line| line.contains(" ino:")).count()
}

/// A number that came again left its first file watched for good, uncounted: one number could use up what root may watch.
#[tokio::test]
async fn a_number_that_comes_again_means_the_new_file_only() {
    let (temp, volume) = share();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    for name in ["a", "b", "b", "c"] {
        fs::write(volume.join(name), "").unwrap();
        add(&mut watcher, temp.path(), 1, &format!("{VOLUME}/{name}"));
    }
    // The file and its directory.
    assert_eq!((watcher.places.len(), kernel_watches(watcher.events.get_ref())), (2, 2));
    assert!(watcher.places.values().all(|place| place.watches.len() + place.children.len() == 1));
    fs::write(volume.join("a"), "x").unwrap();
    fs::write(volume.join("c"), "x").unwrap();
    assert_eq!(told(&changes(&mut watcher).await), [(1, IN_MODIFY, ""), (1, IN_CLOSE_WRITE, "")]);
}

/// A refusal left the number to its first file.
#[tokio::test]
async fn a_number_that_comes_again_and_is_refused_means_nothing() {
    let (temp, _volume) = share();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    add(&mut watcher, temp.path(), 1, VOLUME);
    watcher.add(1, Path::new("volumes"), 0).unwrap_err();
    assert!(watcher.watches.is_empty() && watcher.places.is_empty());
}

/// Such a number was entered twice, and the kernel watched the first directory for good.
#[tokio::test]
async fn a_number_that_comes_again_does_not_follow_the_move_of_its_first_file() {
    let (temp, volume) = share();
    for dir in ["from", "to", "other"] {
        fs::create_dir(volume.join(dir)).unwrap();
    }
    fs::write(volume.join("from/a"), "").unwrap();
    fs::write(volume.join("other/b"), "").unwrap();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    add(&mut watcher, temp.path(), 1, &format!("{VOLUME}/from/a"));
    add(&mut watcher, temp.path(), 2, &format!("{VOLUME}/to"));
    fs::rename(volume.join("from/a"), volume.join("to/a")).unwrap();
    let mut halves = super::read(watcher.events.get_ref()).unwrap();
    let arrived = halves.split_off(halves.iter().position(|half| half.mask & IN_MOVED_TO != 0).unwrap());
    watcher.changes_of(halves);
    add(&mut watcher, temp.path(), 1, &format!("{VOLUME}/other/b"));
    watcher.changes_of(arrived);
    watcher.remove(1);
    watcher.remove(2);
    assert!(watcher.places.is_empty(), "{:?}", watcher.places);
}

/// The kernel kept each file that had ever been watched in memory, and counted it as root's, until the sandbox ended.
#[tokio::test]
async fn what_is_not_watched_any_more_is_not_looked_at_for_its_causes() {
    let (temp, volume) = share();
    fs::write(volume.join("a"), "").unwrap();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    for (watch, path) in [(1, "volumes/0-vol/a"), (2, "volumes/0-vol/a"), (3, VOLUME)] {
        add(&mut watcher, temp.path(), watch, path);
    }
    if watcher.causes.is_none() {
        eprintln!("skipped: no fanotify with names here");
        return;
    }
    let marks = |watcher: &Watcher| kernel_watches(&watcher.causes.as_ref().unwrap().events);
    assert_eq!(marks(&watcher), 2);
    watcher.remove(1);
    assert_eq!(marks(&watcher), 2, "watched by another number");
    watcher.remove(2);
    assert_eq!(marks(&watcher), 1);
    watcher.remove(3);
    assert_eq!(marks(&watcher), 0);
}

#[tokio::test]
async fn only_what_is_in_a_volume_and_still_the_same_is_watched() {
    let (temp, volume) = share();
    let mut watcher = Watcher::new(temp.path(), NOBODY).unwrap();
    symlink("/etc", volume.join("link")).unwrap();
    fs::create_dir_all(temp.path().join("passthrough/c1/rootfs")).unwrap();
    for path in ["passthrough/c1/rootfs", "volumes", "", "../x/y", "volumes/../volumes/0-vol"] {
        let refused = watcher.add(1, Path::new(path), 0);
        assert!(matches!(refused, Err(WatchError::Refused { .. })), "{path}");
    }
    let through_link = watcher.add(1, &Path::new(VOLUME).join("link/hosts"), 0);
    assert!(matches!(through_link, Err(WatchError::System { .. })));
    let inode = fs::metadata(&volume).unwrap().ino();
    let replaced = watcher.add(1, Path::new(VOLUME), inode + 1);
    assert!(matches!(replaced, Err(WatchError::Refused { .. })));
    assert!(watcher.watches.is_empty() && watcher.places.is_empty());
}

#[test]
fn a_volume_is_the_part_of_a_path_that_was_mounted() {
    assert_eq!(volume_of(Path::new("volumes/1-x/a/b")), Some("volumes/1-x".into()));
    assert_eq!(volume_of(Path::new("passthrough/c/rootfs/a")), None);
    assert_eq!(volume_of(Path::new("/volumes/1-x")), None);
}
