//! Block devices by their addresses: places on the PCI bus, targets of a SCSI controller, names in `/dev`.
//!
//! A device may be about to appear: it was plugged in when the request came. The kernel finds it by itself, behind a port of
//! the PCI bus (told by ACPI) as on a virtio-scsi controller (told by its events), and announces it when it can be opened;
//! neither is scanned again. Nothing here runs unless a request names a block device.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{major, minor};
use tokio::io::Interest;

use crate::announcements;
use crate::pci::{Place, entries};

/// Upstream's names of drivers, which stand in storages and devices.
pub(crate) const BLK: &str = "blk";
pub(crate) const SCSI: &str = "scsi";
pub(crate) const NVDIMM: &str = "nvdimm";

/// Targets of all SCSI controllers, by `host:channel:id:lun`.
const SCSI_DEVICES: &str = "/sys/bus/scsi/devices";

/// A block device cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    /// Its address has no meaning.
    #[error("{text:?} is no address of a block device of driver {driver:?}; {expected}")]
    Address { driver: String, text: String, expected: &'static str },
    /// It is not there.
    #[error("No block device {address} appeared in the guest within {} s; has the VM got that disk?", limit.as_secs_f32())]
    Absent { address: Address, limit: Duration },
    /// Something else is there.
    #[error("{} is not a block device; name one", path.display())]
    Other { path: PathBuf },
    /// Its arrival cannot be seen.
    #[error("Cannot watch the devices of the guest")]
    Watch(#[source] io::Error),
}

type Result<T> = std::result::Result<T, BlockError>;

/// Where a block device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// At a place on the PCI bus.
    Pci(Place),
    /// A target of a SCSI controller, and a unit of it.
    Scsi { id: u8, lun: u16 },
    /// Below `/dev`.
    Node(PathBuf),
}

impl Address {
    /// Reads the address that a driver has: for `blk` `02/00` or a node, for `scsi` `0:3`, for `nvdimm` a node.
    pub(crate) fn new(driver: &str, text: &str) -> Result<Self> {
        let (address, expected) = match driver {
            SCSI => (scsi(text), "it is its id and unit like 0:3"),
            NVDIMM => (node(text), "it is a path like /dev/pmem0"),
            _ => (
                node(text).or_else(|| text.parse().ok().map(Self::Pci)),
                "it is slots on the PCI bus like 02/00, or a path below /dev",
            ),
        };
        address.ok_or_else(|| BlockError::Address {
            driver: driver.to_owned(),
            text: text.to_owned(),
            expected,
        })
    }

    /// What the device is called; the kernel may know it before it can be opened.
    fn path(&self) -> Option<PathBuf> {
        let name = match self {
            Self::Pci(place) => place.name_in("block"),
            Self::Scsi { id, lun } => scsi_name(Path::new(SCSI_DEVICES), *id, *lun),
            Self::Node(path) => return Some(path.clone()),
        };
        name.map(|name| Path::new("/dev").join(name))
    }

    fn find(&self) -> Result<Option<Node>> {
        let Some(path) = self.path() else { return Ok(None) };
        let Ok(found) = fs::metadata(&path) else { return Ok(None) };
        if !found.file_type().is_block_device() {
            return Err(BlockError::Other { path });
        }
        match File::open(&path) {
            // Its node comes first.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            _ => Ok(Some(Node { number: found.rdev(), path })),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(place) => write!(f, "at the PCI path {place}"),
            Self::Scsi { id, lun } => write!(f, "with the SCSI id and unit {id}:{lun}"),
            Self::Node(path) => write!(f, "{}", path.display()),
        }
    }
}

fn scsi(text: &str) -> Option<Address> {
    let plain = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    let (id, lun) = text.split_once(':').filter(|(id, lun)| plain(id) && plain(lun))?;
    Some(Address::Scsi { id: id.parse().ok()?, lun: lun.parse().ok()? })
}

fn node(text: &str) -> Option<Address> {
    let below = Path::new(text).strip_prefix("/dev").ok()?;
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && below != Path::new("")).then(|| Address::Node(text.into()))
}

/// The controller's own number is the kernel's choice.
fn scsi_name(devices: &Path, id: u8, lun: u16) -> Option<String> {
    let end = format!(":0:{id}:{lun}");
    let units = entries(devices).into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_suffix(&end).is_some_and(|host| host.bytes().all(|digit| digit.is_ascii_digit()))
    });
    let found = units.flat_map(|unit| entries(&unit.join("block"))).next()?;
    Some(found.file_name()?.to_string_lossy().into_owned())
}

/// A block device of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// In `/dev`.
    pub(crate) path: PathBuf,
    number: u64,
}

impl Node {
    /// As if it were there.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn new(path: &str, major: u32, minor: u32) -> Self {
        Self { path: path.into(), number: rustix::fs::makedev(major, minor) }
    }

    /// Major and minor number.
    pub(crate) fn numbers(&self) -> (u32, u32) {
        (major(self.number), minor(self.number))
    }
}

/// The devices of these addresses, all of which must appear within `limit`.
pub(crate) async fn arrival(addresses: &[Address], limit: Duration) -> Result<Vec<Node>> {
    if let Ok(nodes) = all(addresses)? {
        return Ok(nodes);
    }
    // Listening comes before looking, so that nothing is missed in between.
    let events = announcements::of_devices().and_then(|socket| crate::sys::watch(socket, Interest::READABLE));
    let events = events.map_err(BlockError::Watch)?;
    let waiting = async {
        while all(addresses)?.is_err() {
            announcements::next(&events).await.map_err(BlockError::Watch)?;
        }
        Ok(())
    };
    if let Ok(watched) = tokio::time::timeout(limit, waiting).await {
        watched?;
    }
    all(addresses)?.map_err(|address| BlockError::Absent { address: address.clone(), limit })
}

/// Or the first address that has none yet.
fn all(addresses: &[Address]) -> Result<std::result::Result<Vec<Node>, &Address>> {
    let mut nodes = Vec::new();
    for address in addresses {
        match address.find()? {
            Some(node) => nodes.push(node),
            None => return Ok(Err(address)),
        }
    }
    Ok(Ok(nodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_has_its_own_addresses() {
        let pci = Address::Pci("02/00".parse().expect("is a place"));
        assert_eq!(Address::new(BLK, "02/00").expect("a place"), pci);
        assert_eq!(Address::new(BLK, "/dev/vdb").expect("a node"), Address::Node("/dev/vdb".into()));
        assert_eq!(Address::new(SCSI, "0:3").expect("a unit"), Address::Scsi { id: 0, lun: 3 });
        assert_eq!(Address::new(NVDIMM, "/dev/pmem0").expect("a node"), Address::Node("/dev/pmem0".into()));
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        let wrong = [
            (BLK, ""),
            (BLK, "/etc/passwd"),
            (BLK, "/dev/../etc/passwd"),
            (BLK, "/dev"),
            (SCSI, "3"),
            (SCSI, "+1:2"),
            (SCSI, "256:0"),
            (SCSI, "0:0:0:1"),
            (NVDIMM, "02/00"),
        ];
        for (driver, text) in wrong {
            let message = Address::new(driver, text).expect_err(text).to_string();
            assert!(message.contains(driver) && message.contains("like"), "{message}");
        }
    }

    #[test]
    fn a_unit_is_found_on_whichever_controller() {
        let devices = tempfile::tempdir().expect("temporary folder");
        for path in ["1:0:0:3/block/sdb", "0:0:0:13/block/sdc", "0:1:0:3/block/sdd", "target2:0:0:3"] {
            fs::create_dir_all(devices.path().join(path)).expect("folders");
        }
        assert_eq!(scsi_name(devices.path(), 0, 3), Some("sdb".to_owned()));
        assert_eq!(scsi_name(devices.path(), 1, 3), None);
    }

    #[tokio::test]
    async fn a_device_that_does_not_appear_is_named() {
        let address = Address::new(BLK, "1f.7/1f.7").expect("is an address");
        let limit = Duration::from_millis(1);
        let error = arrival(&[address], limit).await.expect_err("nothing is there").to_string();
        assert!(error.contains("1f.7/1f.7") && error.contains("within 0.001 s"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_block_device_is_refused_at_once() {
        let address = Address::new(BLK, "/dev/null").expect("is an address");
        let error = arrival(&[address], Duration::MAX).await.expect_err("a character device");
        assert!(matches!(error, BlockError::Other { .. }), "{error}");
    }
}
