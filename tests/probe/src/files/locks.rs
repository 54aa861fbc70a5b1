//! Locks between two processes.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::Checks;
use crate::sys::{Lock, Range, as_user, record_lock};

pub(super) const CHECKS: Checks = &[
    ("flock keeps another process out", |dir| {
        let path = dir.join("file");
        let held = File::create(&path)?;
        flock(&held, FlockOperation::LockExclusive)?;
        let other = || Ok(flock(File::open(&path)?, FlockOperation::NonBlockingLockExclusive)?);
        let refused = as_user(0, 0, other)?;
        flock(&held, FlockOperation::Unlock)?;
        Ok(format!("{refused} {}", as_user(0, 0, other)?))
    }),
    ("flock is shared", |dir| {
        let path = dir.join("file");
        let held = File::create(&path)?;
        flock(&held, FlockOperation::LockShared)?;
        let other = |how| as_user(0, 0, || Ok(flock(File::open(&path)?, how)?));
        let shared = other(FlockOperation::NonBlockingLockShared)?;
        Ok(format!("{shared} {}", other(FlockOperation::NonBlockingLockExclusive)?))
    }),
    ("a record lock keeps another process out of its bytes only", |dir| {
        let file = file(dir)?;
        record_lock(&file, Lock::Write, Range { start: 10, length: 10 })?;
        let other = |start| try_lock(dir, Lock::Write, start);
        Ok(format!("{} {} {}", other(15)?, other(0)?, other(25)?))
    }),
    ("a record lock to read is shared", |dir| {
        let file = file(dir)?;
        record_lock(&file, Lock::Read, Range { start: 0, length: 0 })?;
        Ok(format!("{} {}", try_lock(dir, Lock::Read, 5)?, try_lock(dir, Lock::Write, 5)?))
    }),
    ("a record lock goes with any descriptor of the file", |dir| {
        let file = file(dir)?;
        record_lock(&file, Lock::Write, Range { start: 0, length: 0 })?;
        drop(File::open(dir.join("file"))?);
        try_lock(dir, Lock::Write, 5)
    }),
    ("a lock of an open file stays when another descriptor closes", |dir| {
        let file = file(dir)?;
        record_lock(&file, Lock::OfOpenFile, Range { start: 0, length: 0 })?;
        drop(File::open(dir.join("file"))?);
        try_lock(dir, Lock::Write, 5)
    }),
    ("a process that ends leaves no lock", |dir| {
        let file = file(dir)?;
        as_user(0, 0, || {
            let own = File::options().write(true).open(dir.join("file"))?;
            record_lock(&own, Lock::Write, Range { start: 0, length: 0 })
        })?;
        Ok(super::outcome(record_lock(&file, Lock::Write, Range { start: 0, length: 0 })))
    }),
];

fn file(dir: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(true).open(dir.join("file"))
}

/// Another process tries to lock five bytes.
fn try_lock(dir: &Path, lock: Lock, start: i64) -> io::Result<String> {
    as_user(0, 0, || record_lock(&file_of(dir)?, lock, Range { start, length: 5 }))
}

fn file_of(dir: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(dir.join("file"))
}
