//! The network cards of a running VM. One task owns them: it looks at the pod's namespace when it is asked to and when
//! something has changed there, plugs cards in for interfaces that have come, and takes out those of interfaces that are
//! gone.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use kata_intent::{Intent, IntentId};
use kata_network::{GuestNetwork, Request, Watch};
use tokio::sync::{mpsc, oneshot};

use super::{NetworkFailure, card};
use crate::agent::Agent;
use crate::error::chain;
use crate::host::Machine;

/// Requests that may wait.
const QUEUE: usize = 8;

/// What was announced for a card.
pub(crate) type Announced = Vec<(IntentId, Intent)>;

type Result<T> = std::result::Result<T, NetworkFailure>;

/// The network as it is now.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    /// What the guest configures, all of it.
    pub(crate) guest: GuestNetwork,
    /// It is another than the last time.
    pub(crate) changed: bool,
}

/// A request to the task.
enum Message {
    /// Look, plug and unplug.
    Refresh { machine: Arc<Machine>, reply: oneshot::Sender<Result<Current>> },
    /// From now on the guest is told of what changes.
    Follow { machine: Arc<Machine>, agent: Agent },
}

/// Talks to the task, which ends with the last of these.
#[derive(Clone)]
pub(crate) struct Cards(mpsc::Sender<Message>);

impl Cards {
    /// Starts the task, for a VM that has cards for `attached` interfaces already.
    pub(crate) async fn start(
        request: Request,
        attached: HashMap<String, Announced>,
        guest: GuestNetwork,
    ) -> Result<Self> {
        let watch = Watch::new(&request.netns).await?;
        let (sender, messages) = mpsc::channel(QUEUE);
        let sockets = attached.into_iter().map(|(name, announced)| (name, Socket { announced, fixed: true }));
        let owner = Owner { request, sockets: sockets.collect(), guest, followed: None };
        tokio::spawn(owner.run(messages, watch));
        Ok(Self(sender))
    }

    /// Looks at the namespace once more; returns when the VM has a card for each of its interfaces.
    pub(crate) async fn refresh(&self, machine: Arc<Machine>) -> Result<Current> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Message::Refresh { machine, reply }).await.map_err(|_| NetworkFailure::Ended)?;
        answer.await.map_err(|_| NetworkFailure::Ended)?
    }

    /// Tells the guest whatever changes from now on.
    pub(crate) async fn follow(&self, machine: Arc<Machine>, agent: Agent) {
        // The task is gone only when the sandbox is.
        self.0.send(Message::Follow { machine, agent }).await.ok();
    }
}

/// A card's place.
struct Socket {
    announced: Announced,
    /// It was there when the VM started, and stays.
    fixed: bool,
}

/// The task's own.
struct Owner {
    request: Request,
    sockets: HashMap<String, Socket>,
    guest: GuestNetwork,
    /// The machine has the task's sender: with a share in it this task would never end.
    followed: Option<(Weak<Machine>, Agent)>,
}

impl Owner {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut watch: Watch) {
        loop {
            let watched = self.followed.is_some();
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Refresh { machine, reply }) => {
                        // Who asked may have given up.
                        reply.send(self.refresh(&machine).await).ok();
                    }
                    Some(Message::Follow { machine, agent }) => {
                        self.followed = Some((Arc::downgrade(&machine), agent));
                    }
                    None => return,
                },
                changed = watch.changed(), if watched => match changed {
                    Ok(()) => self.follow().await,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "Changes of the pod's network are not seen any more");
                        self.followed = None;
                    }
                },
            }
        }
    }

    /// Something has changed.
    async fn follow(&mut self) {
        let Some((machine, agent)) = self.followed.clone() else { return };
        let Some(machine) = machine.upgrade() else { return };
        let told = match self.refresh(&machine).await {
            Ok(Current { guest, changed: true }) => {
                agent.configure_network(&guest).await.map_err(|error| chain(&error))
            }
            Ok(_) => return,
            Err(error) => Err(chain(&error)),
        };
        match told {
            Ok(()) => tracing::info!(
                interfaces = self.sockets.len(),
                "The guest follows a change of the pod's network"
            ),
            Err(error) => tracing::warn!(error, "The guest does not follow a change of the pod's network"),
        }
    }

    async fn refresh(&mut self, machine: &Machine) -> Result<Current> {
        let guest = kata_network::look(&self.request.netns).await?;
        let names = || guest.interfaces.iter().map(|interface| &interface.name);
        let gone: Vec<String> =
            self.sockets.keys().filter(|name| names().all(|there| there != *name)).cloned().collect();
        for name in gone {
            self.unplug(machine, &name).await?;
        }
        for name in names() {
            if !self.sockets.contains_key(name) {
                self.plug(machine, name).await?;
            }
        }
        let changed = guest != self.guest;
        self.guest = guest.clone();
        Ok(Current { guest, changed })
    }

    async fn plug(&mut self, machine: &Machine, name: &str) -> Result<()> {
        let hotplug = machine.vmm.nic_hotplug().ok_or(NetworkFailure::NoHotplug)?;
        let (nic, _) = kata_network::attach_interface(&self.request, name).await?;
        let announced = nic.announced.clone();
        if let Err(error) = hotplug.add_nic(name, card(nic)).await {
            kata_network::release(&*self.request.intents, announced)?;
            return Err(NetworkFailure::Plug { interface: name.to_owned(), source: error });
        }
        tracing::info!(interface = name, "Plugged in a network card");
        self.sockets.insert(name.to_owned(), Socket { announced, fixed: false });
        Ok(())
    }

    /// A card that the VM was started with stays, without anybody at its other end.
    async fn unplug(&mut self, machine: &Machine, name: &str) -> Result<()> {
        let hotplug = machine.vmm.nic_hotplug().ok_or(NetworkFailure::NoHotplug)?;
        let Some(socket) = self.sockets.remove(name) else { return Ok(()) };
        if !socket.fixed {
            let removed = hotplug.remove_nic(name).await;
            removed.map_err(|source| NetworkFailure::Plug { interface: name.to_owned(), source })?;
        }
        Ok(kata_network::release(&*self.request.intents, socket.announced)?)
    }
}
