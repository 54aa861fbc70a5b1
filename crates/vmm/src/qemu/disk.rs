//! Disks, in QEMU's words.

use std::io;

/// Why a disk cannot be given to QEMU.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Its name is no identifier.
    #[error("Its name must be a letter, then letters, digits, `-`, `.` or `_`")]
    Id,
    /// Its file cannot be examined.
    #[error("Its file cannot be examined")]
    Examine(#[source] io::Error),
    /// Its file is something else.
    #[error("Its file is neither a block device nor a regular file: check the path of the volume")]
    FileType,
    /// Its file was opened for something else.
    #[error("Its file is opened {opened}, the disk needs it {needed}: check the volume's `readOnly`")]
    OpenedFor {
        /// How it is.
        opened: &'static str,
        /// How it should be.
        needed: &'static str,
    },
    /// Linux AIO does not work with the page cache.
    #[error(
        "`block_device_aio = \"native\"` needs `block_device_cache_set` and `block_device_cache_direct`: set both"
    )]
    NativeNeedsDirect,
    /// A queue of a bad length.
    #[error("A queue of {size} is impossible: set `queue_size` to a power of two from 4 to 1024")]
    QueueSize {
        /// What was asked for.
        size: u16,
    },
    /// Block sizes that no device has.
    #[error(
        "Blocks of {logical} bytes, physically {physical}, are impossible: powers of two from 512 to 32768, the logical \
         one not the larger"
    )]
    BlockSize {
        /// The unit of addresses.
        logical: u32,
        /// What is written at once.
        physical: u32,
    },
    /// Persistent memory has the size that it had at first.
    #[error("Its size as persistent memory is fixed: attach it as virtio-blk to let it grow")]
    PmemResize,
}
