//! Root file systems that a snapshotter describes instead of mounting them (`KataVirtualVolume`): JSON in base64, in the
//! option `io.katacontainers.volume` of a root mount.
//!
//! | `volume_type` | what it becomes |
//! |---|---|
//! | `direct_block` | a disk, mounted on the root |
//! | `image_raw_block`, `layer_raw_block` | a read-only disk, and memory of the guest for what is written |
//! | `image_guest_pull` | the guest pulls the image itself |
//! | `image_nydus_block`, `layer_nydus_block`, `image_nydus_fs`, `layer_nydus_fs` | refused |

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::Deserialize;

use crate::rootfs::RootfsMount;

#[cfg(test)]
mod tests;

/// The option's name.
pub const OPTION: &str = "io.katacontainers.volume";

/// No description is longer: the annotations of an image may be among its metadata.
const LONGEST: usize = 256 * 1024;

/// What snapshotters write where a source says nothing.
const NO_SOURCE: [&str; 3] = ["", "overlay", "dummy-image-reference"];

/// A described root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VirtualVolume {
    /// A file system on a disk, as it is.
    DirectBlock(VolumeDisk),
    /// An image's files, or the only layer's, on a disk that is read.
    RawBlock(VolumeDisk),
    /// An image that the guest pulls.
    GuestPull(GuestPull),
}

/// A disk that a description names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDisk {
    /// A block device, or a file with a disk's contents.
    pub source: PathBuf,
    /// `ext4`, `erofs`, …
    pub fs_type: String,
    /// Options as for `mount -o`, one each.
    pub options: Vec<String>,
}

/// What a description says of an image that the guest pulls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestPull {
    /// The image's reference, if the description has it.
    pub reference: Option<String>,
    /// The snapshotter's labels.
    pub metadata: BTreeMap<String, String>,
}

/// Why a description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VirtualVolumeError {
    /// Something is wrong with the text.
    #[error(
        "The option `io.katacontainers.volume` of the root file system's {fs_type} mount is not understood: it must be \
         base64 of a KataVirtualVolume in JSON; report this to the snapshotter's makers"
    )]
    Malformed {
        /// The type of the mount that has it.
        fs_type: String,
        /// What is wrong.
        #[source]
        source: Malformed,
    },
    /// A part of it has no place in its type of volume, or has no meaning.
    #[error(
        "The volume of type {kind} in the root file system's {fs_type} mount has the {part} {value:?}: {advice}"
    )]
    Part {
        /// The volume's type.
        kind: Kind,
        /// The type of the mount that has it.
        fs_type: String,
        /// The part's name.
        part: &'static str,
        /// What it is.
        value: String,
        /// What it must be, or what to do.
        advice: &'static str,
    },
    /// A type that this runtime does not have.
    #[error(
        "Volumes of type {kind}, as in the root file system's {fs_type} mount, are not supported: \
         let the snapshotter pass a disk (`image_raw_block`), or let the guest pull the image (`image_guest_pull`)"
    )]
    Unsupported {
        /// The volume's type.
        kind: Kind,
        /// The type of the mount that has it.
        fs_type: String,
    },
    /// Its integrity could not be kept.
    #[error(
        "The volume of type {kind} in the root file system's {fs_type} mount is to be checked with dm-verity, which the \
         guest cannot do: switch dm-verity off in the snapshotter"
    )]
    Verity {
        /// The volume's type.
        kind: Kind,
        /// The type of the mount that has it.
        fs_type: String,
    },
    /// It is not alone.
    #[error(
        "The root file system's {fs_type} mount has a volume in `io.katacontainers.volume` and is one of several, or has \
         several: how they lie over each other is not said; let the snapshotter pass one for the whole image"
    )]
    Several {
        /// The type of the mount that has it.
        fs_type: String,
    },
    /// It is a volume's.
    #[error(
        "The mount on {destination:?} has the option `io.katacontainers.volume`, which only root file systems can have: \
         use a direct-assigned volume"
    )]
    NotRoot {
        /// Where the mount goes in the container.
        destination: PathBuf,
    },
}

/// What is wrong with a description's text.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Nobody writes that much.
    #[error("It has {0} bytes, more than {LONGEST}")]
    Long(usize),
    /// It is not base64.
    #[error("It is not base64")]
    Base64(#[from] data_encoding::DecodeError),
    /// It is not the JSON it should be.
    #[error("It is not the JSON it should be")]
    Json(#[from] serde_json::Error),
}

/// The type of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A disk as it is.
    DirectBlock,
    /// An image on a disk.
    ImageRawBlock,
    /// A layer on a disk.
    LayerRawBlock,
    /// An image in RAFS on a disk.
    ImageNydusBlock,
    /// A layer in RAFS on a disk.
    LayerNydusBlock,
    /// An image that nydusd serves.
    ImageNydusFs,
    /// A layer that nydusd serves.
    LayerNydusFs,
    /// An image that the guest pulls.
    ImageGuestPull,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DirectBlock => "direct_block",
            Self::ImageRawBlock => "image_raw_block",
            Self::LayerRawBlock => "layer_raw_block",
            Self::ImageNydusBlock => "image_nydus_block",
            Self::LayerNydusBlock => "layer_nydus_block",
            Self::ImageNydusFs => "image_nydus_fs",
            Self::LayerNydusFs => "layer_nydus_fs",
            Self::ImageGuestPull => "image_guest_pull",
        })
    }
}

/// The JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    volume_type: Kind,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    fs_type: Option<String>,
    #[serde(default)]
    options: Option<Vec<String>>,
    #[serde(default)]
    direct_volume: Option<Metadata>,
    #[serde(default)]
    image_pull: Option<Metadata>,
    #[serde(default)]
    nydus_image: Option<serde_json::Value>,
    #[serde(default)]
    dm_verity: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

type Result<T> = std::result::Result<T, VirtualVolumeError>;

impl VirtualVolume {
    /// The description among a root file system's mounts, if there is one.
    ///
    /// # Errors
    /// It is not alone, is not understood, or asks for what this runtime does not have.
    pub fn among(mounts: &[RootfsMount]) -> Result<Option<Self>> {
        let described = |mount: &&RootfsMount| mount.options.iter().any(|option| text_of(option).is_some());
        let Some(mount) = mounts.iter().find(described) else { return Ok(None) };
        let mut texts = mount.options.iter().filter_map(|option| text_of(option));
        match (texts.next(), texts.next(), mounts.len()) {
            (Some(text), None, 1) => Ok(Some(Self::parse(text, &mount.fs_type)?)),
            _ => Err(VirtualVolumeError::Several { fs_type: mount.fs_type.clone() }),
        }
    }

    /// Refuses descriptions in mounts that are no root file systems: destinations with options.
    ///
    /// # Errors
    /// There is one.
    pub fn refuse_elsewhere<'a>(mut mounts: impl Iterator<Item = (&'a Path, &'a [String])>) -> Result<()> {
        match mounts.find(|(_, options)| options.iter().any(|option| text_of(option).is_some())) {
            Some((destination, _)) => {
                Err(VirtualVolumeError::NotRoot { destination: destination.to_owned() })
            }
            None => Ok(()),
        }
    }

    fn parse(text: &str, fs_type: &str) -> Result<Self> {
        let malformed = |source| VirtualVolumeError::Malformed { fs_type: fs_type.to_owned(), source };
        let described = decode(text).map_err(malformed)?;
        Parsed { kind: described.volume_type, mount: fs_type }.meaning(described)
    }
}

/// The text in an option, if it has one.
fn text_of(option: &str) -> Option<&str> {
    option.strip_prefix(OPTION)?.strip_prefix('=')
}

fn decode(text: &str) -> std::result::Result<Described, Malformed> {
    if text.len() > LONGEST {
        return Err(Malformed::Long(text.len()));
    }
    Ok(serde_json::from_slice(&BASE64.decode(text.as_bytes())?)?)
}

/// What errors name.
struct Parsed<'a> {
    kind: Kind,
    mount: &'a str,
}

impl Parsed<'_> {
    fn meaning(&self, described: Described) -> Result<VirtualVolume> {
        let raw = match self.kind {
            Kind::DirectBlock => false,
            Kind::ImageRawBlock | Kind::LayerRawBlock => true,
            Kind::ImageGuestPull => return Ok(VirtualVolume::GuestPull(self.pull(described)?)),
            kind => {
                return Err(VirtualVolumeError::Unsupported { kind, fs_type: self.mount.to_owned() });
            }
        };
        let disk = self.disk(described)?;
        Ok(if raw { VirtualVolume::RawBlock(disk) } else { VirtualVolume::DirectBlock(disk) })
    }

    fn part(&self, part: &'static str, value: impl Into<String>, advice: &'static str) -> VirtualVolumeError {
        let (kind, fs_type, value) = (self.kind, self.mount.to_owned(), value.into());
        VirtualVolumeError::Part { kind, fs_type, part, value, advice }
    }

    fn has_no(&self, part: &'static str, is_there: bool) -> Result<()> {
        match is_there {
            true => Err(self.part("part", part, "it belongs to volumes of another type")),
            false => Ok(()),
        }
    }

    fn disk(&self, described: Described) -> Result<VolumeDisk> {
        if described.dm_verity.is_some() {
            return Err(VirtualVolumeError::Verity { kind: self.kind, fs_type: self.mount.to_owned() });
        }
        self.has_no("image_pull", described.image_pull.is_some())?;
        self.has_no("nydus_image", described.nydus_image.is_some())?;
        let direct = described.direct_volume.unwrap_or_default();
        if let Some(name) = direct.metadata.and_then(|metadata| metadata.into_keys().next()) {
            return Err(self.part("metadata", name, "it has no meaning for a root file system"));
        }
        let source = described.source.unwrap_or_default();
        if !source.starts_with('/') || source.contains('\0') {
            return Err(self.part("source", source, "it must be an absolute path"));
        }
        let fs_type = described.fs_type.unwrap_or_default();
        let is_part_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if fs_type.is_empty() || !fs_type.chars().all(is_part_of_name) {
            return Err(self.part("fs_type", fs_type, "it must be the name of a file system, such as ext4"));
        }
        let options = described.options.unwrap_or_default();
        let is_two = |option: &&String| option.contains([',', '\0']);
        if let Some(option) = options.iter().find(is_two) {
            return Err(self.part("option", option.as_str(), "each must stand for itself, without commas"));
        }
        Ok(VolumeDisk { source: source.into(), fs_type, options })
    }

    fn pull(&self, described: Described) -> Result<GuestPull> {
        self.has_no("direct_volume", described.direct_volume.is_some())?;
        self.has_no("nydus_image", described.nydus_image.is_some())?;
        self.has_no("dm_verity", described.dm_verity.is_some())?;
        let reference = described.source.filter(|source| !NO_SOURCE.contains(&source.as_str()));
        if let Some(strange) = reference.as_ref().filter(|text| !is_reference(text)) {
            return Err(self.part("source", strange.as_str(), "it must be the reference of an image"));
        }
        let metadata = described.image_pull.and_then(|pull| pull.metadata).unwrap_or_default();
        Ok(GuestPull { reference, metadata })
    }
}

/// Whether it may be an image's reference; whoever pulls it knows better.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || ".-_:/@[]".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') && text.chars().all(is_part)
}
