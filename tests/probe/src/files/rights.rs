//! Who may do what: checks as users that are not root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::Checks;
use crate::sys::as_user;

pub(super) const CHECKS: Checks = &[
    ("owner, group and others read by their own bits", |dir| {
        let path = of_user(dir, 0o640)?;
        let read = |user, group| as_user(user, group, || File::open(&path).map(drop));
        Ok(format!("{} {} {}", read(1000, 9)?, read(9, 1001)?, read(9, 9)?))
    }),
    ("the owner's bits count before the group's", |dir| {
        let path = of_user(dir, 0o077)?;
        as_user(1000, 1001, || File::open(&path).map(drop))
    }),
    ("a folder without x is not gone through", |dir| {
        let path = of_user(dir, 0o666)?;
        fs::set_permissions(dir, PermissionsExt::from_mode(0o666))?;
        as_user(9, 9, || File::open(&path).map(drop))
    }),
    ("a folder without w takes no new names", |dir| {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
        as_user(9, 9, || fs::write(dir.join("a"), ""))
    }),
    ("in a sticky folder others' files stay", |dir| {
        let path = of_user(dir, 0o666)?;
        fs::set_permissions(dir, PermissionsExt::from_mode(0o1777))?;
        let other = as_user(9, 9, || fs::remove_file(&path))?;
        let renamed = as_user(9, 9, || fs::rename(&path, dir.join("b")))?;
        Ok(format!("{other} {renamed} {}", as_user(1000, 1001, || fs::remove_file(&path))?))
    }),
    ("a mode is changed by the owner alone", |dir| {
        let path = of_user(dir, 0o666)?;
        let change =
            |user| as_user(user, 1001, || fs::set_permissions(&path, PermissionsExt::from_mode(0o600)));
        Ok(format!("{} {}", change(9)?, change(1000)?))
    }),
    ("an owner cannot give a file away", |dir| {
        let path = of_user(dir, 0o666)?;
        as_user(1000, 1001, || chown(&path, Some(9), None))
    }),
    ("an owner gives it to one of his own groups only", |dir| {
        let path = of_user(dir, 0o666)?;
        let give = |group| as_user(1000, 1001, || chown(&path, None, Some(group)));
        Ok(format!("{} {}", give(1001)?, give(9)?))
    }),
    ("others set times only to now", |dir| {
        let path = of_user(dir, 0o666)?;
        let set = |time| {
            as_user(9, 9, || {
                let time = rustix::fs::Timespec { tv_sec: 0, tv_nsec: time };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                Ok(rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())?)
            })
        };
        Ok(format!("{} {}", set(rustix::fs::UTIME_NOW)?, set(5)?))
    }),
    ("a file that is open stays open without rights", |dir| {
        let path = of_user(dir, 0o644)?;
        as_user(9, 9, || {
            let open = File::open(&path)?;
            io::copy(&mut &open, &mut io::sink()).map(drop)
        })
    }),
    ("access is told as open decides", |dir| {
        let path = of_user(dir, 0o604)?;
        let may = |access| as_user(9, 9, || Ok(accessat(CWD, &path, access, AtFlags::EACCESS)?));
        Ok(format!("{} {} {}", may(Access::READ_OK)?, may(Access::WRITE_OK)?, may(Access::EXEC_OK)?))
    }),
    ("a program without x is not run, not even by root", |dir| {
        let path = dir.join("program");
        fs::copy("/proc/self/exe", &path)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666))?;
        Ok(super::outcome(std::process::Command::new(&path).status().map(drop)))
    }),
    ("a set-user-ID program runs as its owner", |dir| {
        let path = dir.join("program");
        fs::copy("/proc/self/exe", &path)?;
        chown(&path, Some(1234), None)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o4755))?;
        let output = std::process::Command::new(&path).arg("user").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }),
];

/// A file of user 1000 and group 1001, in a folder that all may use.
fn of_user(dir: &Path, mode: u32) -> io::Result<PathBuf> {
    let path = dir.join("file");
    fs::write(&path, "content")?;
    chown(&path, Some(1000), Some(1001))?;
    fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
    fs::set_permissions(dir, PermissionsExt::from_mode(0o777))?;
    Ok(path)
}
