//! What is in `/dev`, and whether it can be opened.

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, lstat, major, makedev, minor, mknodat, openat};
use rustix::io::Errno;

use crate::report::Report;

/// Devices that are made in `/tmp` and opened: memory, null, the kernel's log, FUSE, tun, a disk, one that no kernel has.
const MADE: [(FileType, u32, u32); 7] = [
    (FileType::CharacterDevice, 1, 1),
    (FileType::CharacterDevice, 1, 3),
    (FileType::CharacterDevice, 1, 11),
    (FileType::CharacterDevice, 10, 229),
    (FileType::CharacterDevice, 10, 200),
    (FileType::BlockDevice, 8, 0),
    (FileType::CharacterDevice, 240, 7),
];

pub(crate) fn tell(report: &mut Report) {
    folder(report, Path::new("/dev"));
    for (kind, major, minor) in MADE {
        let path = Path::new("/tmp").join(format!("{major}-{minor}"));
        let name = |what: &str| format!("made {kind:?} {major}:{minor} {what}");
        let made = mknodat(CWD, &path, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor));
        report.tell_result(name("makes"), made.map(|()| "yes").map_err(Into::into));
        for (how, flags) in [("reads", OFlags::RDONLY), ("writes", OFlags::WRONLY)] {
            let opened = openat(CWD, &path, flags | OFlags::NONBLOCK, Mode::empty());
            // Whether there is a device is the kernel's matter.
            let opened = match opened.map(drop) {
                Err(Errno::PERM | Errno::ACCESS) => "refused",
                _ => "allowed",
            };
            report.tell(name(how), opened);
        }
        let _ = fs::remove_file(&path);
    }
}

fn folder(report: &mut Report, path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = lstat(&path) else { continue };
        let kind = FileType::from_raw_mode(found.st_mode);
        let name = |what: &str| format!("device {} {what}", path.display());
        report.tell(name("owner"), format_args!("{}:{} {:o}", found.st_uid, found.st_gid, found.st_mode));
        match kind {
            FileType::Symlink => {
                report.tell_result(name("link"), fs::read_link(&path).map(|to| to.display().to_string()));
            }
            // Queues and shared memory come and go.
            FileType::Directory => folder(report, &path),
            FileType::CharacterDevice | FileType::BlockDevice => {
                report
                    .tell(name("number"), format_args!("{}:{}", major(found.st_rdev), minor(found.st_rdev)));
                let opened =
                    openat(CWD, &path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty());
                report.tell_result(name("opens"), opened.map(|_| "yes").map_err(Into::into));
            }
            _ => {}
        }
    }
}
