//! Which disks a VM has, and where.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use super::config;
use super::disk::{DiskError, Drive, Parts, Place, device_id};
use super::ports::{NoPort, Ports};
use crate::plan::{Disk, DiskAttachment};
use crate::vmm::{DiskAddress, VmmError};

/// The plan's disks, each in its place.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) drives: Vec<(Drive, Place)>,
    /// Whether there is a SCSI controller from the start.
    pub(super) controller: bool,
}

impl Layout {
    /// Examines the plan's disks and gives each a place: a slot of the root bus, or a unit of the controller.
    ///
    /// # Errors
    /// A disk that QEMU could not use, two of the same name, or too many.
    pub(super) fn of(disks: Vec<Disk>, controller: bool) -> Result<Self, VmmError> {
        let mut layout = Self { drives: Vec::new(), controller };
        let (mut slots, mut units) = (slots(), 0..config::SCSI_UNITS);
        let mut memories = 0..;
        for (disk, number) in disks.into_iter().zip(0..) {
            let drive = Drive::of(number, disk)?;
            if layout.drives.iter().any(|(other, _)| other.id() == drive.id()) {
                return Err(VmmError::DiskExists { id: drive.id().to_owned() });
            }
            let slot = (drive.attachment() != DiskAttachment::Scsi).then(|| slots.next()).flatten();
            let place = match slot {
                Some(slot) if drive.pmem_size().is_some() => {
                    memories.next().map(|index| Place::Memory { slot, index })
                }
                Some(slot) => Some(Place::Slot(slot)),
                None => units.next().map(Place::Unit),
            };
            let place =
                place.ok_or_else(|| VmmError::NoRoomForDisk { id: drive.id().to_owned(), ports: 0 })?;
            layout.controller |= matches!(place, Place::Unit(_));
            layout.drives.push((drive, place));
        }
        Ok(layout)
    }

    /// Bytes of the guest's address space that persistent memory takes.
    pub(super) fn pmem_size(&self) -> u64 {
        let memories = self.drives.iter().filter(|(_, place)| matches!(place, Place::Memory { .. }));
        memories.filter_map(|(drive, _)| drive.pmem_size()).sum()
    }
}

fn slots() -> std::ops::Range<u8> {
    config::slot::DISKS..config::slot::DISKS + config::slot::DISK_COUNT
}

/// The disks of a running VM.
#[derive(Debug, Default)]
pub(super) struct Disks {
    known: Mutex<BTreeMap<String, Known>>,
    numbers: AtomicU32,
    /// Set when the SCSI controller is there.
    pub(super) controller: OnceCell<()>,
}

/// What must be known of a disk to take it out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) parts: Parts,
    pub(super) place: Place,
}

impl Disks {
    pub(super) fn of(layout: &Layout) -> Self {
        let known = layout.drives.iter();
        let known =
            known.map(|(drive, place)| (drive.id().to_owned(), Known { parts: drive.parts, place: *place }));
        let known: BTreeMap<_, _> = known.collect();
        Self {
            numbers: AtomicU32::new(u32::try_from(known.len()).unwrap_or(u32::MAX)),
            known: Mutex::new(known),
            controller: OnceCell::new_with(layout.controller.then_some(())),
        }
    }

    /// A number that no disk has had.
    pub(super) fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Finds a place for a disk and keeps it until [`Disks::forget`].
    pub(super) fn reserve(&self, drive: &Drive, ports: &Ports) -> Result<Place, VmmError> {
        let id = drive.id().to_owned();
        let mut known = self.lock();
        if known.contains_key(&id) {
            return Err(VmmError::DiskExists { id });
        }
        let full = |ports| VmmError::NoRoomForDisk { id: id.clone(), ports };
        let place = match drive.attachment() {
            DiskAttachment::Scsi => None,
            DiskAttachment::Blk | DiskAttachment::Pmem => {
                // The last port is for the controller, which has room for many more.
                let spare = usize::from(!self.controller.initialized());
                match ports.take(&device_id(&id), spare) {
                    Ok(number) => Some(Place::Port(number)),
                    Err(NoPort::Taken) => return Err(VmmError::DiskExists { id }),
                    Err(NoPort::Full(_)) => None,
                }
            }
        };
        let unit = || {
            let used = |unit| known.values().any(|other| other.place == Place::Unit(unit));
            (0..config::SCSI_UNITS).find(|unit| !used(*unit)).map(Place::Unit)
        };
        let place = place.or_else(unit).ok_or_else(|| full(0))?;
        known.insert(id, Known { parts: drive.parts, place });
        Ok(place)
    }

    /// The disk is gone, and its port is empty.
    pub(super) fn forget(&self, id: &str, ports: &Ports) {
        self.lock().remove(id);
        ports.free(&device_id(id));
    }

    pub(super) fn find(&self, id: &str) -> Result<Known, VmmError> {
        self.lock().get(id).copied().ok_or_else(|| VmmError::NoDisk { id: id.to_owned() })
    }

    /// The same for a disk that can be taken out.
    pub(super) fn find_removable(&self, id: &str) -> Result<Known, VmmError> {
        let known = self.find(id)?;
        match known.place {
            Place::Slot(_) | Place::Memory { .. } => Err(VmmError::DiskStays { id: id.to_owned() }),
            Place::Port(_) | Place::Unit(_) => Ok(known),
        }
    }

    /// The same for a disk that can grow.
    pub(super) fn find_resizable(&self, id: &str) -> Result<Known, VmmError> {
        let known = self.find(id)?;
        match known.place {
            Place::Memory { .. } => Err(VmmError::Disk { id: id.to_owned(), source: DiskError::PmemResize }),
            Place::Slot(_) | Place::Port(_) | Place::Unit(_) => Ok(known),
        }
    }

    pub(super) fn address(&self, id: &str) -> Option<DiskAddress> {
        self.lock().get(id).map(|known| known.place.address())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
