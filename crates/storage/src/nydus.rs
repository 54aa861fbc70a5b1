//! Images that are loaded as they are read (nydus): what containerd's snapshotter says of them, and the daemon that has
//! them.
//!
//! With `shared_fs = "virtio-fs-nydus"` the VM's files come from nydusd in the place of virtiofsd. The guest has a tree of
//! its file systems:
//!
//! ```text
//! /run/kata-containers/shared/
//!     containers/                     the sandbox's shared directory, passed through
//!     rafs/<container>/lowerdir/      an image; what is read of it is fetched then
//! ```
//!
//! A container's root is an overlay that the guest mounts: the image below, and above it the snapshot's directories of the
//! host (`containers/passthrough/<container>/snapshotdir/{fs,work}`).

pub mod api;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod nydusd;
mod rootfs;
#[cfg(test)]
mod testing;

pub use rootfs::{NydusRootfs, NydusRootfsError};

pub(crate) use rootfs::{SNAPSHOT, as_overlay, is_nydus};
