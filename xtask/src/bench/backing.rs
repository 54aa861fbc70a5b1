//! Memory that is there before a measurement begins.

use anyhow::Result;
use memmap2::{Advice, MmapMut};

/// What an emulated VM takes until its first workload runs, its translated code with it, in bytes.
const OF_A_VM: usize = 160 << 20;
const PAGE: usize = 4096;

/// Asks for the memory that so many VMs are about to take, and gives it back. Where this machine is a VM itself, its hypervisor may
/// have taken back what was free (free page reporting), huge page by huge page. To get 100 MiB of that again takes up
/// to 0.3 s, and which of the things that are compared meets it would be chance. It stays for some seconds.
pub(crate) fn obtain(vms: u32) -> Result<()> {
    let mut memory = MmapMut::map_anon(OF_A_VM * usize::try_from(vms)?)?;
    // A kernel without huge pages has none to lose.
    let _ = memory.advise(Advice::HugePage);
    memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    Ok(())
}
