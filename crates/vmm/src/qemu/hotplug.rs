//! Network cards that come and go while QEMU runs: each in a PCIe root port that was made at the start.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;

use super::lifecycle::Qemu;
use super::qmp::{Client, Closefd, DeviceAdd, DeviceDel, Getfd, NetdevAdd, NetdevDel, QmpError};
use super::{config, nic};
use crate::plan::{Nic, NicBackend};
use crate::vmm::{NicHotplug, VmmError};

/// How long a guest may take to let go of a card.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(10);

/// Which card is in which port.
#[derive(Debug, Default)]
pub(super) struct Ports(std::sync::Mutex<Vec<Option<String>>>);

impl Ports {
    /// So many, with the first of `nics` in them.
    pub(super) fn of(count: u8, nics: &[Nic]) -> Self {
        let count = usize::from(count);
        let mut ports: Vec<_> = nics.iter().take(count).map(|nic| Some(nic.id.clone())).collect();
        ports.resize(count, None);
        Self(std::sync::Mutex::new(ports))
    }

    /// Takes an empty one for the card `id`; its number.
    fn take(&self, id: &str) -> Result<usize, VmmError> {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ports.iter().flatten().any(|used| used == id) {
            return Err(VmmError::NicExists { id: id.to_owned() });
        }
        let count = ports.len();
        let found = ports.iter_mut().enumerate().find(|(_, used)| used.is_none());
        let (number, port) = found.ok_or(VmmError::NoPort { count })?;
        *port = Some(id.to_owned());
        Ok(number)
    }

    fn free(&self, id: &str) {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ports.iter_mut().filter(|used| used.as_deref() == Some(id)).for_each(|used| *used = None);
    }
}

#[async_trait]
impl NicHotplug for Qemu {
    async fn add_nic(&self, nic: Nic) -> Result<(), VmmError> {
        let client = self.client().await?;
        let id = nic.id.clone();
        let number = self.ports().take(&id)?;
        let added = add(&client, &config::port_id(number), nic).await;
        if added.is_err() {
            self.ports().free(&id);
        }
        Ok(added?)
    }

    async fn remove_nic(&self, id: &str) -> Result<(), VmmError> {
        let client = self.client().await?;
        let mut deleted = self.deleted();
        client.execute(DeviceDel { id: id.to_owned() }).await?;
        if timeout(REMOVAL_DEADLINE, gone(&mut deleted, id)).await.is_err() {
            return Err(VmmError::NicInUse { id: id.to_owned(), deadline: REMOVAL_DEADLINE });
        }
        self.ports().free(id);
        Ok(client.execute(NetdevDel { id: id.to_owned() }).await.map(drop)?)
    }
}

/// Waits until the device is gone; or QEMU is, and the device with it.
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
