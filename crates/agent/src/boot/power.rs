//! The orderly end of the guest.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;

use crate::mountinfo::mount_point;

/// Writes everything out and lets go of the file systems that outlive the VM.
pub(crate) fn settle() {
    sync();
    // Names need not be text.
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    for target in shared_mounts(&String::from_utf8_lossy(&mounts)).iter().rev() {
        if let Err(errno) = umount2(target, MntFlags::MNT_DETACH) {
            tracing::debug!(target = %target.display(), %errno, "Not unmounted");
        }
    }
    sync();
}

/// Switches the VM off.
pub(crate) fn off() {
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    tracing::error!(%errno, "The VM cannot be switched off");
}

/// Mount points of file systems that the host keeps; those of the kernel and of memory end with the VM.
fn shared_mounts(mountinfo: &str) -> Vec<PathBuf> {
    const GUESTS_OWN: [&str; 10] =
        ["proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "cgroup2", "rootfs", "ramfs", "mqueue", "overlay"];
    let entry = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let target = mount_point(mount)?;
        (target != Path::new("/") && !GUESTS_OWN.contains(&kind)).then_some(target)
    };
    mountinfo.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::{Path, shared_mounts};

    #[test]
    fn only_the_hosts_file_systems_are_let_go() {
        let mountinfo = "21 1 0:2 / / rw - rootfs none rw\n\
                         22 21 0:19 / /proc rw shared:5 - proc proc rw\n\
                         40 21 0:30 / /run/kata-containers/shared/containers rw - virtiofs kataShared rw\n";
        assert_eq!(shared_mounts(mountinfo), [Path::new("/run/kata-containers/shared/containers")]);
    }
}
