//! Folders with many entries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Checks, outcome};
use crate::sys::Folder;

/// So many that a folder is read in several pieces.
const MANY: usize = 10_000;

pub(super) const CHECKS: Checks = &[
    ("each of many entries is listed once", |dir| {
        make(dir, MANY)?;
        let mut seen = BTreeSet::new();
        let mut listed = 0;
        for entry in fs::read_dir(dir)? {
            seen.insert(entry?.file_name());
            listed += 1;
        }
        Ok(format!("{listed} {}", seen.len()))
    }),
    ("a folder is read on from where it was left", |dir| {
        make(dir, 1000)?;
        let mut folder = Folder::open(dir)?;
        let first: Vec<_> = (0..300).map_while(|_| folder.next_name()).collect();
        let place = folder.tell();
        let rest = folder.rest();
        folder.seek(place);
        let again = folder.rest();
        folder.rewind();
        let all = folder.rest();
        Ok(format!("{} {} {}", first.len() + rest.len() == all.len(), rest == again, all.len()))
    }),
    ("names that are removed while a folder is read", |dir| {
        make(dir, 1000)?;
        let mut removed = 0;
        for entry in fs::read_dir(dir)? {
            removed += usize::from(fs::remove_file(entry?.path()).is_ok());
        }
        Ok(format!("{removed} {}", fs::read_dir(dir)?.count()))
    }),
    ("types are told with the names", |dir| {
        fs::create_dir(dir.join("folder"))?;
        File::create(dir.join("file"))?;
        std::os::unix::fs::symlink("file", dir.join("link"))?;
        let mut told: Vec<_> = fs::read_dir(dir)?
            .flatten()
            .map(|entry| {
                format!("{:?} {:?}", entry.file_name(), entry.file_type().map(|kind| kind.is_file()))
            })
            .collect();
        told.sort_unstable();
        Ok(told.join(", "))
    }),
    ("inodes in a listing are those of the files", |dir| {
        make(dir, 100)?;
        let same = |entry: fs::DirEntry| {
            let listed = std::os::unix::fs::DirEntryExt::ino(&entry);
            entry.metadata().is_ok_and(|found| found.ino() == listed)
        };
        Ok(fs::read_dir(dir)?.flatten().all(same).to_string())
    }),
    ("a folder that was removed while it was open", |dir| {
        let path = dir.join("sub");
        fs::create_dir(&path)?;
        let open = File::open(&path)?;
        fs::remove_dir(&path)?;
        let below = rustix::fs::openat(&open, "a", rustix::fs::OFlags::CREATE, rustix::fs::Mode::RUSR);
        Ok(format!("{} {}", open.metadata()?.nlink(), outcome(below.map(drop))))
    }),
    ("a path of many folders", |dir| {
        let mut path = dir.to_owned();
        for _ in 0..200 {
            path.push("deeper");
        }
        fs::create_dir_all(&path)?;
        Ok(outcome(fs::write(path.join("file"), "")))
    }),
];

fn make(dir: &Path, many: usize) -> io::Result<()> {
    (0..many).try_for_each(|number| File::create(dir.join(format!("entry-{number:05}"))).map(drop))
}
