//! The task that owns the cards.

use std::sync::{Arc, Weak};

use kata_network::{GuestNetwork, Request, View, Watch};
use kata_protocol::types::Interface;
use tokio::sync::mpsc;

use super::{Card, Connections, Message};
use crate::agent::Agent;
use crate::error::{Result, SandboxError as Error, chain};
use crate::host::Machine;
use crate::network::changes::{Change, Changes};
use crate::network::{NetworkFailure, card, card_id};

pub(super) struct Owner {
    request: Request,
    cards: Vec<Card>,
    changes: Changes,
    /// What the guest has been told of the network; `None`: it is not known what it has.
    told: Option<GuestNetwork>,
    /// The machine has the task's sender: with a share in it this task would never end.
    followed: Option<(Weak<Machine>, Agent)>,
    /// What could not be followed. Trying changes links of the namespace, which must not be a reason to try again.
    failed: Option<View>,
}

impl Owner {
    pub(super) fn new(request: Request, cards: Vec<Card>) -> Self {
        Self { request, cards, changes: Changes::default(), told: None, followed: None, failed: None }
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>, watch: Watch) {
        let mut watch = Some(watch);
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) if self.followed.is_some() => watch.changed().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.answer(message).await,
                    None => return,
                },
                changed = changed => match changed {
                    Ok(()) => self.follow().await,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "Changes of the pod's network are not seen any more");
                        watch = None;
                    }
                },
            }
        }
    }

    /// Who asked may have given up.
    async fn answer(&mut self, message: Message) {
        match message {
            Message::Refresh { machine, reply } => drop(reply.send(self.refresh(&machine).await)),
            Message::Follow { machine, agent, told } => {
                self.told = Some(told);
                self.followed = Some((Arc::downgrade(&machine), agent));
            }
            Message::Update { reply } => drop(reply.send(self.update().await.map(drop))),
            Message::Change { change, reply } => drop(reply.send(self.change(change).await)),
            Message::Connections { reply } => drop(reply.send(self.connections())),
        }
    }

    /// Something has changed.
    async fn follow(&mut self) {
        let view = kata_network::look(&self.request.netns).await.ok();
        if view.is_some() && view == self.failed {
            return;
        }
        self.failed = None;
        match self.update().await {
            Ok(true) => tracing::info!(
                interfaces = self.cards.len(),
                "The guest follows a change of the pod's network"
            ),
            Ok(false) | Err(Error::Gone { .. } | Error::Closed) => {}
            Err(error) => {
                self.failed = view;
                let error = chain(&error);
                tracing::warn!(error, "The guest does not follow a change of the pod's network");
            }
        }
    }

    async fn change(&mut self, change: Change) -> Result<()> {
        let view = kata_network::look(&self.request.netns).await.map_err(NetworkFailure::from)?;
        self.changes.forget_gone(&view);
        let before = self.changes.clone();
        self.changes.make(change, &view)?;
        let changed = self.update().await;
        if changed.is_err() {
            self.changes = before;
            if let Err(error) = self.update().await {
                tracing::warn!(
                    error = chain(&error),
                    "The pod's network is not as before a change that failed"
                );
            }
        }
        changed.map(drop)
    }

    fn connections(&self) -> Connections {
        self.cards.iter().map(|card| (card.mac.clone(), card.device.clone())).collect()
    }

    /// Whether the guest had to be told something.
    async fn update(&mut self) -> Result<bool> {
        let (machine, agent) = self.followed.clone().ok_or(Error::Starting)?;
        let machine = machine.upgrade().ok_or(Error::Closed)?;
        let wanted = self.refresh(&machine).await?;
        if self.told.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        // What is told in part is not known.
        let told = self.told.take();
        agent.change_network(&wanted, told.as_ref()).await?;
        self.told = Some(wanted);
        Ok(true)
    }

    /// Has the VM have the cards that it shall; what the guest is to be told.
    async fn refresh(&mut self, machine: &Machine) -> std::result::Result<GuestNetwork, NetworkFailure> {
        let view = kata_network::look(&self.request.netns).await?;
        self.changes.forget_gone(&view);
        let is_of = |card: &Card, (index, interface): &(u32, &Interface)| {
            (card.index, &card.device, &card.mac) == (*index, &interface.device, &interface.hwAddr)
        };
        let shall: Vec<_> = self.changes.attached(&view).collect();
        let gone = self.cards.iter().filter(|card| !shall.iter().any(|interface| is_of(card, interface)));
        let gone: Vec<u32> = gone.map(|card| card.index).collect();
        let come = shall.iter().filter(|interface| !self.cards.iter().any(|card| is_of(card, interface)));
        let come: Vec<String> = come.map(|(_, interface)| interface.device.clone()).collect();
        for index in gone {
            self.unplug(machine, index).await?;
        }
        for device in come {
            self.plug(machine, &device).await?;
        }
        Ok(self.changes.wanted(&view))
    }

    async fn plug(&mut self, machine: &Machine, device: &str) -> std::result::Result<(), NetworkFailure> {
        let hotplug = machine.vmm.nic_hotplug().ok_or(NetworkFailure::NoHotplug)?;
        let (nic, _) = kata_network::attach_interface(&self.request, device).await?;
        let plugged = Card::of(&nic);
        if let Err(source) = hotplug.add_nic(card(nic)).await {
            kata_network::release(&*self.request.intents, plugged.announced)?;
            return Err(NetworkFailure::Plug { interface: device.to_owned(), source });
        }
        tracing::info!(interface = device, "Plugged in a network card");
        self.cards.push(plugged);
        Ok(())
    }

    /// With its card the guest loses what it was told of it.
    async fn unplug(&mut self, machine: &Machine, index: u32) -> std::result::Result<(), NetworkFailure> {
        let hotplug = machine.vmm.nic_hotplug().ok_or(NetworkFailure::NoHotplug)?;
        let Some(at) = self.cards.iter().position(|card| card.index == index) else { return Ok(()) };
        let removed = hotplug.remove_nic(&card_id(index)).await;
        let Card { device, mac, announced, .. } = self.cards[at].clone();
        removed.map_err(|source| NetworkFailure::Plug { interface: device.clone(), source })?;
        self.cards.remove(at);
        tracing::info!(interface = device, "Took out a network card");
        if let Some(told) = &mut self.told {
            forget(told, &mac);
        }
        Ok(kata_network::release(&*self.request.intents, announced)?)
    }
}

/// Forgets the interface with that hardware address, and what leads through it.
fn forget(told: &mut GuestNetwork, mac: &str) {
    let Some(at) = told.interfaces.iter().position(|interface| interface.hwAddr == mac) else { return };
    let name = told.interfaces.remove(at).name;
    told.routes.retain(|route| route.device != name);
    told.neighbors.retain(|neighbor| neighbor.device != name);
}
