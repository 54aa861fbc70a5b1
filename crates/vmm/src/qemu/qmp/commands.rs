//! The QMP commands that the driver sends, one small type each.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A QMP command: its fields are the arguments.
pub trait Command: Serialize + Send {
    /// The name on the wire.
    const NAME: &'static str;
    /// What QEMU returns. Unknown fields in it are ignored, so newer versions do no harm.
    type Reply: DeserializeOwned + Send;
}

/// Ends the negotiation; must be the first command.
#[derive(Debug, Serialize)]
pub struct QmpCapabilities {}

impl Command for QmpCapabilities {
    const NAME: &'static str = "qmp_capabilities";
    type Reply = IgnoredAny;
}

/// What the VM is doing.
#[derive(Debug, Serialize)]
pub struct QueryStatus {}

/// The reply to [`QueryStatus`].
#[derive(Debug, Deserialize)]
pub struct StatusInfo {
    /// Whether guest code runs.
    pub running: bool,
    /// QEMU's `RunState`, for example `prelaunch`, `paused`, `shutdown`.
    pub status: String,
}

impl Command for QueryStatus {
    const NAME: &'static str = "query-status";
    type Reply = StatusInfo;
}

/// Pauses all virtual CPUs.
#[derive(Debug, Serialize)]
pub struct Stop {}

impl Command for Stop {
    const NAME: &'static str = "stop";
    type Reply = IgnoredAny;
}

/// Lets the virtual CPUs run.
#[derive(Debug, Serialize)]
pub struct Cont {}

impl Command for Cont {
    const NAME: &'static str = "cont";
    type Reply = IgnoredAny;
}

/// Ends QEMU.
#[derive(Debug, Serialize)]
pub struct Quit {}

impl Command for Quit {
    const NAME: &'static str = "quit";
    type Reply = IgnoredAny;
}

/// Forgets and closes a named descriptor.
#[derive(Debug, Serialize)]
pub struct Closefd {
    /// Its name.
    pub fdname: String,
}

impl Command for Closefd {
    const NAME: &'static str = "closefd";
    type Reply = IgnoredAny;
}

/// Adds a network back end; the arguments are those of its type.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct NetdevAdd(pub Map<String, Value>);

impl Command for NetdevAdd {
    const NAME: &'static str = "netdev_add";
    type Reply = IgnoredAny;
}

/// Removes a network back end.
#[derive(Debug, Serialize)]
pub struct NetdevDel {
    /// Its id.
    pub id: String,
}

impl Command for NetdevDel {
    const NAME: &'static str = "netdev_del";
    type Reply = IgnoredAny;
}

/// Adds a device; the arguments are those of its driver.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct DeviceAdd(pub Map<String, Value>);

impl Command for DeviceAdd {
    const NAME: &'static str = "device_add";
    type Reply = IgnoredAny;
}

/// Asks the guest to let go of a device; [`super::DeviceDeleted`] tells when it has.
#[derive(Debug, Serialize)]
pub struct DeviceDel {
    /// The device's id.
    pub id: String,
}

impl Command for DeviceDel {
    const NAME: &'static str = "device_del";
    type Reply = IgnoredAny;
}

/// Gives a name to the file descriptor that comes along with the command.
#[derive(Debug, Serialize)]
pub struct Getfd {
    /// The name that later commands use for it.
    pub fdname: String,
}

impl Command for Getfd {
    const NAME: &'static str = "getfd";
    type Reply = IgnoredAny;
}
