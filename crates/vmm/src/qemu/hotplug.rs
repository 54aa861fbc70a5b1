//! Network cards that come and go while QEMU runs: each in a PCIe root port that was made at the start.

use std::os::fd::OwnedFd;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;

use super::lifecycle::Qemu;
use super::ports::NoPort;
use super::qmp::{Client, Closefd, DeviceAdd, DeviceDel, Getfd, NetdevAdd, NetdevDel, QmpError};
use super::{config, nic};
use crate::plan::{Nic, NicBackend};
use crate::vmm::{NicHotplug, Vmm, VmmError};

/// How long a guest may take to let go of a device.
pub(super) const REMOVAL_DEADLINE: Duration = Duration::from_secs(10);

#[async_trait]
impl NicHotplug for Qemu {
    async fn add_nic(&self, nic: Nic) -> Result<(), VmmError> {
        let client = self.client().await?;
        let id = nic.id.clone();
        let number = self.ports().take(&id, 0).map_err(|why| match why {
            NoPort::Taken => VmmError::NicExists { id: id.clone() },
            NoPort::Full(count) => VmmError::NoPort { count },
        })?;
        let added = add(&client, &config::port_id(number), nic).await;
        if added.is_err() {
            self.ports().free(&id);
        }
        Ok(added?)
    }

    async fn remove_nic(&self, id: &str) -> Result<(), VmmError> {
        let client = self.client().await?;
        match self.let_go(&client, id).await {
            Ok(true) => {}
            Ok(false) => {
                return Err(VmmError::NicInUse { id: id.to_owned(), deadline: REMOVAL_DEADLINE });
            }
            // The guest has let go since it was last asked.
            Err(VmmError::Control(error)) if error.is_device_not_found() && self.ports().holds(id) => {}
            Err(error) => return Err(error),
        }
        // Until the back end is gone too, the port is held: then the removal can be asked for again.
        match client.execute(NetdevDel { id: id.to_owned() }).await {
            Err(error) if !error.is_device_not_found() => return Err(error.into()),
            _ => {}
        }
        self.ports().free(id);
        Ok(())
    }
}

impl Qemu {
    /// Asks the guest to let go of a device and waits for it; `false` if it does not in time.
    pub(super) async fn let_go(&self, client: &Client, id: &str) -> Result<bool, VmmError> {
        let mut deleted = self.deleted();
        match client.execute(DeviceDel { id: id.to_owned() }).await {
            // Asked before, and not answered yet.
            Err(error) if error.is_unplug_pending() => {}
            asked => drop(asked?),
        }
        tokio::select! {
            gone = timeout(REMOVAL_DEADLINE, gone(&mut deleted, id)) => Ok(gone.is_ok()),
            exit = self.wait() => Err(VmmError::Gone(exit)),
        }
    }
}

/// Waits until the device is gone.
async fn gone(deleted: &mut Receiver<String>, id: &str) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match deleted.recv().await {
            Ok(device) if device != id => {}
            Err(RecvError::Lagged(_)) => {}
            Ok(_) | Err(RecvError::Closed) => return,
        }
    }
}

async fn add(client: &Client, port: &str, nic: Nic) -> Result<(), QmpError> {
    let card = nic::Card::of(&nic).to_json(port);
    let id = &nic.id;
    let (netdev, passed) = back_end(client, id, nic.backend).await?;
    let made = async {
        client.execute(NetdevAdd(netdev)).await?;
        let added = client.execute(DeviceAdd(card)).await;
        if added.is_err() {
            client.execute(NetdevDel { id: id.clone() }).await.ok();
        }
        added.map(drop)
    };
    let made = made.await;
    if made.is_err() {
        // Those that a back end took are gone already.
        for name in passed {
            client.execute(Closefd { fdname: name }).await.ok();
        }
    }
    made
}

/// The arguments of `netdev_add`, after its descriptors have been passed; and their names.
async fn back_end(
    client: &Client,
    id: &str,
    backend: NicBackend,
) -> Result<(Map<String, Value>, Vec<String>), QmpError> {
    let mut arguments = Map::from_iter([("id".to_owned(), json!(id))]);
    let mut passed = Vec::new();
    match backend {
        NicBackend::Tap { queues, vhost } => {
            arguments.insert("type".to_owned(), json!("tap"));
            for (key, fds) in [("fd", queues), ("vhostfd", vhost)] {
                if fds.is_empty() {
                    continue;
                }
                let names = pass(client, &format!("{id}-{key}"), fds).await?;
                let key = if names.len() > 1 { format!("{key}s") } else { key.to_owned() };
                arguments.insert(key, json!(names.join(":")));
                passed.extend(names);
            }
            arguments
                .insert("vhost".to_owned(), json!(arguments.keys().any(|key| key.starts_with("vhostfd"))));
        }
        NicBackend::User => {
            arguments.insert("type".to_owned(), json!("user"));
            arguments.insert("ipv6".to_owned(), json!(false));
        }
        NicBackend::VhostUser { .. } => {
            let description = "a vhost-user card can only be there from the start".to_owned();
            let class = "Unsupported".to_owned();
            return Err(QmpError::Refused { command: "netdev_add", class, description });
        }
    }
    Ok((arguments, passed))
}

async fn pass(client: &Client, stem: &str, fds: Vec<OwnedFd>) -> Result<Vec<String>, QmpError> {
    let mut names = Vec::new();
    for (number, fd) in fds.into_iter().enumerate() {
        let fdname = format!("{stem}{number}");
        client.execute_with_fds(Getfd { fdname: fdname.clone() }, vec![fd]).await?;
        names.push(fdname);
    }
    Ok(names)
}
