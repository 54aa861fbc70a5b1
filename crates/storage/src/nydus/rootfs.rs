//! What nydus-snapshotter says of a root file system: a mount of a type of its own, with an option for who understands it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use kata_protocol::guest;
use serde::Deserialize;

use crate::block::{GuestMount, What, is_for_containerd};
use crate::rootfs::RootfsMount;

#[cfg(test)]
mod tests;

/// The mount's type: to `mount`, an overlay that the helper `nydus-overlayfs` makes.
const TYPE: &str = "fuse.nydus-overlayfs";
/// What the helper leaves out, and a VM's runtime takes.
const EXTRA: &str = "extraoption=";
/// The most that may be in it, in bytes. containerd's messages are not longer than 4 MiB.
const MOST: usize = 1 << 20;
/// The directory of an overlay's root below the container's in the guest.
const ROOT: &str = "rootfs";
/// The snapshot's directory in the share, below the container's.
pub(crate) const SNAPSHOT: &str = "snapshotdir";
/// What is above the image, below the snapshot's directory, and what the overlay works with.
const UPPER: &str = "fs";
const WORK: &str = "work";

/// A mount of nydus-snapshotter is not understood.
#[derive(Debug, thiserror::Error)]
pub enum NydusRootfsError {
    /// There are others.
    #[error(
        "The root file system has {count} mounts, one of type {TYPE}: that must be the only one, and on the root; use a \
         nydus-snapshotter that returns one"
    )]
    Others {
        /// How many.
        count: usize,
    },
    /// An option that may be there once.
    #[error(
        "The root file system's {TYPE} mount has the option `{name}` twice: nydus-snapshotter must give one"
    )]
    Twice {
        /// Its name.
        name: &'static str,
    },
    /// Longer than anything that makes sense.
    #[error(
        "The option `extraoption` of the root file system has {length} bytes, and {MOST} are taken at most"
    )]
    Long {
        /// Its length.
        length: usize,
    },
    /// No Base64.
    #[error("The option `extraoption` of the root file system is not Base64: is this nydus-snapshotter's?")]
    Encoding(#[source] data_encoding::DecodeError),
    /// Not what the snapshotter writes.
    #[error(
        "The option `extraoption` of the root file system is not JSON with the texts `source`, `config` and \
         `snapshotdir`: is this nydus-snapshotter's?"
    )]
    Json(#[source] serde_json::Error),
    /// The image's configuration is no JSON.
    #[error(
        "`config` in the option `extraoption` of the root file system is no JSON object: nydusd would not take it"
    )]
    Config(#[source] serde_json::Error),
    /// A path that cannot be one.
    #[error(
        "`{name}` in the option `extraoption` of the root file system is {path:?}, no absolute path without `..`"
    )]
    Path {
        /// Its name.
        name: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Not there.
    #[error("The root file system's {what} {path:?} is not there: does nydus-snapshotter run, on this host?")]
    Missing {
        /// What it should be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What would be written would go elsewhere.
    #[error(
        "The root file system's `{name}` is {path:?}, which is not `{below}` in its snapshot {snapshot:?}"
    )]
    Elsewhere {
        /// The option.
        name: &'static str,
        /// Where it leads.
        path: PathBuf,
        /// Where it should be.
        below: &'static str,
        /// The snapshot.
        snapshot: PathBuf,
    },
    /// Nothing to mount.
    #[error(
        "The root file system's {TYPE} mount names no `lowerdir`, so its image is only to be had through nydusd: set \
         `shared_fs = \"virtio-fs-nydus\"`"
    )]
    NoLayers,
}

/// A root file system whose image nydusd has.
#[derive(Clone, PartialEq, Eq)]
pub struct NydusRootfs {
    /// The image's metadata, a file.
    pub source: String,
    /// What nydusd is told of the image: JSON, perhaps with secrets in it.
    pub config: String,
    /// The snapshot's directory, with `fs` and `work` in it.
    pub snapshot: PathBuf,
    /// For the guest's overlay, beside its directories.
    options: Vec<String>,
}

/// Secrets are not shown.
impl fmt::Debug for NydusRootfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("NydusRootfs");
        shown.field("source", &self.source).field("snapshot", &self.snapshot);
        shown.field("options", &self.options).finish_non_exhaustive()
    }
}

/// As nydus-snapshotter writes it. What else it writes, such as the version of the image's format, nydusd sees by itself.
#[derive(Deserialize)]
struct Extra {
    source: String,
    config: String,
    snapshotdir: String,
}

impl NydusRootfs {
    /// What `mounts` says of an image that nydusd has to mount; `None` if it has none.
    ///
    /// # Errors
    /// It has, but is not understood.
    pub fn of(mounts: &[RootfsMount]) -> Result<Option<Self>, NydusRootfsError> {
        let Some(mount) = mounts.iter().find(|mount| is_nydus(mount)) else { return Ok(None) };
        let Some(extra) = the_one(mount, EXTRA, "extraoption")? else { return Ok(None) };
        if mounts.len() > 1 || !crate::rootfs::is_root(&mount.target) {
            return Err(NydusRootfsError::Others { count: mounts.len() });
        }
        let Extra { source, config, snapshotdir } = decode(extra)?;
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&config)
            .map_err(NydusRootfsError::Config)?;
        absolute("source", &source)?;
        let snapshot = absolute("snapshotdir", &snapshotdir)?;
        for (option, name, below) in [("upperdir=", "upperdir", UPPER), ("workdir=", "workdir", WORK)] {
            if let Some(path) = the_one(mount, option, name)?.map(Path::new)
                && path != snapshot.join(below)
            {
                let path = path.to_owned();
                return Err(NydusRootfsError::Elsewhere { name, path, below, snapshot });
            }
        }
        let told = |option: &&String| !is_layer(option) && !option.is_empty() && !is_for_containerd(option);
        let options = mount.options.iter().filter(told).cloned().collect();
        Ok(Some(Self { source, config, snapshot, options }))
    }

    /// Looks whether everything is there that it names. It blocks.
    ///
    /// # Errors
    /// Something is not, or is something else.
    pub fn check(&self) -> Result<(), NydusRootfsError> {
        let source = Path::new(&self.source);
        let found = fs::metadata(source).and_then(|found| match found.is_file() {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
        });
        missing("metadata (bootstrap)", source, found)?;
        for below in [UPPER, WORK] {
            // A link would lead somewhere in the guest.
            let path = self.snapshot.join(below);
            let found = fs::symlink_metadata(&path).and_then(|found| match found.is_dir() {
                true => Ok(()),
                false => Err(io::ErrorKind::NotADirectory.into()),
            });
            missing("snapshot's directory", &path, found)?;
        }
        Ok(())
    }

    /// Where nydusd mounts the image of a container, in its tree.
    #[must_use]
    pub fn mountpoint(container: &str) -> String {
        format!("/{}/{container}/lowerdir", guest::RAFS)
    }

    /// What the guest mounts for it on the container's root; it has the container's part of the share at `shared`.
    pub(crate) fn guest_mount(&self, shared: &Path) -> GuestMount {
        let snapshot = shared.join(SNAPSHOT);
        let container = shared.file_name().unwrap_or_default().to_string_lossy();
        let image = format!("{}{}", guest::SHARE_ROOT, Self::mountpoint(&container));
        let mut options = self.options.clone();
        options.extend([
            format!("lowerdir={image}"),
            format!("upperdir={}", snapshot.join(UPPER).display()),
            format!("workdir={}", snapshot.join(WORK).display()),
        ]);
        let target = Path::new(guest::CONTAINERS_DIR).join(&*container).join(ROOT);
        GuestMount { what: What::Overlay { folders: Vec::new() }, options, target }
    }
}

/// Whether it is such a mount. The helper may be named by a path, and have a name that goes on (`nydus_overlayfs_path`).
pub(crate) fn is_nydus(mount: &RootfsMount) -> bool {
    let helper = mount.fs_type.strip_prefix("fuse.").and_then(|helper| helper.rsplit('/').next());
    helper.is_some_and(|helper| helper.starts_with("nydus-overlayfs"))
}

/// What the mount helper `nydus-overlayfs` makes of a mount: the plain overlay of directories of the host.
pub(crate) fn as_overlay(mount: &RootfsMount) -> Result<RootfsMount, NydusRootfsError> {
    if !mount.options.iter().any(|option| option.starts_with("lowerdir=")) {
        return Err(NydusRootfsError::NoLayers);
    }
    let told = mount.options.iter().filter(|option| !option.starts_with(EXTRA));
    Ok(RootfsMount {
        fs_type: "overlay".to_owned(),
        options: told.cloned().collect(),
        source: mount.source.clone(),
        target: mount.target.clone(),
    })
}

fn decode(text: &str) -> Result<Extra, NydusRootfsError> {
    if text.len() > MOST {
        return Err(NydusRootfsError::Long { length: text.len() });
    }
    let json = BASE64.decode(text.as_bytes()).map_err(NydusRootfsError::Encoding)?;
    serde_json::from_slice(&json).map_err(NydusRootfsError::Json)
}

/// The value of an option that may be there once.
fn the_one<'a>(
    mount: &'a RootfsMount,
    prefix: &str,
    name: &'static str,
) -> Result<Option<&'a str>, NydusRootfsError> {
    let mut values = mount.options.iter().filter_map(|option| option.strip_prefix(prefix));
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(NydusRootfsError::Twice { name }),
    }
}

fn absolute(name: &'static str, text: &str) -> Result<PathBuf, NydusRootfsError> {
    let path = PathBuf::from(text);
    let plain = path.is_absolute()
        && !text.contains('\0')
        && path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if plain { Ok(path) } else { Err(NydusRootfsError::Path { name, path }) }
}

fn is_layer(option: &str) -> bool {
    [EXTRA, "lowerdir=", "upperdir=", "workdir="].iter().any(|name| option.starts_with(name))
}

fn missing(what: &'static str, path: &Path, found: io::Result<()>) -> Result<(), NydusRootfsError> {
    found.map_err(|source| NydusRootfsError::Missing { what, path: path.to_owned(), source })
}
