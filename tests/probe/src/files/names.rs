//! Names: made, linked, renamed, removed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, OFlags, RenameFlags, linkat, mknodat, openat, renameat_with, statat,
};

use super::{Checks, outcome, text};

pub(super) const CHECKS: Checks = &[
    ("rename replaces a file", |dir| {
        let [a, b] = two(dir)?;
        fs::rename(&a, &b)?;
        Ok(format!("{} {}", a.exists(), text(&b)))
    }),
    ("rename keeps the inode", |dir| {
        let [a, b] = two(dir)?;
        let before = fs::metadata(&a)?.ino();
        fs::rename(&a, &b)?;
        Ok((before == fs::metadata(&b)?.ino()).to_string())
    }),
    ("rename of a link onto another of the same file does nothing", |dir| {
        let [a, b] = [dir.join("a"), dir.join("b")];
        fs::write(&a, "a")?;
        fs::hard_link(&a, &b)?;
        fs::rename(&a, &b)?;
        Ok(format!("{} {}", a.exists(), b.exists()))
    }),
    ("an open file that was replaced is read on", |dir| {
        let [a, b] = two(dir)?;
        let mut open = File::open(&b)?;
        fs::rename(&a, &b)?;
        let mut content = String::new();
        open.read_to_string(&mut content)?;
        Ok(format!("{content} {}", open.metadata()?.nlink()))
    }),
    ("rename of a folder onto one with files", |dir| {
        let [a, b] = [dir.join("a"), dir.join("b")];
        fs::create_dir(&a)?;
        fs::create_dir_all(b.join("x"))?;
        Ok(outcome(fs::rename(&a, &b)))
    }),
    ("rename of a folder into itself", |dir| {
        fs::create_dir(dir.join("a"))?;
        Ok(outcome(fs::rename(dir.join("a"), dir.join("a/b"))))
    }),
    ("rename of a folder onto a file", |dir| {
        fs::create_dir(dir.join("a"))?;
        fs::write(dir.join("b"), "")?;
        Ok(outcome(fs::rename(dir.join("a"), dir.join("b"))))
    }),
    ("rename without replacing", |dir| flagged(dir, RenameFlags::NOREPLACE)),
    ("rename by exchange", |dir| flagged(dir, RenameFlags::EXCHANGE)),
    ("rename that leaves a whiteout", |dir| {
        let [a, b] = two(dir)?;
        let done = renameat_with(CWD, &a, CWD, &b, RenameFlags::WHITEOUT);
        let left = fs::symlink_metadata(&a).is_ok_and(|left| left.file_type().is_char_device());
        Ok(format!("{} {left}", outcome(done)))
    }),
    ("hard links are counted", |dir| {
        let [a, b] = [dir.join("a"), dir.join("b")];
        fs::write(&a, "a")?;
        fs::hard_link(&a, &b)?;
        let (two, same) = (fs::metadata(&a)?.nlink(), fs::metadata(&a)?.ino() == fs::metadata(&b)?.ino());
        fs::remove_file(&a)?;
        Ok(format!("{two} {same} {}", fs::metadata(&b)?.nlink()))
    }),
    ("hard link to a folder", |dir| Ok(outcome(fs::hard_link(dir, dir.join("a"))))),
    ("hard link to a symbolic link", |dir| {
        symlink("nowhere", dir.join("a"))?;
        linkat(CWD, dir.join("a"), CWD, dir.join("b"), AtFlags::empty())?;
        Ok(fs::read_link(dir.join("b"))?.display().to_string())
    }),
    ("a removed file is read and written on", |dir| {
        let path = dir.join("a");
        let mut open = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        open.write_all(b"kept")?;
        fs::remove_file(&path)?;
        io::Seek::rewind(&mut open)?;
        let mut content = String::new();
        open.read_to_string(&mut content)?;
        Ok(format!("{content} {} {}", open.metadata()?.nlink(), path.exists()))
    }),
    ("unlink of a folder", |dir| {
        fs::create_dir(dir.join("a"))?;
        Ok(outcome(fs::remove_file(dir.join("a"))))
    }),
    ("rmdir of a folder with files", |dir| {
        fs::create_dir_all(dir.join("a/b"))?;
        Ok(outcome(fs::remove_dir(dir.join("a"))))
    }),
    ("rmdir of a file", |dir| {
        fs::write(dir.join("a"), "")?;
        Ok(outcome(fs::remove_dir(dir.join("a"))))
    }),
    ("O_EXCL on what is there", |dir| {
        fs::write(dir.join("a"), "")?;
        Ok(outcome(File::create_new(dir.join("a")).map(drop)))
    }),
    ("O_EXCL on a symbolic link to nothing", |dir| {
        symlink("nowhere", dir.join("a"))?;
        Ok(outcome(File::create_new(dir.join("a")).map(drop)))
    }),
    ("O_NOFOLLOW on a symbolic link", |dir| {
        symlink("nowhere", dir.join("a"))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        Ok(outcome(openat(CWD, dir.join("a"), flags, Mode::empty()).map(drop)))
    }),
    ("O_DIRECTORY on a file", |dir| {
        fs::write(dir.join("a"), "")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(outcome(openat(CWD, dir.join("a"), flags, Mode::empty()).map(drop)))
    }),
    ("a symbolic link's length is its text's", |dir| {
        symlink("twelve bytes", dir.join("a"))?;
        let found = statat(CWD, dir.join("a"), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(found.st_size.to_string())
    }),
    ("symbolic links that go round", |dir| {
        symlink("b", dir.join("a"))?;
        symlink("a", dir.join("b"))?;
        Ok(outcome(File::open(dir.join("a")).map(drop)))
    }),
    ("a symbolic link of 4,095 bytes", |dir| {
        let long = "x".repeat(4095);
        symlink(&long, dir.join("a"))?;
        Ok((fs::read_link(dir.join("a"))?.as_os_str() == long.as_str()).to_string())
    }),
    ("a name of 255 bytes", |dir| Ok(outcome(fs::write(dir.join("ä".repeat(127) + "x"), "")))),
    ("a name of 256 bytes", |dir| Ok(outcome(fs::write(dir.join("x".repeat(256)), "")))),
    ("a name that is no UTF-8", |dir| {
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\x01 \n");
        fs::write(dir.join(name), "")?;
        let mut entries = fs::read_dir(dir)?;
        Ok(entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() == name)).to_string())
    }),
    ("a path below a file", |dir| {
        fs::write(dir.join("a"), "")?;
        Ok(outcome(File::open(dir.join("a/b")).map(drop)))
    }),
    ("O_TMPFILE has no name", |dir| {
        let file = File::from(openat(CWD, dir, OFlags::RDWR | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR)?);
        Ok(format!("{} {}", file.metadata()?.nlink(), fs::read_dir(dir)?.count()))
    }),
    ("O_TMPFILE gets a name", |dir| {
        let mut file = File::from(openat(CWD, dir, OFlags::RDWR | OFlags::TMPFILE, Mode::RUSR)?);
        file.write_all(b"named")?;
        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        linkat(CWD, own, CWD, dir.join("a"), AtFlags::SYMLINK_FOLLOW)?;
        Ok(format!("{} {}", text(&dir.join("a")), file.metadata()?.nlink()))
    }),
    ("nodes of each kind", |dir| {
        let kinds = [FileType::Fifo, FileType::Socket, FileType::CharacterDevice, FileType::BlockDevice];
        let made = kinds.map(|kind| {
            let device: Dev = rustix::fs::makedev(1, 3);
            let path = dir.join(format!("{kind:?}"));
            let done = outcome(mknodat(CWD, &path, kind, Mode::RUSR, device));
            let found = fs::symlink_metadata(&path).map(|found| found.rdev()).unwrap_or_default();
            format!("{done} {found}")
        });
        Ok(made.join(", "))
    }),
    ("a FIFO carries bytes", |dir| {
        let path = dir.join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let mut both = File::options().read(true).write(true).open(&path)?;
        both.write_all(b"bytes")?;
        let mut buffer = [0; 5];
        both.read_exact(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }),
    ("a socket takes connections", |dir| {
        let path = dir.join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path)?;
        Ok(outcome(std::os::unix::net::UnixStream::connect(&path).map(drop)))
    }),
];

fn two(dir: &Path) -> io::Result<[std::path::PathBuf; 2]> {
    let paths = [dir.join("a"), dir.join("b")];
    fs::write(&paths[0], "of a")?;
    fs::write(&paths[1], "of b")?;
    Ok(paths)
}

fn flagged(dir: &Path, flags: RenameFlags) -> io::Result<String> {
    let [a, b] = two(dir)?;
    let done = outcome(renameat_with(CWD, &a, CWD, &b, flags));
    Ok(format!("{done} {} {}", text(&a), text(&b)))
}
