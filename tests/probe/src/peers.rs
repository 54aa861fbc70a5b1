//! Two processes in two containers with one folder in common: what one does, the other one sees.
//!
//! `kata-probe hold DIR` makes files and locks, `kata-probe meet DIR` in the other container looks at them. They wait for each
//! other by FIFOs in the folder: a FIFO, too, connects only those that have the same file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};

use crate::report::Report;
use crate::sys::{Lock, Mapping, Range, record_lock};

const LENGTH: usize = 8192;
const ALL: Range = Range { start: 0, length: 0 };

/// Until the other one has told that it is done.
pub(crate) fn hold(report: &mut Report, dir: &Path) -> io::Result<()> {
    let file = open(&dir.join("file"), true)?;
    file.set_len(LENGTH as u64)?;
    let map = Mapping::shared(&file, LENGTH)?;
    map.set(100, 1);
    record_lock(&file, Lock::Write, ALL)?;
    let flocked = open(&dir.join("flocked"), true)?;
    flock(&flocked, FlockOperation::LockExclusive)?;
    for name in ["ready", "done"] {
        mknodat(CWD, dir.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    }
    let listener = UnixListener::bind(dir.join("socket"))?;
    // The other container is started when this file is there.
    fs::write(dir.join("made"), "")?;
    fs::write(dir.join("ready"), "x")?;
    listener.accept()?.0.write_all(b"through the socket")?;
    fs::read(dir.join("done"))?;
    report.tell("what the other one mapped and wrote is mapped here", map.byte(200));
    let mut byte = [0];
    file.read_exact_at(&mut byte, 200)?;
    report.tell("what the other one mapped and wrote is read", byte[0]);
    report.tell("what the other one wrote is mapped here", map.byte(300));
    report.tell("the other one's file is as long", fs::metadata(dir.join("long"))?.len());
    Ok(())
}

/// The other container's part.
pub(crate) fn meet(report: &mut Report, dir: &Path) -> io::Result<()> {
    fs::read(dir.join("ready"))?;
    let heard = io::read_to_string(UnixStream::connect(dir.join("socket"))?)?;
    report.tell("a socket", heard);
    let file = open(&dir.join("file"), false)?;
    let map = Mapping::shared(&file, LENGTH)?;
    report.tell("what the other one mapped and wrote is mapped here", map.byte(100));
    report.tell_result("a record lock", record_lock(&file, Lock::Write, ALL).map(|()| "is had"));
    let flocked = open(&dir.join("flocked"), false)?;
    let locked = flock(&flocked, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from);
    report.tell_result("a lock of the whole file", locked.map(|()| "is had"));
    report.tell("links", file.metadata()?.nlink());
    map.set(200, 2);
    file.write_all_at(&[3], 300)?;
    open(&dir.join("long"), true)?.set_len(12_345)?;
    fs::write(dir.join("done"), "x")
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    File::options().read(true).write(true).create(create).truncate(false).open(path)
}
