//! A root file system that is made of disks: containerd's list of mounts, as what the guest is to mount.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::DiskImage;
use super::template::expand;
use crate::image;
use crate::rootfs::RootfsMount;
use crate::virtual_volume::{GuestPull, VirtualVolume, VirtualVolumeError, VolumeDisk, is_reference};

#[cfg(test)]
mod tests;

/// What containerd's mount manager would do before a mount, and what is done here instead.
const TRANSFORMERS: [&str; 3] = ["format", "mkdir", "mkfs"];
/// The option by which containerd asks for a directory to be made.
const MKDIR: &str = "X-containerd.mkdir.path=";
/// The directory below the container's in the guest where its root is mounted.
const ROOT: &str = "rootfs";
/// Memory or an image for what it writes.
const WRITABLE: &str = "writable";
/// The directory in place of [`ROOT`] where what is written has a limit.
const LIMITED: &str = "limited";

/// A root file system that the guest mounts from disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRootfs {
    /// What the guest mounts, in this order.
    pub mounts: Vec<GuestMount>,
    /// Where the root is in the guest then.
    pub root: PathBuf,
}

/// Something that the guest mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestMount {
    /// What it is.
    pub what: What,
    /// Options as for `mount -o`, one each.
    pub options: Vec<String>,
    /// Where it goes in the guest.
    pub target: PathBuf,
}

/// What a guest mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A file system on a disk.
    Disk {
        /// The disk.
        image: DiskImage,
        /// `ext4`, `xfs`, `erofs`, …
        fs_type: String,
    },
    /// Memory of the guest.
    Memory,
    /// An overlay of directories of the guest, as its options say.
    Overlay {
        /// Directories that must be made before.
        folders: Vec<PathBuf>,
    },
    /// No mount: a directory that must be there.
    Folder,
    /// An image that the guest pulls.
    Image {
        /// Its reference.
        reference: String,
        /// What the snapshotter says of it.
        metadata: BTreeMap<String, String>,
    },
}

/// Why a list of mounts is no root file system for a VM.
#[derive(Debug, thiserror::Error)]
pub enum BlockRootfsError {
    /// Its type is not known.
    #[error(
        "The mount type {fs_type:?} of the root file system is not understood: this runtime knows a file system on a \
         disk, `overlay` and `bind`, after `format/`, `mkdir/` and `mkfs/`; use another snapshotter"
    )]
    Type {
        /// The type.
        fs_type: String,
    },
    /// A part of a template is not known.
    #[error(
        "{part:?} in a mount of the root file system is not understood: only `mount` and `overlay` can be named, with \
         numbers of earlier mounts; use another snapshotter"
    )]
    Template {
        /// The part.
        part: String,
    },
    /// An option that the guest cannot have.
    #[error("The option {option:?} of the root file system's {fs_type} mount is not supported: {advice}")]
    Option {
        /// The file system's type.
        fs_type: String,
        /// The option.
        option: String,
        /// What to do.
        advice: &'static str,
    },
    /// Mounts that do not make one root.
    #[error(
        "The root file system's {fs_type} mount on {target:?} is not understood: disks can be layers of one `overlay` or \
         the whole root; use another snapshotter"
    )]
    Shape {
        /// The type of the mount.
        fs_type: String,
        /// Where it should go.
        target: PathBuf,
    },
    /// A layer is on the host.
    #[error(
        "The layer {path:?} is a directory of the host, the others are disks: all layers must be disks; use another \
         snapshotter"
    )]
    Mixed {
        /// The layer.
        path: String,
    },
    /// There is no such image yet.
    #[error(
        "The image {path:?} of the root file system is missing or empty: containerd must make it before the container"
    )]
    NoImage {
        /// Where it should be.
        path: PathBuf,
    },
    /// The snapshotter has described the root file system.
    #[error(transparent)]
    Volume(#[from] VirtualVolumeError),
    /// The guest cannot know what to pull.
    #[error(
        "The guest is to pull the image, but which one is not said: neither the snapshotter's volume nor an annotation \
         such as `io.kubernetes.cri.image-name` names it"
    )]
    NoImageName,
    /// Disks are not to be used.
    #[error(
        "The root file system is made of disks ({fs_type} from {from:?}), but `disable_block_device_use` is set in the \
         configuration: remove that, or use another snapshotter"
    )]
    Disabled {
        /// The type of the mount.
        fs_type: String,
        /// Its source.
        from: PathBuf,
    },
}

type Result<T> = std::result::Result<T, BlockRootfsError>;

impl BlockRootfs {
    /// What `mounts` is in the guest, with `guest_dir` for the container there and `layers` for its layers, a short path
    /// of its own: all of them must fit into the options of one mount. `None` if no disk is among them.
    ///
    /// # Errors
    /// There are disks, but how they make a root is not understood.
    pub fn of(mounts: &[RootfsMount], guest_dir: &Path, layers: &Path) -> Result<Option<Self>> {
        let parsed: Vec<Part<'_>> = mounts.iter().map(Part::new).collect();
        if !parsed.iter().any(Part::is_disk) {
            return Ok(None);
        }
        let Some((last, below)) = parsed.split_last() else { return Ok(None) };
        let mut made = Self { mounts: Vec::new(), root: guest_dir.join(ROOT) };
        let mut points = Vec::new();
        for layer in below {
            let point = layers.join(points.len().to_string());
            made.mounts.push(layer.on_disk(&points, point.clone())?);
            points.push(point);
        }
        last.known()?;
        match last.base {
            "overlay" => made.overlay(last.expanded(&points)?, &points, guest_dir)?,
            "bind" => made.part_of_layer(last, &points)?,
            // It would hide the others.
            _ if !below.is_empty() => return Err(last.shape()),
            "erofs" => {
                let layer = layers.join("0");
                made.mounts.push(last.on_disk(&[], layer.clone())?);
                let options = vec![format!("lowerdir={}", layer.display())];
                made.overlay(options, &[layer], guest_dir)?;
            }
            _ => {
                let disk = last.on_disk(&[], made.root.clone())?;
                made.mounts.push(disk);
            }
        }
        Ok(Some(made))
    }

    /// A root file system that the guest has at `lower` and only reads; what is written to it goes to `image`.
    #[must_use]
    pub fn over(lower: PathBuf, image: DiskImage, guest_dir: &Path) -> Self {
        Self { mounts: Vec::new(), root: lower }.written_to(image, guest_dir)
    }

    /// The same root file system, but what is written to it goes to `image`, in place of the memory or the disk that it has.
    #[must_use]
    pub fn written_to(mut self, image: DiskImage, guest_dir: &Path) -> Self {
        let target = guest_dir.join(WRITABLE);
        let what = What::Disk { image, fs_type: image::FS_TYPE.to_owned() };
        let options = image::OPTIONS.map(str::to_owned).to_vec();
        let memory =
            self.mounts.iter_mut().find(|mount| mount.what == What::Memory && mount.target == target);
        if let Some(memory) = memory {
            (memory.what, memory.options) = (what, options);
            return self;
        }
        self.mounts.push(GuestMount { what, options, target: target.clone() });
        // A name beyond it makes the guest's kernel mount it first, if it is a mount of the host's.
        let lower = format!("lowerdir={}/.", self.root.display());
        let (upper, folders) = upper(&target);
        self.root = guest_dir.join(LIMITED);
        let options = std::iter::once(lower).chain(upper).collect();
        self.mounts.push(GuestMount { what: What::Overlay { folders }, options, target: self.root.clone() });
        self
    }

    /// What a snapshotter has described is in the guest; the same directories. `image_name` is what the container's manager
    /// calls the image.
    ///
    /// # Errors
    /// Disks are not to be used (no `layers`), or an option or the image's name is not understood.
    pub fn of_volume(
        volume: VirtualVolume,
        image_name: Option<&str>,
        guest_dir: &Path,
        layers: Option<&Path>,
    ) -> Result<Self> {
        let mut made = Self { mounts: Vec::new(), root: guest_dir.join(ROOT) };
        let (disk, is_read) = match volume {
            VirtualVolume::GuestPull(pull) => {
                made.pulled(pull, image_name)?;
                return Ok(made);
            }
            VirtualVolume::DirectBlock(disk) => (disk, false),
            VirtualVolume::RawBlock(disk) => (disk, true),
        };
        let VolumeDisk { source, fs_type, mut options } = disk;
        let Some(layers) = layers else { return Err(BlockRootfsError::Disabled { fs_type, from: source }) };
        // The last word holds. An image may be a file.
        options.extend(is_read.then(|| "ro".to_owned()).into_iter().chain(["loop".to_owned()]));
        let mount = RootfsMount { fs_type, source, options, ..RootfsMount::default() };
        let part = Part::new(&mount);
        if is_read {
            let layer = layers.join("0");
            made.mounts.push(part.on_disk(&[], layer.clone())?);
            made.overlay(vec![format!("lowerdir={}", layer.display())], &[layer], guest_dir)?;
        } else {
            let root = made.root.clone();
            made.mounts.push(part.on_disk(&[], root)?);
        }
        Ok(made)
    }

    /// What the manager calls the image is more than what the snapshotter does, which may not know.
    fn pulled(&mut self, pull: GuestPull, image_name: Option<&str>) -> Result<()> {
        let reference = image_name.map(str::to_owned).or(pull.reference);
        let reference = reference.filter(|text| is_reference(text)).ok_or(BlockRootfsError::NoImageName)?;
        let what = What::Image { reference, metadata: pull.metadata };
        self.mounts.push(GuestMount { what, options: Vec::new(), target: self.root.clone() });
        Ok(())
    }

    /// The same where disks are not to be used: `None` if the host can mount it as it is.
    ///
    /// # Errors
    /// It would need loop devices.
    pub fn refuse_images(mounts: &[RootfsMount]) -> Result<()> {
        match mounts.iter().find(|mount| Part::new(mount).is_image()) {
            Some(mount) => {
                Err(BlockRootfsError::Disabled { fs_type: mount.fs_type.clone(), from: mount.source.clone() })
            }
            None => Ok(()),
        }
    }

    fn overlay(&mut self, options: Vec<String>, points: &[PathBuf], guest_dir: &Path) -> Result<()> {
        let inside = |path: &str| points.iter().any(|point| Path::new(path).starts_with(point));
        let (mut own, mut upper, mut folders) = (Vec::new(), Vec::new(), Vec::new());
        for option in options {
            if let Some(lower) = option.strip_prefix("lowerdir=") {
                if let Some(path) = lower.split(':').find(|path| !inside(path)) {
                    return Err(BlockRootfsError::Mixed { path: path.to_owned() });
                }
                own.push(option);
            } else if let Some(path) = option.strip_prefix("upperdir=").or(option.strip_prefix("workdir=")) {
                if inside(path) {
                    folders.push(PathBuf::from(path));
                    upper.push(option);
                }
            } else if !is_for_containerd(&option) {
                own.push(option);
            }
        }
        if upper.len() < 2 {
            let target = guest_dir.join(WRITABLE);
            (upper, folders) = self::upper(&target);
            self.mounts.push(GuestMount {
                what: What::Memory,
                options: vec!["mode=0755".to_owned()],
                target,
            });
        }
        own.extend(upper);
        let what = What::Overlay { folders };
        self.mounts.push(GuestMount { what, options: own, target: self.root.clone() });
        Ok(())
    }

    /// A directory of a layer is the root: the agent binds it itself.
    fn part_of_layer(&mut self, last: &Part<'_>, points: &[PathBuf]) -> Result<()> {
        let source = PathBuf::from(template(&last.mount.source.to_string_lossy(), points)?);
        if !points.iter().any(|point| source.starts_with(point)) {
            return Err(last.shape());
        }
        self.mounts.push(GuestMount { what: What::Folder, options: Vec::new(), target: source.clone() });
        self.root = source;
        Ok(())
    }
}

/// The options and directories of an overlay's upper layer in `target`.
fn upper(target: &Path) -> (Vec<String>, Vec<PathBuf>) {
    let folders = vec![target.join("upper"), target.join("work")];
    let names = ["upperdir", "workdir"].into_iter().zip(&folders);
    (names.map(|(name, folder)| format!("{name}={}", folder.display())).collect(), folders)
}

fn template(text: &str, points: &[PathBuf]) -> Result<String> {
    expand(text, points).map_err(|part| BlockRootfsError::Template { part })
}

/// Options that containerd's mount manager takes for itself.
pub(crate) fn is_for_containerd(option: &str) -> bool {
    option.starts_with("X-") || option.starts_with("x-")
}

/// A mount of the list with its type taken apart.
struct Part<'a> {
    mount: &'a RootfsMount,
    /// Before the mount: `format`, `mkdir`.
    transformers: Vec<&'a str>,
    /// The file system's type.
    base: &'a str,
}

impl<'a> Part<'a> {
    fn new(mount: &'a RootfsMount) -> Self {
        let mut transformers: Vec<&str> = mount.fs_type.split('/').collect();
        let base = transformers.pop().unwrap_or_default();
        Self { mount, transformers, base }
    }

    fn has(&self, wanted: &str) -> bool {
        self.mount.options.iter().any(|option| option == wanted)
    }

    /// It would need a loop device on the host.
    fn is_image(&self) -> bool {
        self.base == "erofs" || self.has("loop")
    }

    fn is_disk(&self) -> bool {
        let is_device = || fs::metadata(&self.mount.source).is_ok_and(|m| m.file_type().is_block_device());
        let directory = matches!(self.base, "bind" | "overlay") || self.has("bind") || self.has("rbind");
        self.is_image() || (!directory && is_device())
    }

    fn shape(&self) -> BlockRootfsError {
        let RootfsMount { fs_type, target, .. } = self.mount.clone();
        BlockRootfsError::Shape { fs_type, target }
    }

    fn known(&self) -> Result<()> {
        let known = self.transformers.iter().all(|transformer| TRANSFORMERS.contains(transformer));
        if !known || self.base.is_empty() || self.base == "loop" {
            return Err(BlockRootfsError::Type { fs_type: self.mount.fs_type.clone() });
        }
        let target = &self.mount.target;
        let on_root = target.as_os_str().is_empty() || target == Path::new("/") || target == Path::new(".");
        if on_root { Ok(()) } else { Err(self.shape()) }
    }

    fn expanded(&self, points: &[PathBuf]) -> Result<Vec<String>> {
        self.mount.options.iter().map(|option| template(option, points)).collect()
    }

    /// A file system on a disk.
    fn on_disk(&self, points: &[PathBuf], target: PathBuf) -> Result<GuestMount> {
        self.known()?;
        if !self.is_disk() {
            return Err(self.shape());
        }
        let path = PathBuf::from(template(&self.mount.source.to_string_lossy(), points)?);
        if self.transformers.contains(&"mkfs") && fs::metadata(&path).map_or(0, |image| image.len()) == 0 {
            return Err(BlockRootfsError::NoImage { path });
        }
        let mut options = Vec::new();
        let mut read_only = false;
        for option in self.expanded(points)? {
            self.refuse(&option)?;
            match option.as_str() {
                "ro" => read_only = true,
                "rw" => read_only = false,
                "" | "loop" => {}
                option if is_for_containerd(option) => {}
                _ => options.push(option),
            }
        }
        let read_only = read_only || self.base == "erofs";
        if read_only {
            options.insert(0, "ro".to_owned());
        }
        let what = What::Disk { image: DiskImage::at(path, read_only), fs_type: self.base.to_owned() };
        Ok(GuestMount { what, options, target })
    }

    /// Options that name what only the host has.
    fn refuse(&self, option: &str) -> Result<()> {
        let advice = if option.starts_with("device=") {
            "set `max_unmerged_layers = 0` for containerd's erofs snapshotter, so that layers stay apart"
        } else if option.contains("verity") {
            "switch dm-verity off in containerd's erofs snapshotter"
        } else if option == "remount" || option.starts_with("uidmap=") || option.starts_with("gidmap=") {
            "use another snapshotter"
        } else if option.starts_with(MKDIR) {
            "only an `overlay` or `bind` can have directories made"
        } else {
            return Ok(());
        };
        let (fs_type, option) = (self.mount.fs_type.clone(), option.to_owned());
        Err(BlockRootfsError::Option { fs_type, option, advice })
    }
}
