//! What the guest swaps to, by upstream's requests.

use kata_protocol::agent as grpc;
use kata_vmm::DiskAddress;

use super::action::Action;
use super::{Agent, within};
use crate::error::Result;

impl Agent {
    /// Lets the guest swap to a disk.
    pub(crate) async fn swap_to(&self, disk: &DiskAddress) -> Result<()> {
        let deadline = self.deadlines.request;
        match slots(disk) {
            Some(slots) => {
                let request = grpc::AddSwapRequest { PCIPath: slots, ..Default::default() };
                let rpc = self.grpc.add_swap(within(deadline), &request);
                self.call(Action::AddSwap, deadline, rpc).await.map(drop)
            }
            None => {
                let request = grpc::AddSwapPathRequest { path: disk.to_string(), ..Default::default() };
                let rpc = self.grpc.add_swap_path(within(deadline), &request);
                self.call(Action::AddSwapPath, deadline, rpc).await.map(drop)
            }
        }
    }
}

/// The slots on the way to a disk on the PCI bus.
fn slots(disk: &DiskAddress) -> Option<Vec<u32>> {
    let DiskAddress::Pci(path) = disk else { return None };
    path.split('/').map(|slot| u32::from_str_radix(slot, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_on_the_bus_is_told_by_its_slots() {
        assert_eq!(slots(&DiskAddress::Pci("10/00".to_owned())), Some(vec![0x10, 0]));
        assert_eq!(slots(&DiskAddress::Scsi { id: 0, lun: 3 }), None);
    }
}
