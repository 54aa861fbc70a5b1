//! An install prefix: which file goes where, and a manifest of what was put so that exactly that can be removed.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[cfg(test)]
mod tests;

const MANIFEST: &str = "share/kata-containers/install-manifest.json";
const CONFIGURATION: &str = "share/defaults/kata-containers/configuration.toml";

/// Paths under a prefix.
pub(crate) struct Prefix {
    root: PathBuf,
}

/// Where a file's bytes come from.
pub(crate) enum Content {
    /// A copy of this file.
    Copy(PathBuf),
    /// These bytes.
    Text(String),
    /// A link to this name in the same directory.
    Link(&'static str),
}

impl Content {
    fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            Self::Copy(from) => fs::read(from).with_context(|| format!("Cannot read {}", from.display())),
            Self::Text(text) => Ok(text.clone().into_bytes()),
            // Of a link its target is compared and remembered.
            Self::Link(target) => Ok(target.as_bytes().to_owned()),
        }
    }
}

/// One file to put: path under the prefix, mode, content.
pub(crate) struct Item {
    /// Relative to the prefix.
    pub(crate) path: &'static str,
    /// Permissions.
    pub(crate) mode: u32,
    /// Bytes.
    pub(crate) content: Content,
}

/// What an installation put, written beside it.
#[derive(Default, Deserialize, Serialize)]
struct Manifest {
    /// Relative path → SHA-256.
    files: BTreeMap<String, String>,
    /// Relative paths of directories that were not there before, outermost first.
    directories: Vec<String>,
}

/// What became of the files.
#[derive(Default)]
pub(crate) struct Report {
    /// Put, changed or removed.
    pub(crate) done: Vec<PathBuf>,
    /// Left as they are, because somebody changed them.
    pub(crate) kept: Vec<PathBuf>,
}

impl Prefix {
    /// The prefix at this path; made absolute.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// The prefix itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of our programs.
    pub(crate) fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The guest kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.root.join("share/kata-containers/vmlinux.container")
    }

    /// The guest image.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.root.join("share/kata-containers/kata-containers-initrd.img")
    }

    /// `configuration.toml`, which points to everything else.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.root.join(CONFIGURATION)
    }

    /// Puts `items`. A configuration that was changed since we put it stays; a file that we did not put is an error.
    pub(crate) fn put(&self, items: &[Item]) -> Result<Report> {
        let mut manifest = self.manifest()?;
        self.refuse_foreign(items, &manifest)?;
        let mut report = Report::default();
        for item in items {
            let path = self.root.join(item.path);
            let (new, old) = (item.content.bytes()?, read(&path)?);
            let put = manifest.files.get(item.path);
            if old.as_ref() == Some(&new) {
                manifest.files.entry(item.path.to_owned()).or_insert_with(|| digest(&new));
                continue;
            }
            if item.path == CONFIGURATION && old.is_some_and(|old| Some(&digest(&old)) != put) {
                report.kept.push(path);
                continue;
            }
            self.make_parents(item.path, &mut manifest)?;
            manifest.files.insert(item.path.to_owned(), digest(&new));
            // Known before it is there: what an interruption leaves behind can be removed.
            self.write_manifest(&mut manifest)?;
            match item.content {
                Content::Link(target) => link(&path, target)?,
                Content::Copy(_) | Content::Text(_) => replace(&path, &new, item.mode)?,
            }
            report.done.push(path);
        }
        self.write_manifest(&mut manifest)?;
        Ok(report)
    }

    /// Removes what [`Prefix::put`] put, except what was changed since, and the directories it made if empty.
    pub(crate) fn remove(&self) -> Result<Report> {
        let manifest_path = self.root.join(MANIFEST);
        if !manifest_path.exists() {
            bail!("Nothing to remove: there is no {}", manifest_path.display());
        }
        let manifest = self.manifest()?;
        let mut report = Report::default();
        for (path, put) in &manifest.files {
            let path = self.root.join(path);
            match read(&path)? {
                None => {}
                Some(now) if digest(&now) == *put => {
                    fs::remove_file(&path).with_context(|| format!("Cannot remove {}", path.display()))?;
                    report.done.push(path);
                }
                Some(_) => report.kept.push(path),
            }
        }
        fs::remove_file(&manifest_path)?;
        for directory in manifest.directories.iter().rev() {
            match fs::remove_dir(self.root.join(directory)) {
                Err(e) if !matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
                    return Err(e)
                        .with_context(|| format!("Cannot remove {directory} in {}", self.root.display()));
                }
                _ => {}
            }
        }
        Ok(report)
    }

    /// Somebody else's runtime in the same place is not ours to overwrite. (A configuration is kept, not refused.)
    fn refuse_foreign(&self, items: &[Item], manifest: &Manifest) -> Result<()> {
        let foreign = items.iter().filter(|item| !manifest.files.contains_key(item.path));
        let foreign = foreign.filter(|item| item.path != CONFIGURATION);
        let foreign: Vec<_> =
            foreign.map(|item| self.root.join(item.path)).filter(|path| path.exists()).collect();
        let Some(first) = foreign.first() else { return Ok(()) };
        bail!(
            "{} is there and was not put by this command: remove it or choose another --prefix",
            first.display()
        );
    }

    fn make_parents(&self, path: &str, manifest: &mut Manifest) -> Result<()> {
        let parent = Path::new(path).parent().expect("every item lies in a directory of the prefix");
        let mut chain: Vec<&Path> = parent.ancestors().collect();
        chain.reverse();
        for directory in chain {
            let full = self.root.join(directory);
            if !full.is_dir() {
                fs::create_dir_all(&full).with_context(|| format!("Cannot make {}", full.display()))?;
                manifest.directories.push(directory.to_string_lossy().into_owned());
            }
        }
        Ok(())
    }

    fn manifest(&self) -> Result<Manifest> {
        let path = self.root.join(MANIFEST);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Manifest::default()),
            Err(e) => Err(e).with_context(|| format!("Cannot read {}", path.display())),
        }
    }

    fn write_manifest(&self, manifest: &mut Manifest) -> Result<()> {
        self.make_parents(MANIFEST, manifest)?;
        replace(&self.root.join(MANIFEST), &serde_json::to_vec_pretty(manifest)?, 0o644)
    }
}

/// A running program's file cannot be written, but its name can be given to another.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let directory = path.parent().context("A file needs a directory")?;
    let write = || -> io::Result<()> {
        let file = tempfile::NamedTempFile::new_in(directory)?;
        fs::write(file.path(), bytes)?;
        fs::set_permissions(file.path(), Permissions::from_mode(mode))?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("Cannot write {}", path.display()))
}

fn link(path: &Path, target: &str) -> Result<()> {
    let name = path.file_name().context("A link needs a name")?.to_string_lossy().into_owned();
    let new = path.with_file_name(format!(".{name}.new"));
    let made = symlink(target, &new).and_then(|()| fs::rename(&new, path));
    made.with_context(|| format!("Cannot make the link {}", path.display()))
}

/// What a file holds, or where a link leads.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    if let Ok(target) = fs::read_link(path) {
        return Ok(Some(target.into_os_string().into_encoded_bytes()));
    }
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("Cannot read {}", path.display())),
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
