//! What nydus-snapshotter says of a root file system, for fuzz targets.

use std::path::{Path, PathBuf};

use super::{NydusRootfs, as_overlay};
use crate::rootfs::RootfsMount;

/// What becomes of such a mount.
#[derive(Debug)]
pub struct ImageOrders {
    /// The source, the configuration and the snapshot's directory of an image that nydusd mounts; none if there is none, or
    /// it is refused.
    pub image: Option<(String, String, PathBuf)>,
    /// The options of the guest's overlay over that.
    pub guest: Vec<String>,
    /// The options of the host's overlay in its place; none if it is refused.
    pub host: Option<Vec<String>>,
}

/// The meaning of the mount's options.
#[must_use]
pub fn nydus_rootfs(options: &[String]) -> ImageOrders {
    let mount = RootfsMount {
        fs_type: "fuse.nydus-overlayfs".to_owned(),
        options: options.to_vec(),
        ..Default::default()
    };
    let host = as_overlay(&mount).ok().map(|overlay| overlay.options);
    let image = NydusRootfs::of(&[mount]).ok().flatten();
    let guest = image.as_ref().map(|image| image.guest_mount(Path::new("/share/c1")).options);
    ImageOrders {
        image: image.map(|image| (image.source, image.config, image.snapshot)),
        guest: guest.unwrap_or_default(),
        host,
    }
}
