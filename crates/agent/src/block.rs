//! Block devices by their addresses: places on the PCI bus, targets of a SCSI controller, names in `/dev`.
//!
//! A device may be about to appear: it was plugged in when the request came. The kernel finds it by itself, behind a port of
//! the PCI bus (told by ACPI), and announces it when it can be opened. A SCSI controller is asked for the unit itself: the
//! kernel, if it may look by itself (`scsi_mod.scan`), asks for 256 targets first, at up to 20 ms each, and whatever is
//! plugged in meanwhile waits. Nothing here runs unless a request names a block device.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

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
/// The SCSI controllers, as `host0`.
const SCSI_HOSTS: &str = "/sys/class/scsi_host";

/// A host that needs longer to show a disk to its guest has too much to do.
const SLOW: Duration = Duration::from_millis(500);

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

    /// Asks each SCSI controller that does not know this unit for it. Takes milliseconds; a unit that is there is known
    /// after that.
    fn ask_for(&self) {
        let Self::Scsi { id, lun } = self else { return };
        for scan in scans(Path::new(SCSI_HOSTS), Path::new(SCSI_DEVICES), *id, *lun) {
            if let Err(error) = fs::write(&scan, format!("0 {id} {lun}")) {
                tracing::debug!(scan = %scan.display(), %error, "A SCSI controller cannot be asked");
            }
        }
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

/// The files by which controllers are asked for a unit: of those that do not know it.
fn scans(hosts: &Path, devices: &Path, id: u8, lun: u16) -> Vec<PathBuf> {
    let asked = |host: PathBuf| {
        let number = host.file_name()?.to_str()?.strip_prefix("host")?.to_owned();
        (!devices.join(format!("{number}:0:{id}:{lun}")).exists()).then(|| host.join("scan"))
    };
    entries(hosts).into_iter().filter_map(asked).collect()
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
        loop {
            ask_for_missing(addresses).await;
            if all(addresses)?.is_ok() {
                break;
            }
            announcements::next(&events).await.map_err(BlockError::Watch)?;
        }
        Ok(())
    };
    let begun = Instant::now();
    if let Ok(watched) = tokio::time::timeout(limit, waiting).await {
        watched?;
    }
    if begun.elapsed() > SLOW {
        tracing::warn!(seconds = begun.elapsed().as_secs_f32(), "A disk is slow to appear");
    }
    all(addresses)?.map_err(|address| BlockError::Absent { address: address.clone(), limit })
}

/// Asks whoever can be asked for what is not there yet. A controller may be about to appear, too.
async fn ask_for_missing(addresses: &[Address]) {
    let missing: Vec<_> = addresses
        .iter()
        .filter(|a| matches!(a, Address::Scsi { .. }) && a.path().is_none())
        .cloned()
        .collect();
    if !missing.is_empty() {
        let asked = tokio::task::spawn_blocking(move || missing.iter().for_each(Address::ask_for));
        // It is neither cancelled nor does it panic; what is missing in the end is said.
        let _ = asked.await;
    }
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

    #[test]
    fn only_controllers_that_do_not_know_a_unit_are_asked_for_it() {
        let sys = tempfile::tempdir().expect("temporary folder");
        for path in ["hosts/host0", "hosts/host12", "hosts/other", "devices/0:0:0:3", "devices/12:0:0:13"] {
            fs::create_dir_all(sys.path().join(path)).expect("folders");
        }
        let asked = scans(&sys.path().join("hosts"), &sys.path().join("devices"), 0, 3);
        assert_eq!(asked, [sys.path().join("hosts/host12/scan")]);
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
