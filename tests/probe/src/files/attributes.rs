//! Modes, owners and times.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fallocate, utimensat,
};

use super::{Checks, outcome};
use crate::sys::{Mapping, as_user, with_umask};

pub(super) const CHECKS: Checks = &[
    ("mode is kept", |dir| {
        let path = file(dir)?;
        let modes = [0o0, 0o777, 0o640, 0o4711, 0o2755, 0o1666, 0o6777].map(|mode| {
            let done = outcome(fs::set_permissions(&path, PermissionsExt::from_mode(mode)));
            format!("{done} {}", mode_of(&path))
        });
        Ok(modes.join(", "))
    }),
    ("umask is heeded", |dir| {
        with_umask(0o027, || {
            fs::write(dir.join("a"), "")?;
            fs::create_dir(dir.join("b"))?;
            Ok(format!("{} {}", mode_of(&dir.join("a")), mode_of(&dir.join("b"))))
        })
    }),
    ("owner is kept", |dir| {
        let path = file(dir)?;
        chown(&path, Some(12), Some(4_000_000_000))?;
        Ok(owner(&path))
    }),
    ("owner of a symbolic link is its own", |dir| {
        let path = file(dir)?;
        symlink(&path, dir.join("link"))?;
        lchown(dir.join("link"), Some(5), Some(6))?;
        let link = fs::symlink_metadata(dir.join("link"))?;
        Ok(format!("{} {}:{}", owner(&path), link.uid(), link.gid()))
    }),
    ("what a user makes is the user's", |dir| {
        open_to_all(dir)?;
        let made = as_user(1000, 1001, || fs::write(dir.join("a"), ""))?;
        Ok(format!("{made} {}", owner(&dir.join("a"))))
    }),
    ("files in a set-group-ID folder have its group", |dir| {
        chown(dir, None, Some(77))?;
        fs::set_permissions(dir, PermissionsExt::from_mode(0o2777))?;
        as_user(1000, 1001, || {
            fs::write(dir.join("a"), "")?;
            fs::create_dir(dir.join("b"))
        })?;
        Ok(format!("{} {} {}", owner(&dir.join("a")), owner(&dir.join("b")), mode_of(&dir.join("b"))))
    }),
    ("set-user-ID and set-group-ID go when root changes the owner", |dir| {
        let path = privileged(dir)?;
        chown(&path, Some(9), Some(9))?;
        Ok(mode_of(&path))
    }),
    ("set-user-ID and set-group-ID go when another writes", |dir| {
        after(dir, |path| File::options().write(true).open(path)?.write_all(b"x"))
    }),
    ("set-user-ID and set-group-ID go when another truncates", |dir| {
        after(dir, |path| File::options().write(true).open(path)?.set_len(1))
    }),
    ("set-user-ID and set-group-ID go when another opens with O_TRUNC", |dir| {
        after(dir, |path| File::options().write(true).truncate(true).open(path).map(drop))
    }),
    ("set-user-ID and set-group-ID go when another allocates", |dir| {
        after(dir, |path| {
            let file = File::options().write(true).open(path)?;
            Ok(fallocate(file, FallocateFlags::empty(), 0, 8192)?)
        })
    }),
    ("set-user-ID and set-group-ID stay when another maps", |dir| {
        after(dir, |path| {
            let file = File::options().read(true).write(true).open(path)?;
            Mapping::shared(&file, 4096)?.set(0, 1);
            Ok(())
        })
    }),
    ("set-user-ID and set-group-ID stay when root writes", |dir| {
        let path = privileged(dir)?;
        File::options().write(true).open(&path)?.write_all(b"x")?;
        Ok(mode_of(&path))
    }),
    ("set-group-ID goes when a stranger to the group changes the mode", |dir| {
        let path = file(dir)?;
        open_to_all(dir)?;
        chown(&path, Some(1000), Some(50))?;
        as_user(1000, 1001, || fs::set_permissions(&path, PermissionsExt::from_mode(0o2755)))?;
        Ok(mode_of(&path))
    }),
    ("times to the nanosecond", |dir| {
        let path = file(dir)?;
        set_times(&path, (1_234_567_890, 123_456_789), (1_000_000_000, 1))?;
        let found = fs::metadata(&path)?;
        Ok(format!("{}.{} {}.{}", found.atime(), found.atime_nsec(), found.mtime(), found.mtime_nsec()))
    }),
    ("times before 1970 and after 2038", |dir| {
        let path = file(dir)?;
        set_times(&path, (-1000, 0), (5_000_000_000, 0))?;
        let found = fs::metadata(&path)?;
        Ok(format!("{} {}", found.atime(), found.mtime()))
    }),
    ("a time is left as it is", |dir| {
        let path = file(dir)?;
        set_times(&path, (1000, 0), (2000, 0))?;
        set_times(&path, (0, UTIME_OMIT), (0, UTIME_NOW))?;
        let found = fs::metadata(&path)?;
        Ok(format!("{} {}", found.atime(), found.mtime() > 1_000_000_000))
    }),
    ("times of a symbolic link are its own", |dir| {
        let path = file(dir)?;
        set_times(&path, (1000, 0), (2000, 0))?;
        symlink(&path, dir.join("link"))?;
        set_times(&dir.join("link"), (3000, 0), (4000, 0))?;
        Ok(format!("{} {}", fs::metadata(&path)?.mtime(), fs::symlink_metadata(dir.join("link"))?.mtime()))
    }),
    ("a write changes the times of content and attributes", |dir| {
        let path = old(dir)?;
        let before = fs::metadata(&path)?;
        fs::write(&path, "new")?;
        let after = fs::metadata(&path)?;
        Ok(format!("{} {}", after.mtime() > before.mtime(), ctime(&after) >= ctime(&before)))
    }),
    ("a new mode changes only the time of attributes", |dir| {
        let path = old(dir)?;
        let before = fs::metadata(&path)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        let after = fs::metadata(&path)?;
        Ok(format!("{} {}", after.mtime() == before.mtime(), ctime(&after) >= ctime(&before)))
    }),
    ("a new name changes the folder's times", |dir| {
        fs::create_dir(dir.join("sub"))?;
        set_times(&dir.join("sub"), (1000, 0), (1000, 0))?;
        fs::write(dir.join("sub/a"), "")?;
        Ok((fs::metadata(dir.join("sub"))?.mtime() > 1000).to_string())
    }),
    ("a mapped write changes the time of content by msync", |dir| {
        let path = dir.join("mapped");
        fs::write(&path, [0; 4096])?;
        set_times(&path, (1000, 0), (1000, 0))?;
        let file = File::options().read(true).write(true).open(&path)?;
        let map = Mapping::shared(&file, 4096)?;
        map.set(0, 1);
        map.sync()?;
        Ok((fs::metadata(&path)?.mtime() > 1000).to_string())
    }),
    ("times that std sets through a descriptor", |dir| {
        let file = File::create(dir.join("a"))?;
        let time = SystemTime::UNIX_EPOCH + Duration::new(7, 8);
        file.set_times(FileTimes::new().set_accessed(time).set_modified(time))?;
        Ok((file.metadata()?.modified()? == time).to_string())
    }),
    ("O_NOATIME and reading leave the content", |dir| {
        let path = file(dir)?;
        let mut content = String::new();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOATIME;
        let opened = rustix::fs::openat(CWD, &path, flags, Mode::empty())?;
        File::from(opened).read_to_string(&mut content)?;
        Ok(content)
    }),
    ("attributes of a removed file", |dir| {
        let path = file(dir)?;
        let open = File::options().read(true).write(true).open(&path)?;
        fs::remove_file(&path)?;
        let mode = outcome(open.set_permissions(PermissionsExt::from_mode(0o600)));
        let length = outcome(open.set_len(100));
        open.write_all_at(b"x", 200)?;
        Ok(format!("{mode} {length} {}", open.metadata()?.len()))
    }),
];

fn file(dir: &Path) -> io::Result<std::path::PathBuf> {
    let path = dir.join("file");
    fs::write(&path, "content")?;
    Ok(path)
}

/// Of long ago.
fn old(dir: &Path) -> io::Result<std::path::PathBuf> {
    let path = file(dir)?;
    set_times(&path, (1000, 0), (1000, 0))?;
    Ok(path)
}

/// With both bits, writable by all.
fn privileged(dir: &Path) -> io::Result<std::path::PathBuf> {
    let path = dir.join("privileged");
    fs::write(&path, [b'x'; 5000])?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o6777))?;
    Ok(path)
}

/// The mode of such a file after what another user has done with it.
fn after(dir: &Path, done: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<String> {
    let path = privileged(dir)?;
    open_to_all(dir)?;
    let result = as_user(1000, 1001, || done(&path))?;
    Ok(format!("{result} {}", mode_of(&path)))
}

fn open_to_all(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, PermissionsExt::from_mode(0o777))
}

fn mode_of(path: &Path) -> String {
    fs::symlink_metadata(path).map_or_else(|e| e.to_string(), |found| format!("{:o}", found.mode() & 0o7777))
}

fn owner(path: &Path) -> String {
    fs::symlink_metadata(path)
        .map_or_else(|e| e.to_string(), |found| format!("{}:{}", found.uid(), found.gid()))
}

fn ctime(found: &fs::Metadata) -> (i64, i64) {
    (found.ctime(), found.ctime_nsec())
}

fn set_times(path: &Path, accessed: (i64, i64), modified: (i64, i64)) -> io::Result<()> {
    let of = |(seconds, nanos): (i64, i64)| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: of(accessed), last_modification: of(modified) };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
