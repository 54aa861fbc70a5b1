//! The ioctls by which file systems grow while they are mounted; nothing wraps them.
#![expect(unsafe_code, reason = "ioctls of ext4 and XFS")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `struct xfs_fsop_geom_v1` of xfs_fs.h.
#[repr(C)]
#[derive(Default)]
struct Geometry {
    block_size: u32,
    realtime_extent_size: u32,
    group_blocks: u32,
    group_count: u32,
    log_blocks: u32,
    sector_size: u32,
    inode_size: u32,
    max_inode_percent: u32,
    data_blocks: u64,
    realtime_blocks: u64,
    realtime_extents: u64,
    log_start: u64,
    uuid: [u8; 16],
    stripe_unit: u32,
    stripe_width: u32,
    version: i32,
    flags: u32,
    log_sector_size: u32,
    realtime_sector_size: u32,
    folder_block_size: u32,
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct Growth {
    blocks: u64,
    max_inode_percent: u32,
}

nix::ioctl_write_ptr!(ext4_ioc_resize_fs, b'f', 16, u64);
nix::ioctl_read!(xfs_ioc_fsgeometry_v1, b'X', 100, Geometry);
nix::ioctl_write_ptr!(xfs_ioc_fsgrowfsdata, b'X', 110, Growth);

/// What is to be known of an XFS before it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Xfs {
    /// Bytes in a block.
    pub(super) block_size: u64,
    /// Blocks it has.
    pub(super) blocks: u64,
    max_inode_percent: u32,
}

/// Asks the XFS on which `place` lies.
pub(super) fn xfs(place: impl AsFd) -> io::Result<Xfs> {
    let mut geometry = Geometry::default();
    // SAFETY: the kernel writes a structure of this size, whose fields may hold any bits.
    unsafe { xfs_ioc_fsgeometry_v1(place.as_fd().as_raw_fd(), &raw mut geometry) }?;
    let Geometry { block_size, data_blocks: blocks, max_inode_percent, .. } = geometry;
    Ok(Xfs { block_size: block_size.into(), blocks, max_inode_percent })
}

/// Lets it have so many blocks.
pub(super) fn grow_xfs(place: impl AsFd, xfs: Xfs, blocks: u64) -> io::Result<()> {
    let growth = Growth { blocks, max_inode_percent: xfs.max_inode_percent };
    // SAFETY: the kernel reads a structure of this size, which outlives the call.
    unsafe { xfs_ioc_fsgrowfsdata(place.as_fd().as_raw_fd(), &raw const growth) }?;
    Ok(())
}

/// Lets the ext4 on which `place` lies have so many blocks.
pub(super) fn grow_ext4(place: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads a number of this size, which outlives the call.
    unsafe { ext4_ioc_resize_fs(place.as_fd().as_raw_fd(), &raw const blocks) }?;
    Ok(())
}
