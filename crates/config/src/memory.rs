//! What a VM's memory is made of, and what the guest may swap, as the configuration has it.

use std::path::PathBuf;

use crate::error::Problem;
use crate::model::{Config, SharedFs};
use crate::numa::GuestNuma;
use crate::options::Table;
use crate::origin::Origin;
use crate::settings::Settings;

/// What a VM's memory is made of on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestMemory {
    /// It is taken from the host before the guest starts.
    pub prealloc: bool,
    /// Of huge pages; [`GuestMemory::huge_pages`] says of which.
    pub has_huge_pages: bool,
    /// They are transparent ones.
    pub are_transparent: bool,
    /// The size in MiB of pages that are not.
    pub page_mib: u32,
    /// The directory that its file is in; `None`: anonymous memory.
    pub dir: Option<PathBuf>,
    /// The host may merge equal pages of several VMs.
    pub is_mergeable: bool,
    /// Host paths (globs) that the annotation `file_mem_backend` may name.
    pub valid_dirs: Vec<String>,
    /// The NUMA nodes that it is divided into.
    pub numa: GuestNuma,
    /// Containers may have swap.
    pub has_swap: bool,
    /// The directory for its files.
    pub swap_dir: PathBuf,
}

/// The kind of huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// Transparent ones: as many as the host's kernel finds.
    Transparent,
    /// Of the host's pool for this size.
    Pool {
        /// Their size in MiB.
        mib: u32,
    },
}

impl GuestMemory {
    /// The huge pages that it is made of, if it is.
    #[must_use]
    pub fn huge_pages(&self) -> Option<HugePages> {
        self.has_huge_pages.then_some(match self.are_transparent {
            true => HugePages::Transparent,
            false => HugePages::Pool { mib: self.page_mib },
        })
    }

    /// What its size must be a multiple of, in MiB.
    #[must_use]
    pub fn unit_mib(&self) -> u32 {
        match self.huge_pages() {
            Some(HugePages::Pool { mib }) => mib.max(1),
            Some(HugePages::Transparent) | None => 1,
        }
    }
}

/// Whether its keys go together.
pub(crate) fn check(config: &Config, settings: &Settings) -> Result<(), Problem> {
    let memory = &config.hypervisor.memory;
    let is_pool = matches!(memory.huge_pages(), Some(HugePages::Pool { .. }));
    let origin = |key| settings.named(Table::Hypervisor, key).origin.clone();
    if is_pool && memory.dir.is_some() {
        let other = origin("enable_hugepages");
        let text = format!(
            "`file_mem_backend` names a directory, but with `enable_hugepages` ({other}) memory comes from the host's pool of \
             huge pages; remove one of the two"
        );
        return Err(Problem { place: origin("file_mem_backend"), text });
    }
    check_merging(config, &origin)?;
    if !config.hypervisor.reclaim_guest_freed_memory {
        return Ok(());
    }
    let conflict = match (memory.prealloc, is_pool) {
        (true, _) => ("enable_mem_prealloc", "takes all memory from the host at once"),
        (_, true) => ("enable_hugepages", "has pages that might not come back"),
        (false, false) => return Ok(()),
    };
    let (key, does) = conflict;
    let text = format!(
        "`reclaim_guest_freed_memory` gives back what the guest has freed, and `{key}` ({}) {does}; remove one of the two",
        origin(key)
    );
    Err(Problem { place: origin("reclaim_guest_freed_memory"), text })
}

/// The host's kernel merges only pages of anonymous memory that no other process maps.
fn check_merging(config: &Config, origin: &dyn Fn(&'static str) -> Origin) -> Result<(), Problem> {
    let vm = &config.hypervisor;
    if !vm.memory.is_mergeable {
        return Ok(());
    }
    let is_pool = matches!(vm.memory.huge_pages(), Some(HugePages::Pool { .. }));
    let (key, does, instead) = match vm.shared_fs {
        SharedFs::VirtioFs | SharedFs::VirtioFsNydus => {
            ("shared_fs", "has a daemon that maps the memory", "set `shared_fs = \"virtio-9p\"`")
        }
        SharedFs::Virtio9p if is_pool => {
            ("enable_hugepages", "has pages that the host's kernel never merges", "remove that")
        }
        SharedFs::Virtio9p if vm.memory.dir.is_some() => {
            ("file_mem_backend", "makes the memory a file", "remove that")
        }
        SharedFs::Virtio9p => return Ok(()),
    };
    let text = format!(
        "`enable_ksm` is for memory that only the VMM maps, and `{key}` ({}) {does}; {instead}, or remove `enable_ksm`",
        origin(key)
    );
    Err(Problem { place: origin("enable_ksm"), text })
}
