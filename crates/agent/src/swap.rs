//! Devices and files that the guest swaps to.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::block::{self, Address, BlockError};
use crate::sys;

/// The guest cannot swap to it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwapError {
    /// The device cannot be had.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The kernel refused.
    #[error("The guest cannot swap to {}; is it made by mkswap, and not in use?", path.display())]
    Refused { path: PathBuf, source: io::Error },
}

/// Upstream's notation: the slots on the way to a disk.
pub(crate) fn of_slots(slots: &[u32]) -> Result<Address, BlockError> {
    let text: Vec<_> = slots.iter().map(|slot| format!("{slot:02x}")).collect();
    Address::new(block::BLK, &text.join("/"))
}

/// Swaps to a disk, which must appear within `limit`.
pub(crate) async fn to_disk(address: Address, limit: Duration) -> Result<(), SwapError> {
    let nodes = block::arrival(&[address], limit).await?;
    for node in nodes {
        to(node.path).await?;
    }
    Ok(())
}

/// Swaps to what `text` names: a path of the guest, or the id and unit of a SCSI disk like `0:3`.
pub(crate) async fn to_path(text: &str, limit: Duration) -> Result<(), SwapError> {
    let path = Path::new(text);
    match () {
        () if path.starts_with("/dev") => to_disk(Address::new(block::BLK, text)?, limit).await,
        () if path.is_absolute() => to(path.to_owned()).await,
        () => to_disk(Address::new(block::SCSI, text)?, limit).await,
    }
}

/// The kernel reads the first page, and may write to the disk what it discards.
async fn to(path: PathBuf) -> Result<(), SwapError> {
    let name = path.clone();
    let done = tokio::task::spawn_blocking(move || sys::swap_on(&name)).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| SwapError::Refused { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_a_place_on_the_bus() {
        let place = |text: &str| Address::Pci(text.parse().expect("a place"));
        assert_eq!(of_slots(&[0x10, 0]).expect("slots"), place("10/00"));
        assert_eq!(of_slots(&[0x18]).expect("a slot"), place("18"));
        for wrong in [vec![], vec![32], vec![2, 256]] {
            assert!(of_slots(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_swap_is_named() {
        let error = to_path("/proc/version", Duration::ZERO).await.expect_err("not made by mkswap");
        assert!(error.to_string().contains("/proc/version"), "{error}");
        let error = to_path("sda", Duration::ZERO).await.expect_err("no address");
        assert!(error.to_string().contains("0:3"), "{error}");
    }
}
