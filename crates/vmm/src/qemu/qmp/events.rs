//! QMP events: kept as they came, decoded only by who wants them.
//!
//! An event that this version does not know, or one with new fields, is therefore never an error.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// When QEMU sent an event, by the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970, or -1 if QEMU could not read the clock.
    pub seconds: i64,
    /// Microseconds within the second.
    pub microseconds: i64,
}

/// An event as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, for example `SHUTDOWN`.
    pub name: String,
    /// Its data; `null` if it has none.
    pub data: Value,
    /// When it was sent, if it said so.
    pub timestamp: Option<Timestamp>,
}

/// The data of an event of a known name.
pub trait EventData: DeserializeOwned {
    /// The event's name.
    const NAME: &'static str;
}

impl Event {
    /// The event's data if it is a `T`; `None` if it is another event or its data does not fit.
    #[must_use]
    pub fn decode<T: EventData>(&self) -> Option<T> {
        if self.name != T::NAME {
            return None;
        }
        T::deserialize(&self.data).ok()
    }
}

/// The guest opened or closed a virtio-serial port.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct VserportChange {
    /// The port's device id on the command line.
    pub id: String,
    /// Whether it is open now.
    pub open: bool,
}

impl EventData for VserportChange {
    const NAME: &'static str = "VSERPORT_CHANGE";
}

/// The VM stops.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Shutdown {
    /// Whether the guest wanted it.
    pub guest: bool,
    /// QEMU's `ShutdownCause`, for example `guest-shutdown`, `host-qmp-quit`.
    pub reason: String,
}

impl EventData for Shutdown {
    const NAME: &'static str = "SHUTDOWN";
}

/// The name of the event that tells that the virtual CPUs are stopped, be it on request or for a failure. It has no data.
pub const STOP: &str = "STOP";

/// The guest's kernel reported a panic.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct GuestPanicked {
    /// What QEMU does about it: `pause`, `poweroff` or `run`.
    pub action: String,
}

impl EventData for GuestPanicked {
    const NAME: &'static str = "GUEST_PANICKED";
}

/// A device that was to be removed is gone.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct DeviceDeleted {
    /// Its id, if it has one.
    pub device: Option<String>,
}

impl EventData for DeviceDeleted {
    const NAME: &'static str = "DEVICE_DELETED";
}

/// The size of a memory device has changed. QEMU tells the first change at once, and what came of more of them a second
/// later.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct MemoryDeviceSizeChange {
    /// The device's id, if it has one.
    pub id: Option<String>,
    /// What the guest uses of it now, in bytes.
    pub size: u64,
}

impl EventData for MemoryDeviceSizeChange {
    const NAME: &'static str = "MEMORY_DEVICE_SIZE_CHANGE";
}
