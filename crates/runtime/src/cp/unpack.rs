//! An archive out of a guest, which is not trusted: nothing is written but below a new directory.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};
use tempfile::TempDir;

use super::pack::{Hashing, hexadecimal};
use super::{TREE, in_tree};

/// What is kept of modes: a guest may not make programs that run as somebody else.
const MODES: u32 = 0o777;

/// How much an archive may have between the files' contents, in bytes: headers, long names and extensions, which the tar crate reads
/// into memory whole.
const HEADERS: u64 = 256 << 10;

/// Where it shall be, and where it is until it is whole.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    staging: TempDir,
}

/// The guest has sent nothing; it will have said why.
#[derive(Debug, thiserror::Error)]
#[error("Nothing came")]
pub(super) struct Nothing;

/// A copy that is whole.
#[derive(Debug)]
pub(super) struct Unpacked {
    target: Target,
    hash: String,
}

impl Target {
    /// For what is named `name`, at `to` or in it.
    pub(super) fn prepare(to: &Path, name: &str) -> anyhow::Result<Self> {
        let shown = to.display();
        let path = if to.is_dir() { to.join(name) } else { to.to_owned() };
        if path.is_dir() {
            bail!("There is a directory {} already; remove it first, or name another", path.display());
        }
        if to.as_os_str().as_encoded_bytes().ends_with(b"/") && !to.is_dir() {
            bail!("There is no directory {shown}; make it first");
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let staging = tempfile::Builder::new().prefix(".kata-cp-").tempdir_in(parent);
        let staging = staging.with_context(|| format!("Cannot write to {}", parent.display()))?;
        Ok(Self { path, staging })
    }

    /// Takes all that `from` has.
    pub(super) fn unpack(self, from: impl Read) -> anyhow::Result<Unpacked> {
        let mut hash = Sha256::new();
        let left = Rc::new(Cell::new(HEADERS));
        let hashing = Hashing { reader: from, hash: &mut hash, length: 0 };
        let mut archive = Archive::new(Limited { reader: hashing, left: Rc::clone(&left) });
        let mut tree = Tree { root: self.staging.path(), folders: HashSet::new(), modes: Vec::new() };
        for entry in archive.entries()? {
            left.set(u64::MAX);
            tree.add(&mut entry?)?;
            left.set(HEADERS);
        }
        left.set(u64::MAX);
        tree.finish()?;
        // What comes behind the end is hashed, too.
        io::copy(&mut archive.into_inner(), &mut io::sink())?;
        Ok(Unpacked { target: self, hash: hexadecimal(&hash.finalize()) })
    }
}

/// What is read as long as some is `left`.
struct Limited<R> {
    reader: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("An entry of the archive has more than a name"))?);
        Ok(count)
    }
}

impl Unpacked {
    /// Of the whole archive.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// Gives it its name.
    pub(super) fn commit(self) -> anyhow::Result<()> {
        let Target { path, staging } = self.target;
        let tree = staging.path().join(TREE);
        fs::rename(tree, &path).with_context(|| format!("Cannot write {}", path.display()))
    }
}

/// What is unpacked so far.
struct Tree<'a> {
    root: &'a Path,
    /// Those that were made here, and so are no links.
    folders: HashSet<PathBuf>,
    /// Of directories, to be set when all is in them.
    modes: Vec<(PathBuf, u32)>,
}

impl Tree<'_> {
    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> anyhow::Result<()> {
        let name = entry.path()?.into_owned();
        let below = below(&name)?;
        let place = self.place(&below)?;
        let mode = entry.header().mode()? & MODES;
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place)?;
                let length = io::copy(entry, &mut file)?;
                if length != entry.size() {
                    bail!("{} did not come whole", name.display());
                }
                file.set_permissions(Permissions::from_mode(mode))?;
            }
            EntryType::Directory => {
                DirBuilder::new().mode(0o700).create(&place)?;
                self.folders.insert(below);
                self.modes.push((place, mode));
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.context("A link leads nowhere")?;
                symlink(target, place)?;
            }
            EntryType::Link => {
                let first = entry.link_name()?.context("A link leads nowhere")?.into_owned();
                let first = self.place(&self::below(&first)?)?;
                // A link to a link would be followed.
                if !fs::symlink_metadata(&first)?.is_file() {
                    bail!("{} is a link to what is no file", name.display());
                }
                fs::hard_link(first, place)?;
            }
            _ => bail!("{} is no file, directory or link, and is not copied", name.display()),
        }
        Ok(())
    }

    /// Where a path of the archive is; the directory that it is in was made here.
    fn place(&self, below: &Path) -> anyhow::Result<PathBuf> {
        if let Some(parent) = below.parent()
            && !self.folders.contains(parent)
        {
            bail!("{} is in no directory of the archive", below.display());
        }
        Ok(self.root.join(in_tree(below)))
    }

    fn finish(self) -> anyhow::Result<()> {
        if !self.root.join(TREE).symlink_metadata().is_ok_and(|tree| !tree.is_symlink()) {
            return Err(Nothing.into());
        }
        for (place, mode) in self.modes.into_iter().rev() {
            File::open(place)?.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}

/// A path of the archive without its first name, which is that of the tree; empty for the tree itself.
fn below(name: &Path) -> anyhow::Result<PathBuf> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            _ => bail!("{} leads out of the archive", name.display()),
        }
    }
    if parts.is_empty() {
        bail!("An entry of the archive has no name");
    }
    Ok(parts[1..].iter().collect())
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use tar::{EntryType, Header};

    use super::{HEADERS, Target};

    /// One name of a guest's filled the host's memory.
    #[test]
    fn a_name_without_end_is_not_read() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let dir = tempfile::tempdir().unwrap();
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 30);
            header.set_cksum();
            let name = io::repeat(b'x').take(2 * HEADERS);
            let target = Target::prepare(&dir.path().join("copy"), "copy").unwrap();
            let error = target.unpack(header.as_bytes().chain(name)).unwrap_err();
            assert!(error.to_string().contains("more than a name"), "{error:#}");
        }
    }
}
