//! Memory that comes and goes while QEMU runs: a virtio-mem device that grows and shrinks, or memory modules.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::backend::{self, Taken};
use super::config;
use super::hotplug::REMOVAL_DEADLINE;
use super::lifecycle::Qemu;
use super::ports::NoPort;
use super::qmp::{
    Client, DeviceAdd, MemoryDevice, MemoryModule, ObjectAdd, ObjectDel, QmpError, QomSet,
    QueryMemoryDevices, VirtioMem,
};
use super::resize::Limits;
use crate::numa::Numa;
use crate::plan::GUEST_BLOCK_MIB;
use crate::vmm::{Vmm, VmmError};

/// The device id of the virtio-mem device of a node, without its number; that of node 0 has the port.
const VIRTIO_MEM: &str = "memory";
/// A memory block of the guest, in bytes.
const BLOCK: u64 = (GUEST_BLOCK_MIB as u64) << 20;

/// A device with memory behind it.
struct Device {
    id: String,
    /// In bytes.
    size: u64,
    properties: Map<String, Value>,
    taken: Taken,
    /// The guest's node that has it.
    node: usize,
}

impl Qemu {
    /// Asks the guest to use so many MiB beyond those of the boot, in whole blocks, evenly on its nodes.
    pub(super) async fn request_virtio_mem(&self, more_mib: u32) -> Result<u32, VmmError> {
        let client = self.client().await?;
        let devices = client.execute(QueryMemoryDevices {}).await?;
        let wanted = bytes(more_mib).next_multiple_of(self.block()).min(self.virtio_mem_size());
        if wanted > 0 {
            self.plug_virtio_mem(&client, &devices).await?;
        } else if virtio_mem(&devices).next().is_none() {
            return Ok(self.limits().memory_mib);
        }
        for node in self.nodes_that_grow() {
            let id = virtio_mem_id(node);
            if wanted == 0 && !has_virtio_mem(&devices, &id) {
                continue;
            }
            let (path, value) = (format!("/machine/peripheral/{id}"), self.share(wanted, node));
            client.execute(QomSet { path, property: "requested-size", value: json!(value) }).await?;
        }
        Ok(self.total_mib(wanted))
    }

    /// What the devices can grow to together.
    fn virtio_mem_size(&self) -> u64 {
        let limits = self.limits();
        bytes(limits.max_memory_mib - limits.memory_mib)
    }

    /// A node's part of memory in whole blocks.
    fn share(&self, bytes: u64, node: usize) -> u64 {
        self.limits().numa.share(bytes / self.block(), node) * self.block()
    }

    /// Those with a device; the first one has it if any has.
    fn nodes_that_grow(&self) -> impl DoubleEndedIterator<Item = usize> {
        let nodes = self.limits().numa.numbers();
        nodes.filter(|node| self.share(self.virtio_mem_size(), *node) > 0)
    }

    /// What memory comes in: blocks of the guest, and whole pages of the host.
    fn block(&self) -> u64 {
        self.limits().backing.unit().max(BLOCK)
    }

    /// Adds the devices that are not there. All are in one port, as its functions. The guest looks at it when the first of
    /// them comes, which is the last to be added.
    async fn plug_virtio_mem(&self, client: &Client, present: &[MemoryDevice]) -> Result<(), VmmError> {
        let absent = self.nodes_that_grow().rev();
        let absent: Vec<_> = absent.filter(|node| !has_virtio_mem(present, &virtio_mem_id(*node))).collect();
        // Those of a try that failed stay: QEMU takes none out.
        let mut is_first = virtio_mem(present).next().is_none();
        for node in absent {
            let port = self.memory_port()?;
            let mut device = self.virtio_mem_device(node, port);
            if is_first {
                insert_address(&mut device.properties, "memaddr", (present, self.block()));
            }
            let added = self.add_memory(client, device).await;
            // One that is not answered in time may come yet.
            if matches!(added, Err(QmpError::Refused { .. })) && is_first {
                self.ports().free(&virtio_mem_id(0));
            }
            added?;
            is_first = false;
        }
        Ok(())
    }

    /// The port for the devices of all nodes.
    fn memory_port(&self) -> Result<usize, VmmError> {
        let first = virtio_mem_id(0);
        if let Some(port) = self.ports().number(&first) {
            return Ok(port);
        }
        // The last port is for a controller of disks.
        let spare = usize::from(!self.disks().controller.initialized());
        self.ports().take(&first, spare).map_err(|why| VmmError::NoMemoryPort {
            count: if let NoPort::Full(count) = why { count } else { 0 },
        })
    }

    fn virtio_mem_device(&self, node: usize, port: usize) -> Device {
        let id = virtio_mem_id(node);
        let mut properties = properties([
            ("driver", json!("virtio-mem-pci")),
            ("id", json!(id)),
            ("bus", json!(config::port_id(port))),
            ("requested-size", json!(0)),
        ]);
        let Limits { backing, numa, .. } = self.limits();
        if !numa.is_none() {
            properties.insert("node".to_owned(), json!(node));
            properties.insert("addr".to_owned(), json!(format!("0.{node}")));
            properties.insert("multifunction".to_owned(), json!(true));
        }
        // Where the host may have less than the guest touches, a block that it has not is refused, and nobody dies of it.
        if backing.prealloc_threads > 0 || backing.may_run_out() {
            properties.insert("prealloc".to_owned(), json!(true));
        }
        // The host's memory is taken as the guest uses it, not promised before.
        let size = self.share(self.virtio_mem_size(), node);
        Device { id, size, properties, taken: Taken::ByDevice, node }
    }

    /// Adds a device with memory behind it, or nothing.
    async fn add_memory(&self, client: &Client, device: Device) -> Result<(), QmpError> {
        let Device { id, size, mut properties, taken, node } = device;
        let name = format!("{id}-ram");
        let Limits { backing, is_shared, numa, .. } = self.limits();
        let object = backend::object(backing, *is_shared, (&name, size), taken, numa.host_nodes(node));
        if let Err(error) = client.execute(ObjectAdd(object)).await {
            // It may come yet if it is not answered in time, and a second one of its name would be refused.
            if matches!(error, QmpError::Timeout { .. }) {
                client.execute(ObjectDel { id: name }).await.ok();
            }
            return Err(error);
        }
        properties.insert("memdev".to_owned(), json!(name));
        let added = client.execute(DeviceAdd(properties)).await;
        if added.is_err() {
            client.execute(ObjectDel { id: name }).await.ok();
        }
        added.map(drop)
    }

    /// Waits until the guest uses of the devices what it was asked to.
    pub(super) async fn virtio_mem_settled(&self, patience: Duration) -> Result<u32, VmmError> {
        let client = self.client().await?;
        let deadline = Instant::now() + patience;
        // Listening comes before looking.
        let mut changes = self.memory_changed();
        loop {
            let devices = client.execute(QueryMemoryDevices {}).await?;
            let sum = |size: fn(&VirtioMem) -> u64| self.total_mib(virtio_mem(&devices).map(size).sum());
            let (present, wanted) = (sum(|device| device.size), sum(|device| device.requested_size));
            if virtio_mem(&devices).all(|device| device.size == device.requested_size) {
                return Ok(present);
            }
            let changed = tokio::select! {
                // One that was missed is as good.
                changed = timeout_at(deadline, changes.recv()) => changed,
                exit = self.wait() => return Err(VmmError::Gone(exit)),
            };
            if changed.is_err() {
                return Err(VmmError::MemoryKept { present, wanted, patience });
            }
        }
    }

    /// Adds modules, or takes out those that are not needed, the last ones first.
    pub(super) async fn plug_modules(&self, more_mib: u32, slots: u8) -> Result<u32, VmmError> {
        let client = self.client().await?;
        let devices = client.execute(QueryMemoryDevices {}).await?;
        let wanted = bytes(more_mib);
        let mut modules: Vec<_> = modules(&devices).collect();
        modules.sort_by_key(|module| module.addr);
        let mut present = modules.iter().map(|module| module.size).sum::<u64>();
        if wanted > present {
            let parts = missing(&self.limits().numa, (wanted - present).div_ceil(self.block()), |node| {
                of_node(&modules, node as u64) / self.block()
            });
            let free = (0..slots).map(module_id).filter(|id| modules.iter().all(|module| !module.is(id)));
            let ids: Vec<_> = free.take(parts.len()).collect();
            if ids.len() < parts.len() {
                return Err(VmmError::NoMemorySlot { slots });
            }
            let mut is_first = modules.is_empty();
            for (id, (node, blocks)) in ids.into_iter().zip(parts) {
                let mut device = self.module(id, node, blocks * self.block());
                if std::mem::take(&mut is_first) {
                    insert_address(&mut device.properties, "addr", (&devices, self.block()));
                }
                present += device.size;
                self.add_memory(&client, device).await?;
            }
        }
        while let Some(last) = next_to_go(&modules, present.saturating_sub(wanted)) {
            let module = modules.remove(last);
            self.unplug_module(&client, module, present).await?;
            present -= module.size;
        }
        Ok(self.total_mib(present))
    }

    fn module(&self, id: String, node: usize, size: u64) -> Device {
        let mut properties = properties([("driver", json!("pc-dimm")), ("id", json!(id))]);
        if !self.limits().numa.is_none() {
            properties.insert("node".to_owned(), json!(node));
        }
        Device { id, size, properties, taken: Taken::AsPlanned, node }
    }

    async fn unplug_module(&self, client: &Client, module: &MemoryModule, all: u64) -> Result<(), VmmError> {
        let id = module.id.as_deref().unwrap_or_default();
        match self.let_go(client, id).await {
            Ok(true) => {}
            Ok(false) => {
                let (present, wanted) = (self.total_mib(all), self.total_mib(all - module.size));
                return Err(VmmError::MemoryKept { present, wanted, patience: REMOVAL_DEADLINE });
            }
            // The guest has let go since it was last asked.
            Err(VmmError::Control(error)) if error.is_device_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(client.execute(ObjectDel { id: format!("{id}-ram") }).await.map(drop)?)
    }

    /// What there is with the modules.
    pub(super) async fn memory_of_modules(&self) -> Result<u32, VmmError> {
        let devices = self.client().await?.execute(QueryMemoryDevices {}).await?;
        Ok(self.total_mib(modules(&devices).map(|module| module.size).sum()))
    }

    /// MiB, with the memory of the boot.
    fn total_mib(&self, more: u64) -> u32 {
        self.limits().memory_mib.saturating_add(u32::try_from(more >> 20).unwrap_or(u32::MAX))
    }
}

impl MemoryModule {
    fn is(&self, id: &str) -> bool {
        self.id.as_deref() == Some(id)
    }
}

fn bytes(mib: u32) -> u64 {
    u64::from(mib) << 20
}

fn module_id(number: u8) -> String {
    format!("dimm{number}")
}

fn properties<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

/// The guest takes whole blocks only. QEMU would begin right behind persistent memory, which has other sizes.
fn insert_address(device: &mut Map<String, Value>, property: &str, (others, block): (&[MemoryDevice], u64)) {
    let ends = others.iter().filter_map(|device| match device {
        MemoryDevice::VirtioPmem(memory) => Some(memory.memaddr + memory.size),
        _ => None,
    });
    if let Some(end) = ends.max() {
        device.insert(property.to_owned(), json!(end.next_multiple_of(block)));
    }
}

fn virtio_mem_id(node: usize) -> String {
    format!("{VIRTIO_MEM}{node}")
}

fn has_virtio_mem(devices: &[MemoryDevice], id: &str) -> bool {
    virtio_mem(devices).any(|device| device.id.as_deref() == Some(id))
}

fn virtio_mem(devices: &[MemoryDevice]) -> impl Iterator<Item = &VirtioMem> {
    devices.iter().filter_map(|device| match device {
        MemoryDevice::VirtioMem(device) if device.id.as_ref()?.starts_with(VIRTIO_MEM) => Some(device),
        _ => None,
    })
}

fn modules(devices: &[MemoryDevice]) -> impl Iterator<Item = &MemoryModule> {
    devices.iter().filter_map(|device| match device {
        MemoryDevice::Dimm(module) => Some(module),
        _ => None,
    })
}

/// What modules a node has, in bytes.
fn of_node(modules: &[&MemoryModule], node: u64) -> u64 {
    modules.iter().filter(|module| module.node == node).map(|module| module.size).sum()
}

/// What each node lacks of its share once there are so many blocks more; together that is as many. `has`: what it has now.
fn missing(numa: &Numa, more: u64, has: impl Fn(usize) -> u64) -> Vec<(usize, u64)> {
    let all = more + numa.numbers().map(&has).sum::<u64>();
    let mut left = more;
    let parts = numa.numbers().map(|node| {
        let part = numa.share(all, node).saturating_sub(has(node)).min(left);
        left -= part;
        (node, part)
    });
    parts.filter(|(_, part)| *part > 0).collect()
}

/// The module to take out first of those that are sorted, if so much is too much: the last of the node that has most.
fn next_to_go(modules: &[&MemoryModule], surplus: u64) -> Option<usize> {
    let last = |(place, module): &(usize, &&MemoryModule)| {
        module.size <= surplus && modules[place + 1..].iter().all(|later| later.node != module.node)
    };
    let places = modules.iter().enumerate().filter(last);
    places.max_by_key(|(place, module)| (of_node(modules, module.node), *place)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numa::NumaNode;

    fn two_nodes() -> Numa {
        let node = |number: u32| NumaNode {
            memory_mib: 128,
            host_nodes: vec![number],
            host_cpus: vec![number],
            distances: vec![10, 20],
        };
        Numa(vec![node(0), node(1)])
    }

    #[test]
    fn what_is_added_makes_nodes_even() {
        let missing = |more, has: [u64; 2]| missing(&two_nodes(), more, |node| has[node]);
        assert_eq!(missing(5, [0, 0]), [(0, 3), (1, 2)]);
        assert_eq!(missing(1, [3, 2]), [(1, 1)]);
        assert_eq!(missing(2, [4, 1]), [(1, 2)], "the other has more than its share");
        assert_eq!(super::missing(&Numa::default(), 3, |_| 2), [(0, 3)]);
    }

    #[test]
    fn the_last_module_of_the_fullest_node_goes_first() {
        let module = |node, size| MemoryModule { id: None, addr: 0, size, node };
        let next =
            |modules: &[MemoryModule], surplus| next_to_go(&modules.iter().collect::<Vec<_>>(), surplus);
        let even = [module(0, 1), module(1, 1), module(0, 1), module(1, 1)];
        assert_eq!((next(&even, 4), next(&even[..3], 4), next(&even, 0)), (Some(3), Some(2), None));
        let large = [module(0, 1), module(0, 3), module(1, 2)];
        assert_eq!(next(&large, 2), Some(2), "the last one of node 0 would be too much");
        assert_eq!(next(&large[..2], 2), None, "only the last ones go");
    }
}
