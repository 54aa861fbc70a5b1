//! Disks that come and go while QEMU runs: each in a PCIe root port, or on a SCSI controller that is in one.

use async_trait::async_trait;

use super::config;
use super::disk::{Drive, Parts, Place, device_id};
use super::hotplug::REMOVAL_DEADLINE;
use super::lifecycle::Qemu;
use super::ports::NoPort;
use super::qmp::{
    AddFd, BlockResize, BlockdevAdd, BlockdevDel, Client, DeviceAdd, ObjectAdd, ObjectDel, QmpError,
    QueryNamedBlockNodes, RemoveFd,
};
use crate::plan::Disk;
use crate::vmm::{DiskAddress, DiskHotplug, VmmError};

#[async_trait]
impl DiskHotplug for Qemu {
    async fn add_disk(&self, disk: Disk) -> Result<DiskAddress, VmmError> {
        let client = self.client().await?;
        let drive = Drive::of(self.disks().number(), disk)?;
        let id = drive.id().to_owned();
        let place = self.disks().reserve(&drive, self.ports())?;
        let added = self.plug(&client, drive, place).await;
        if added.is_err() {
            self.disks().forget(&id, self.ports());
        }
        added.map(|()| place.address())
    }

    async fn remove_disk(&self, id: &str) -> Result<(), VmmError> {
        let client = self.client().await?;
        let known = self.disks().find_removable(id)?;
        match self.let_go(&client, &device_id(id)).await {
            Ok(true) => {}
            Ok(false) => {
                return Err(VmmError::DiskInUse { id: id.to_owned(), deadline: REMOVAL_DEADLINE });
            }
            // The guest has let go since it was last asked, or the disk was only half there.
            Err(VmmError::Control(error)) if error.is_device_not_found() => {}
            Err(error) => return Err(error),
        }
        let dismantled = dismantle(&client, known.parts).await;
        self.disks().forget(id, self.ports());
        dismantled.map_err(refused("remove", id))
    }

    async fn resize_disk(&self, id: &str, bytes: u64) -> Result<(), VmmError> {
        let client = self.client().await?;
        let known = self.disks().find_resizable(id)?;
        let node_name = known.parts.top_node();
        let nodes = client.execute(QueryNamedBlockNodes { flat: true }).await?;
        let node = nodes.into_iter().find(|node| node.node_name == node_name);
        let present = node.ok_or_else(|| VmmError::NoDisk { id: id.to_owned() })?.image.virtual_size;
        if bytes < present {
            return Err(VmmError::DiskShrinks { id: id.to_owned(), present, wanted: bytes });
        }
        if bytes == present {
            return Ok(());
        }
        let resized = client.execute(BlockResize { node_name, size: bytes }).await;
        resized.map(drop).map_err(refused("resize", id))
    }

    fn disk_address(&self, id: &str) -> Option<DiskAddress> {
        self.disks().address(id)
    }
}

impl Qemu {
    /// Makes the disk in its place, or nothing.
    async fn plug(&self, client: &Client, drive: Drive, place: Place) -> Result<(), VmmError> {
        let id = drive.id().to_owned();
        if matches!(place, Place::Unit(_)) {
            self.disks().controller.get_or_try_init(|| self.plug_controller(client, &drive)).await?;
        }
        let parts = drive.parts;
        let added = assemble(client, drive, place).await;
        if added.is_err() {
            // What was not made cannot be removed.
            dismantle(client, parts).await.ok();
        }
        added.map_err(refused("add", &id))
    }

    async fn plug_controller(&self, client: &Client, drive: &Drive) -> Result<(), VmmError> {
        let port = self.ports().take(config::SCSI_ID, 0).map_err(|why| {
            let ports = if let NoPort::Full(count) = why { count } else { 0 };
            VmmError::NoRoomForDisk { id: drive.id().to_owned(), ports }
        })?;
        let added = client.execute(DeviceAdd(drive.controller(&config::port_id(port)))).await;
        if added.is_err() {
            self.ports().free(config::SCSI_ID);
        }
        added.map(drop).map_err(refused("add", drive.id()))
    }
}

async fn assemble(client: &Client, drive: Drive, place: Place) -> Result<(), QmpError> {
    let (parts, limits, nodes, device) = (drive.parts, drive.limits(), drive.nodes(), drive.device(place));
    client.execute_with_fds(AddFd { fdset_id: parts.fdset() }, vec![drive.into_file()]).await?;
    if let Some(limits) = limits {
        client.execute(ObjectAdd(limits)).await?;
    }
    for node in nodes {
        client.execute(BlockdevAdd(node)).await?;
    }
    client.execute(DeviceAdd(device)).await.map(drop)
}

/// Removes what [`assemble`] has made besides the device, as far as it is there; the first failure.
async fn dismantle(client: &Client, parts: Parts) -> Result<(), QmpError> {
    let mut first = Ok(());
    let mut nodes = vec![parts.top_node()];
    nodes.extend(parts.limited.then(|| parts.file_node()));
    for node_name in nodes {
        first = first.and(client.execute(BlockdevDel { node_name }).await.map(drop));
    }
    if parts.limited {
        first = first.and(client.execute(ObjectDel { id: parts.limits() }).await.map(drop));
    }
    first.and(client.execute(RemoveFd { fdset_id: parts.fdset() }).await.map(drop))
}

fn refused(what: &'static str, id: &str) -> impl FnOnce(QmpError) -> VmmError {
    move |source| VmmError::DiskRefused { what, id: id.to_owned(), source: Box::new(source) }
}
