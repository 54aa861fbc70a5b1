//! Contents: written, cut, mapped, with holes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{
    Advice, CWD, FallocateFlags, Mode, OFlags, copy_file_range, fadvise, fallocate, openat, seek, statfs,
};

use super::{Checks, outcome};
use crate::sys::Mapping;

const MIB: u64 = 1 << 20;

pub(super) const CHECKS: Checks = &[
    ("truncate makes a file longer with zeros", |dir| {
        let mut file = filled(dir, b"abc")?;
        file.set_len(6)?;
        file.rewind()?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(format!("{content:?}"))
    }),
    ("truncate of a folder", |dir| {
        Ok(outcome(rustix::fs::open(dir, OFlags::WRONLY | OFlags::TRUNC, Mode::empty()).map(drop)))
    }),
    ("O_APPEND writes at the end whatever the position", |dir| {
        filled(dir, b"abc")?;
        let mut file = File::options().append(true).read(true).open(dir.join("file"))?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(b"def")?;
        fs::read_to_string(dir.join("file"))
    }),
    ("a hole takes no room", |dir| {
        let file = filled(dir, b"")?;
        file.write_all_at(b"x", 64 * MIB)?;
        file.sync_all()?;
        let found = file.metadata()?;
        Ok(format!("{} {}", found.len(), found.blocks() < 2048))
    }),
    ("SEEK_HOLE and SEEK_DATA", |dir| {
        let file = filled(dir, b"x")?;
        file.write_all_at(b"x", MIB)?;
        file.sync_all()?;
        let data = seek(&file, rustix::fs::SeekFrom::Data(4096 * 16))?;
        let hole = seek(&file, rustix::fs::SeekFrom::Hole(0))?;
        let none = seek(&file, rustix::fs::SeekFrom::Data(2 * MIB)).map(drop);
        Ok(format!("{data} {} {}", hole < MIB, outcome(none)))
    }),
    ("fallocate", |dir| allocated(dir, FallocateFlags::empty())),
    ("fallocate beyond the end without growing", |dir| allocated(dir, FallocateFlags::KEEP_SIZE)),
    ("fallocate that punches a hole", |dir| {
        allocated(dir, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
    }),
    ("fallocate with zeros", |dir| allocated(dir, FallocateFlags::ZERO_RANGE)),
    ("copy_file_range", |dir| {
        let from = filled(dir, &[7; 10_000])?;
        let to = File::create(dir.join("to"))?;
        let copied = copy_file_range(&from, Some(&mut 1000), &to, Some(&mut 5), 5000)?;
        Ok(format!("{copied} {} {}", to.metadata()?.len(), fs::read(dir.join("to"))?[5004]))
    }),
    ("what is written is seen by a shared mapping", |dir| {
        let file = filled(dir, &[0; 8192])?;
        let map = Mapping::shared(&file, 8192)?;
        file.write_all_at(b"new", 5000)?;
        Ok(map.byte(5000).to_string())
    }),
    ("what a shared mapping writes is read", |dir| {
        let file = filled(dir, &[0; 8192])?;
        Mapping::shared(&file, 8192)?.set(5000, 9);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5000)?;
        Ok(byte[0].to_string())
    }),
    ("what a shared mapping writes is read through another descriptor", |dir| {
        let file = filled(dir, &[0; 8192])?;
        Mapping::shared(&file, 8192)?.set(5000, 9);
        Ok(fs::read(dir.join("file"))?[5000].to_string())
    }),
    ("two shared mappings of two descriptors are one", |dir| {
        let file = filled(dir, &[0; 8192])?;
        let other = File::options().read(true).write(true).open(dir.join("file"))?;
        let (first, second) = (Mapping::shared(&file, 8192)?, Mapping::shared(&other, 8192)?);
        first.set(100, 5);
        Ok(second.byte(100).to_string())
    }),
    ("a mapping outlives descriptor and name", |dir| {
        let file = filled(dir, &[3; 4096])?;
        let map = Mapping::shared(&file, 4096)?;
        drop(file);
        fs::remove_file(dir.join("file"))?;
        map.set(0, 4);
        Ok(format!("{} {}", map.byte(0), map.byte(1)))
    }),
    ("msync and fsync", |dir| {
        let file = filled(dir, &[0; 4096])?;
        let map = Mapping::shared(&file, 4096)?;
        map.set(1, 1);
        Ok(format!("{} {}", outcome(map.sync()), outcome(file.sync_all())))
    }),
    ("fsync of a folder", |dir| Ok(outcome(File::open(dir)?.sync_all()))),
    ("O_DIRECT", |dir| {
        filled(dir, &[1; 4096])?;
        let opened = openat(CWD, dir.join("file"), OFlags::RDWR | OFlags::DIRECT, Mode::empty());
        Ok(outcome(opened.map(drop)))
    }),
    ("O_SYNC and O_DSYNC", |dir| {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::SYNC | OFlags::DSYNC;
        let mut file = File::from(openat(CWD, dir.join("file"), flags, Mode::RUSR)?);
        Ok(outcome(file.write_all(b"x")))
    }),
    ("posix_fadvise", |dir| Ok(outcome(fadvise(filled(dir, b"x")?, 0, None, Advice::DontNeed)))),
    ("a file beyond the largest size", |dir| Ok(outcome(filled(dir, b"")?.set_len(1 << 62)))),
    ("a program that is being written is not run", |dir| {
        fs::copy("/proc/self/exe", dir.join("program"))?;
        let _open = File::options().write(true).open(dir.join("program"))?;
        Ok(outcome(std::process::Command::new(dir.join("program")).arg("none").status().map(drop)))
    }),
    ("a program that is run is not written", |_| {
        Ok(outcome(File::options().write(true).open("/proc/self/exe").map(drop)))
    }),
    ("space is told", |dir| {
        let found = statfs(dir)?;
        Ok(format!("{} {} {}", found.f_blocks > 0, found.f_files > 0, found.f_namelen))
    }),
];

fn filled(dir: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = File::options().read(true).write(true).create_new(true).open(dir.join("file"))?;
    file.write_all(content)?;
    Ok(file)
}

fn allocated(dir: &Path, flags: FallocateFlags) -> io::Result<String> {
    let file = filled(dir, &[7; 16_384])?;
    let done = outcome(fallocate(&file, flags, 8192, 65_536));
    let mut byte = [0];
    file.read_exact_at(&mut byte, 8192)?;
    Ok(format!("{done} {} {}", file.metadata()?.len(), byte[0]))
}
