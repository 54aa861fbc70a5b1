//! What is in `/dev`, and whether it can be opened.

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, lstat, major, minor, openat};

use crate::report::Report;

pub(crate) fn tell(report: &mut Report) {
    folder(report, Path::new("/dev"));
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
