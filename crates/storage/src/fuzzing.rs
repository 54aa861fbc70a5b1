//! What the fuzz targets in `fuzz/` call. Behind the feature `fuzzing`, and no interface for anybody else.

pub use crate::nydus::fuzzing::{ImageOrders, nydus_rootfs};
pub use crate::rootfs::fuzzing::{RootfsOrders, rootfs_options};
