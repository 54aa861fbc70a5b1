//! What is known of a sandbox's first container before its VM is started.

use kata_storage::volumes;
use kata_vmm::Disk;
use oci_spec::runtime::Spec;

use crate::ContainerId;
use crate::disks::{Disks, Roots, Wanted};
use crate::host::Sources;

/// What the VM is to have from the start.
#[derive(Debug, Default)]
pub(crate) struct Foreseen {
    /// The container's disks.
    pub(crate) disks: Vec<Disk>,
    /// Nothing of the host's files is needed.
    pub(crate) is_on_disks: bool,
}

impl Foreseen {
    /// What is wrong with the container is told when it is made. To be called before anything is attached; it blocks.
    pub(crate) fn of(id: &ContainerId, mut sources: Sources, roots: Roots<'_>, disks: &Disks) -> Self {
        match Wanted::of(id, &mut sources, roots) {
            Ok(wanted) => Self {
                is_on_disks: is_on_disks(&wanted, &sources.spec),
                disks: disks.planned(&wanted.disks()),
            },
            Err(_) => Self::default(),
        }
    }
}

/// Whether a container needs no shared directory: its root file system is on disks or pulled, and it binds nothing.
pub(crate) fn is_on_disks(wanted: &Wanted, spec: &Spec) -> bool {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    wanted.root().is_some() && wanted.image().is_none() && !volumes::may_bind_files(mounts)
}
