//! A file or a directory of this host as an archive, with the hash of all its files.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::in_tree;

/// What is copied.
#[derive(Debug)]
pub(super) struct Source(PathBuf);

/// The archive, as far as it is written.
struct Archive<W: Write> {
    tar: Builder<W>,
    hash: Sha256,
    /// The files' names in the order of their bytes in the hash, each ended by a zero byte.
    list: Vec<u8>,
}

impl Source {
    /// It is there, and can be copied.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let kind = fs::metadata(path).with_context(|| format!("Cannot copy {}", path.display()))?.file_type();
        if !kind.is_file() && !kind.is_dir() {
            bail!("{} is neither a file nor a directory", path.display());
        }
        Ok(Self(path.to_owned()))
    }

    /// Its name, for a directory that takes it.
    pub(super) fn name(&self) -> anyhow::Result<String> {
        let path = self.0.canonicalize().with_context(|| format!("Cannot copy {}", self.0.display()))?;
        let name = self.0.file_name().or(path.file_name()).and_then(|name| name.to_str());
        Ok(name
            .with_context(|| format!("{} has no name that a guest can have", self.0.display()))?
            .to_owned())
    }

    /// Writes the archive: the tree, then its list and its hash.
    pub(super) fn pack(self, to: impl Write) -> anyhow::Result<()> {
        let mut archive = Archive { tar: Builder::new(to), hash: Sha256::new(), list: Vec::new() };
        archive.add(&self.0, Path::new(""), &fs::metadata(&self.0)?)?;
        let Archive { mut tar, hash, list } = archive;
        let hash = hexadecimal(&hash.finalize());
        for (name, bytes) in [("list", list.as_slice()), ("sum", hash.as_bytes())] {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            tar.append_data(&mut header, name, bytes)?;
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }
}

impl<W: Write> Archive<W> {
    /// Adds what is at `path`, and all below it.
    fn add(&mut self, path: &Path, below: &Path, metadata: &Metadata) -> anyhow::Result<()> {
        let named = || path.display().to_string();
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        let kind = metadata.file_type();
        if kind.is_file() {
            self.file(path, below, header).with_context(named)
        } else if kind.is_symlink() {
            header.set_size(0);
            let target = fs::read_link(path).with_context(named)?;
            Ok(self.tar.append_link(&mut header, in_tree(below), target)?)
        } else if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            self.tar.append_data(&mut header, in_tree(below), io::empty())?;
            let entries =
                fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>).with_context(named)?;
            entries.into_iter().try_for_each(|entry| {
                self.add(
                    &entry.path(),
                    &below.join(entry.file_name()),
                    &entry.metadata().with_context(named)?,
                )
            })
        } else {
            bail!(
                "{} is no file, directory or symbolic link; remove it, or copy what is beside it",
                path.display()
            )
        }
    }

    fn file(&mut self, path: &Path, below: &Path, mut header: Header) -> anyhow::Result<()> {
        let file = File::open(path)?;
        // It may be another one, or longer, by now.
        let size = file.metadata()?.len();
        header.set_size(size);
        let mut reader = Hashing { reader: file.take(size), hash: &mut self.hash, length: 0 };
        self.tar.append_data(&mut header, in_tree(below), &mut reader)?;
        if reader.length != size {
            bail!("The file became shorter while it was read");
        }
        self.list.extend(in_tree(below).as_os_str().as_bytes());
        self.list.push(0);
        Ok(())
    }
}

/// Hashes what is read.
pub(super) struct Hashing<'a, R> {
    pub(super) reader: R,
    pub(super) hash: &'a mut Sha256,
    pub(super) length: u64,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

/// As `sha256sum` prints it.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
