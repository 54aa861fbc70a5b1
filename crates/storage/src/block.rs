//! What of a container is a disk: root file systems on block devices or in images, layers of EROFS, and devices that a
//! container is given (`volumeMode: Block`).
//!
//! Nothing of it is mounted on the host, and no loop device is needed: the VMM gets the opened device or file, and the
//! guest mounts it. So nothing is left on the host when the VMM has gone.
//!
//! | what comes | what it becomes |
//! |---|---|
//! | a root mount of a block device (devmapper: `ext4`, `xfs`) | a disk, mounted on the root |
//! | a root mount of a regular file with `loop` (blockfile: `ext4`) | the same |
//! | root mounts of `erofs` and an `overlay` over them (`format/mkdir/overlay` with `{{ overlay 0 2 }}`) | read-only disks, which pods share, and an overlay in the guest |
//! | an upper layer that is an image (`ext4` with `loop`) | a writable disk |
//! | an upper layer that is a directory of the host's, or none | memory of the guest: it ends with the container |
//! | `linux.devices` of type `b`, a bind mount of a block device | a disk, a device in the container |

mod device;
mod disk;
mod rootfs;
mod sizes;
mod template;

pub use device::{BlockDevice, DeviceError, take_devices};
pub use disk::{DiskError, DiskImage, DiskKey, Found};
pub(crate) use rootfs::is_for_containerd;
pub use rootfs::{BlockRootfs, BlockRootfsError, GuestMount, What};
pub use sizes::{DeviceChanges, device_size};
