//! Memory of the guest in place of a tmpfs of the host's that containers use to share memory (`/dev/shm`).
//!
//! Pages of a file on the share are copies: what one container writes by `mmap`, another would not see. So it is a tmpfs
//! in the guest, one for each directory of the host's, whichever container binds it. What the directory holds on the
//! host is not in it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kata_protocol::guest;
use rustix::fs::{fstatfs, fstatvfs};

/// `f_type` of a tmpfs.
const TMPFS: i64 = 0x0102_1994;
/// A sandbox's first one, as upstream names it; further ones have a number.
const NAME: &str = "shm";

/// A tmpfs that must be in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Its mount point in the guest.
    pub guest_path: PathBuf,
    /// How many bytes it can hold.
    pub size: u64,
}

/// The directories of the host's that one sandbox has memory for, in the order they were met.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<Vec<PathBuf>>);

impl Memories {
    /// The memory in place of the directory `source`, opened as `fd`; `None` if that is no tmpfs.
    pub(crate) fn of(&self, source: &Path, fd: &OwnedFd) -> Option<Memory> {
        if fstatfs(fd).ok()?.f_type != TMPFS {
            return None;
        }
        let space = fstatvfs(fd).ok()?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = known.iter().position(|path| path == source).unwrap_or_else(|| {
            known.push(source.to_owned());
            known.len() - 1
        });
        let name = if number == 0 { NAME.to_owned() } else { format!("{NAME}-{number}") };
        let guest_path = Path::new(guest::SHARED_MEMORY_DIR).join(name);
        Some(Memory { guest_path, size: space.f_blocks.saturating_mul(space.f_frsize) })
    }
}
