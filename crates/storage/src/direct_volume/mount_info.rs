//! `mountInfo.json`: what a direct-assigned volume is.
//!
//! ```json
//! {"volume-type": "block", "device": "/dev/sdf", "fstype": "ext4",
//!  "metadata": {"fsGroup": "1000", "fsGroupChangePolicy": "OnRootMismatch"}, "options": ["noatime"]}
//! ```
//!
//! Upstream writes its keys with hyphens, and its documents show others: `volume_type`, `volumeType`, `Device`, `fsType` and
//! their kind mean the same. What is not known is refused and not left out, because it may ask for something (encryption)
//! that the volume would be without. All of it ends up in a mount of the guest, and the device in a VM, so nothing of it is
//! believed. There must be no secrets in it: whoever may read the file may read the volume.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};

use super::is_ours;

/// The largest `mountInfo.json` that is read, in bytes.
pub const MAX_MOUNT_INFO: usize = 64 * 1024;
/// The kernel takes a page of options.
const MAX_OPTIONS: usize = 4000;
/// Block file systems that the guest's kernel has.
const FS_TYPES: [&str; 8] = ["ext4", "ext3", "ext2", "xfs", "erofs", "squashfs", "iso9660", "vfat"];
/// Options that make of a mount something else than a mount of the device.
const NO_OPTIONS: [&str; 5] = ["bind", "rbind", "move", "remount", "loop"];

/// A mount info cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountInfoError {
    /// It is larger than any that means well.
    #[error(
        "The mount info has more than {MAX_MOUNT_INFO} bytes: write only type, device, file system and options into it"
    )]
    TooLarge,
    /// It is no JSON, or not of this form.
    #[error(
        r#"The mount info is not of the form {{"volume-type": "block", "device": "/dev/…", "fstype": "ext4", "metadata": {{}}, "options": []}}"#
    )]
    Form(#[source] serde_json::Error),
    /// No such type.
    #[error("The volume type {0:?} is not known: use \"block\"")]
    Type(String),
    /// A type that this runtime does not have.
    #[error("The volume type {0:?} is not supported: assign a block device or an image file, as \"block\"")]
    Unsupported(String),
    /// What stands for the device is no path of a device.
    #[error("The device {device:?} {why}: name a block device or an image file by its absolute path")]
    Device {
        /// What stands there.
        device: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The guest has no such file system.
    #[error("The guest cannot mount the file system {fs_type:?}: it has {}", FS_TYPES.join(", "))]
    FsType {
        /// What stands there.
        fs_type: String,
    },
    /// A mount option that does not belong there.
    #[error("The mount option {option:?} {why}: remove it from the mount info")]
    Option {
        /// The option.
        option: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Metadata that nobody here understands.
    #[error("The metadata {0:?} is not known: there are fsGroup and fsGroupChangePolicy")]
    Metadata(String),
    /// A value of the metadata has no meaning.
    #[error("The metadata {key:?} cannot be {value:?}: it is {allowed}")]
    Value {
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The device cannot be had.
    #[error("The device {device:?} cannot be opened: see that it is attached to this host")]
    Open {
        /// The device.
        device: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// When the guest gives the volume's files to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ChangePolicy {
    /// At every mount.
    Always,
    /// Only if its root directory is not the group's yet.
    OnRootMismatch,
}

/// What a direct-assigned volume is, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// `block` or upstream's later word for the same, `directvol`.
    pub volume_type: String,
    /// The block device or image file on the host: an absolute path.
    pub device: PathBuf,
    /// Its file system.
    pub fs_type: String,
    /// The group that its files shall belong to.
    pub fs_group: Option<u32>,
    /// When they are given to it.
    pub fs_group_change_policy: Option<ChangePolicy>,
    /// Mount options for the guest.
    pub options: Vec<String>,
}

/// The file as it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "volume-type", alias = "volume_type", alias = "volumeType", alias = "VolumeType")]
    volume_type: String,
    #[serde(alias = "Device")]
    device: PathBuf,
    #[serde(alias = "fs-type", alias = "fs_type", alias = "fsType", alias = "FsType", alias = "Fstype")]
    fstype: String,
    #[serde(default, alias = "Metadata", skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, Text>>,
    #[serde(default, alias = "Options", skip_serializing_if = "Option::is_none")]
    options: Option<Vec<String>>,
}

/// Upstream has only texts; people write numbers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Number(u64),
}

/// An opened device.
#[derive(Debug)]
pub struct OpenDevice {
    /// Read-only if the volume is.
    pub file: OwnedFd,
    /// It is a block device, and else an image file.
    pub is_block: bool,
}

impl MountInfo {
    /// Reads and checks the content of a `mountInfo.json`. The device is not looked at.
    ///
    /// # Errors
    /// It is no mount info, or asks for what cannot be had, or could harm.
    pub fn parse(json: &[u8]) -> Result<Self, MountInfoError> {
        if json.len() > MAX_MOUNT_INFO {
            return Err(MountInfoError::TooLarge);
        }
        let written: Written = serde_json::from_slice(json).map_err(MountInfoError::Form)?;
        match written.volume_type.as_str() {
            "block" | "directvol" => {}
            "vfiovol" | "spdkvol" => return Err(MountInfoError::Unsupported(written.volume_type)),
            _ => return Err(MountInfoError::Type(written.volume_type)),
        }
        if !FS_TYPES.contains(&written.fstype.as_str()) {
            return Err(MountInfoError::FsType { fs_type: written.fstype });
        }
        if let Some(why) = no_plain_path(&written.device) {
            return Err(MountInfoError::Device { device: written.device, why });
        }
        let options = written.options.unwrap_or_default();
        check_options(&options)?;
        // mount(8) takes several in one, and keeps some for itself.
        let options = options.iter().flat_map(|option| option.split(','));
        let options = options.filter(|option| !is_for_mount_program(option)).map(str::to_owned).collect();
        let mut info = Self {
            volume_type: written.volume_type,
            device: written.device,
            fs_type: written.fstype,
            fs_group: None,
            fs_group_change_policy: None,
            options,
        };
        for (key, value) in written.metadata.unwrap_or_default() {
            info.understand(key, value)?;
        }
        Ok(info)
    }

    fn understand(&mut self, key: String, value: Text) -> Result<(), MountInfoError> {
        let value = match value {
            Text::Text(text) => text,
            Text::Number(number) => number.to_string(),
        };
        match key.as_str() {
            "fsGroup" | "fs-group" | "fs_group" | "FsGroup" => {
                let group = value.parse().map_err(|_| MountInfoError::Value {
                    key: "fsGroup",
                    value,
                    allowed: "a group's number",
                })?;
                self.fs_group = Some(group);
            }
            "fsGroupChangePolicy"
            | "fs-group-change-policy"
            | "fs_group_change_policy"
            | "FsGroupChangePolicy" => {
                self.fs_group_change_policy = Some(match value.as_str() {
                    "Always" => ChangePolicy::Always,
                    "OnRootMismatch" => ChangePolicy::OnRootMismatch,
                    _ => {
                        let key = "fsGroupChangePolicy";
                        return Err(MountInfoError::Value {
                            key,
                            value,
                            allowed: "Always or OnRootMismatch",
                        });
                    }
                });
            }
            _ => return Err(MountInfoError::Metadata(key)),
        }
        Ok(())
    }

    /// The content of its `mountInfo.json`, in upstream's first spelling.
    #[must_use]
    pub fn to_json(&self) -> String {
        let group = self.fs_group.map(|group| ("fsGroup", group.to_string()));
        let policy = self.fs_group_change_policy.map(|policy| ("fsGroupChangePolicy", format!("{policy:?}")));
        let metadata: BTreeMap<_, _> =
            group.into_iter().chain(policy).map(|(key, text)| (key.to_owned(), Text::Text(text))).collect();
        let written = Written {
            volume_type: self.volume_type.clone(),
            device: self.device.clone(),
            fstype: self.fs_type.clone(),
            metadata: Some(metadata).filter(|metadata| !metadata.is_empty()),
            options: Some(self.options.clone()).filter(|options| !options.is_empty()),
        };
        serde_json::to_string(&written).expect("texts and a path that was text are JSON")
    }

    /// Whether the guest mounts it read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        let last = self.options.iter().rfind(|option| matches!(option.as_str(), "ro" | "rw"));
        last.is_some_and(|option| option == "ro")
            || matches!(self.fs_type.as_str(), "erofs" | "squashfs" | "iso9660")
    }

    /// Opens the device. Links are followed only in `/dev` (`/dev/disk/by-id/…`), where only root makes them.
    ///
    /// # Errors
    /// It is not there, is neither a block device nor a regular file, or is a file that others than root may change.
    pub fn open_device(&self) -> Result<OpenDevice, MountInfoError> {
        let failed = |source| MountInfoError::Open { device: self.device.clone(), source };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = openat2(CWD, &self.device, flags, Mode::empty(), may_follow(&self.device));
        let found = found.map_err(|errno| failed(errno.into()))?;
        // The device is looked at before it is opened: opening a FIFO or a terminal does something.
        let opened = Path::new("/proc/self/fd").join(found.as_raw_fd().to_string());
        let metadata = std::fs::metadata(&opened).map_err(failed)?;
        if let Some(why) = no_device(&metadata) {
            return Err(MountInfoError::Device { device: self.device.clone(), why });
        }
        let file = std::fs::File::options().read(true).write(!self.is_read_only()).open(&opened);
        Ok(OpenDevice {
            file: file.map_err(failed)?.into(),
            is_block: metadata.file_type().is_block_device(),
        })
    }
}

fn may_follow(device: &Path) -> ResolveFlags {
    let of_everyone = ["/dev/shm", "/dev/mqueue"].iter().any(|dir| device.starts_with(dir));
    match device.starts_with("/dev") && !of_everyone {
        true => ResolveFlags::NO_MAGICLINKS,
        false => ResolveFlags::NO_SYMLINKS,
    }
}

fn no_device(metadata: &Metadata) -> Option<&'static str> {
    if metadata.file_type().is_block_device() {
        return None;
    }
    match metadata.is_file() {
        false => Some("is neither a block device nor a file"),
        true if !is_ours(metadata.uid(), metadata.mode()) => Some("is a file that not only root can change"),
        true => None,
    }
}

/// Why this is no path that means the same to everybody.
pub(super) fn no_plain_path(path: &Path) -> Option<&'static str> {
    let Some(text) = path.to_str() else { return Some("is no text") };
    if !path.is_absolute() {
        return Some("is not an absolute path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Some("has \"..\" in it");
    }
    if text.chars().any(char::is_control) {
        return Some("has control characters in it");
    }
    (path.file_name().is_none()).then_some("is the root directory")
}

/// Options of mount(8) and `fstab` that no file system is told of.
fn is_for_mount_program(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or(option);
    matches!(
        name,
        "" | "defaults"
            | "auto"
            | "noauto"
            | "nofail"
            | "_netdev"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "comment"
    ) || name.starts_with("x-")
        || name.starts_with("X-")
}

fn check_options(options: &[String]) -> Result<(), MountInfoError> {
    let refused = |option: &String, why| Err(MountInfoError::Option { option: option.clone(), why });
    let mut length = 0;
    for option in options {
        length += option.len() + 1;
        let names: Vec<&str> = option.split(',').map(|part| part.split('=').next().unwrap_or(part)).collect();
        if option.is_empty() {
            return refused(option, "is empty");
        }
        if option.chars().any(char::is_control) {
            return refused(option, "has control characters in it");
        }
        if names.iter().any(|name| NO_OPTIONS.contains(name)) {
            return refused(option, "has no meaning for a device of the guest's");
        }
        if length > MAX_OPTIONS {
            return refused(option, "makes all options together too long");
        }
    }
    Ok(())
}
