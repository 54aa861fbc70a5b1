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

/// Adds an object; the arguments are its type, its id and its properties.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ObjectAdd(pub Map<String, Value>);

impl Command for ObjectAdd {
    const NAME: &'static str = "object-add";
    type Reply = IgnoredAny;
}

/// Removes an object.
#[derive(Debug, Serialize)]
pub struct ObjectDel {
    /// Its id.
    pub id: String,
}

impl Command for ObjectDel {
    const NAME: &'static str = "object-del";
    type Reply = IgnoredAny;
}

/// Adds a block node; the arguments are those of its driver.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct BlockdevAdd(pub Map<String, Value>);

impl Command for BlockdevAdd {
    const NAME: &'static str = "blockdev-add";
    type Reply = IgnoredAny;
}

/// Removes a block node that nothing uses.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevDel {
    /// Its name.
    pub node_name: String,
}

impl Command for BlockdevDel {
    const NAME: &'static str = "blockdev-del";
    type Reply = IgnoredAny;
}

/// Changes the size of a block node, and tells its device.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockResize {
    /// Its name.
    pub node_name: String,
    /// Its new size in bytes.
    pub size: u64,
}

impl Command for BlockResize {
    const NAME: &'static str = "block_resize";
    type Reply = IgnoredAny;
}

/// All block nodes.
#[derive(Debug, Serialize)]
pub struct QueryNamedBlockNodes {
    /// Without what is below each.
    pub flat: bool,
}

/// One of the reply to [`QueryNamedBlockNodes`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockNode {
    /// Its name.
    pub node_name: String,
    /// Whether it can only be read.
    pub ro: bool,
    /// What it shows.
    pub image: BlockImage,
}

/// What a block node shows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockImage {
    /// The size in bytes that a guest sees.
    pub virtual_size: u64,
}

impl Command for QueryNamedBlockNodes {
    const NAME: &'static str = "query-named-block-nodes";
    type Reply = Vec<BlockNode>;
}

/// Puts the file descriptor that comes along into a set, which is opened as `/dev/fdset/N`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AddFd {
    /// The set's number; it is made if there is none.
    pub fdset_id: u32,
}

impl Command for AddFd {
    const NAME: &'static str = "add-fd";
    type Reply = IgnoredAny;
}

/// Closes a set's descriptors.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoveFd {
    /// The set's number.
    pub fdset_id: u32,
}

impl Command for RemoveFd {
    const NAME: &'static str = "remove-fd";
    type Reply = IgnoredAny;
}

/// The CPUs that there are, and those that can be added.
#[derive(Debug, Serialize)]
pub struct QueryHotpluggableCpus {}

/// One of the reply to [`QueryHotpluggableCpus`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HotpluggableCpu {
    /// The driver to add it with.
    pub r#type: String,
    /// Where it is, in the properties to add it with.
    pub props: Map<String, Value>,
    /// Its path; none while it can be added.
    pub qom_path: Option<String>,
}

impl Command for QueryHotpluggableCpus {
    const NAME: &'static str = "query-hotpluggable-cpus";
    type Reply = Vec<HotpluggableCpu>;
}

/// The virtual CPUs that there are, without asking them anything.
#[derive(Debug, Serialize)]
pub struct QueryCpusFast {}

/// One of the reply to [`QueryCpusFast`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VcpuThread {
    /// Its number, from 0.
    pub cpu_index: u64,
    /// Its thread on the host; several may take turns on one.
    pub thread_id: i32,
}

impl Command for QueryCpusFast {
    const NAME: &'static str = "query-cpus-fast";
    type Reply = Vec<VcpuThread>;
}

/// Memory that is not the machine's own.
#[derive(Debug, Serialize)]
pub struct QueryMemoryDevices {}

/// One of the reply to [`QueryMemoryDevices`]: its kind, and what QEMU says of it.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum MemoryDevice {
    /// A memory module.
    Dimm(MemoryModule),
    /// A virtio-mem device.
    VirtioMem(VirtioMem),
    /// A virtio-pmem device.
    VirtioPmem(PersistentMemory),
    /// Anything else.
    #[serde(other, deserialize_with = "ignored")]
    Other,
}

/// A memory module.
#[derive(Debug, Deserialize)]
pub struct MemoryModule {
    /// The device's id, if it has one.
    pub id: Option<String>,
    /// Where it begins in the guest's memory.
    pub addr: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The guest's NUMA node that has it.
    pub node: u64,
}

/// A virtio-mem device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioMem {
    /// The device's id, if it has one.
    pub id: Option<String>,
    /// What the guest uses of it, in bytes.
    pub size: u64,
    /// What the guest shall use of it.
    pub requested_size: u64,
    /// What both are multiples of.
    pub block_size: u64,
}

/// A virtio-pmem device.
#[derive(Debug, Deserialize)]
pub struct PersistentMemory {
    /// Where it begins in the guest's memory.
    pub memaddr: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Leaves what is said of a device that nobody asks about.
fn ignored<'de, D: serde::Deserializer<'de>>(data: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(data).map(drop)
}

impl Command for QueryMemoryDevices {
    const NAME: &'static str = "query-memory-devices";
    type Reply = Vec<MemoryDevice>;
}

/// Sets a property of an object.
#[derive(Debug, Serialize)]
pub struct QomSet {
    /// The object's path.
    pub path: String,
    /// The property's name.
    pub property: &'static str,
    /// Its new value.
    pub value: Value,
}

impl Command for QomSet {
    const NAME: &'static str = "qom-set";
    type Reply = IgnoredAny;
}
