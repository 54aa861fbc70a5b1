//! The network cards of a running VM. One task owns them: it looks at the pod's namespace when it is asked to and when
//! something has changed there, plugs cards in for interfaces that have come, and takes out those of interfaces that are
//! gone. It knows what the guest was told of the network, and tells it when that is not how it is to be.

mod owner;

use std::collections::HashMap;
use std::sync::Arc;

use kata_intent::{Intent, IntentId};
use kata_network::{GuestNetwork, Request, Watch};
use tokio::sync::{mpsc, oneshot};

use self::owner::Owner;
use super::NetworkFailure;
use super::changes::Change;
use crate::agent::Agent;
use crate::error::{Result, SandboxError as Error};
use crate::host::Machine;

/// Requests that may wait.
const QUEUE: usize = 8;

/// A card that the VM has.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    /// Its interface in the pod's namespace.
    pub(crate) device: String,
    /// The interface's index there.
    pub(crate) index: u32,
    /// The hardware address of both.
    pub(crate) mac: String,
    /// What was announced for it.
    pub(crate) announced: Vec<(IntentId, Intent)>,
}

/// The hardware address of each card, and its interface in the pod's namespace.
pub(crate) type Connections = HashMap<String, String>;

/// A request to the task.
enum Message {
    /// Look, plug and unplug; what the guest is to be told then.
    Refresh {
        machine: Arc<Machine>,
        reply: oneshot::Sender<std::result::Result<GuestNetwork, NetworkFailure>>,
    },
    /// The guest was told this; from now on it is told whatever changes.
    Follow { machine: Arc<Machine>, agent: Agent, told: GuestNetwork },
    /// Look, plug, unplug and tell.
    Update { reply: oneshot::Sender<Result<()>> },
    /// The same after a change, which does not hold if that fails.
    Change { change: Change, reply: oneshot::Sender<Result<()>> },
    /// Which card is where?
    Connections { reply: oneshot::Sender<Connections> },
}

/// Talks to the task, which ends with the last of these.
#[derive(Clone)]
pub(crate) struct Cards(mpsc::Sender<Message>);

impl Cards {
    /// Starts the task, for a VM that has cards already.
    pub(crate) async fn start(
        request: Request,
        cards: Vec<Card>,
    ) -> std::result::Result<Self, NetworkFailure> {
        let watch = Watch::new(&request.netns).await?;
        let (sender, messages) = mpsc::channel(QUEUE);
        tokio::spawn(Owner::new(request, cards).run(messages, watch));
        Ok(Self(sender))
    }

    /// Looks at the namespace once more; returns when the VM has a card for each of its interfaces. The guest is not told:
    /// this is for when it does not listen yet.
    pub(crate) async fn refresh(
        &self,
        machine: Arc<Machine>,
    ) -> std::result::Result<GuestNetwork, NetworkFailure> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Message::Refresh { machine, reply }).await.map_err(|_| NetworkFailure::Ended)?;
        answer.await.map_err(|_| NetworkFailure::Ended)?
    }

    /// The guest was `told` the network; from now on it is told whatever changes.
    pub(crate) async fn follow(&self, machine: Arc<Machine>, agent: Agent, told: GuestNetwork) {
        // The task is gone only when the sandbox is.
        self.0.send(Message::Follow { machine, agent, told }).await.ok();
    }

    /// Looks at the namespace once more; returns when the guest has what it has. Only after [`follow`](Self::follow).
    pub(crate) async fn update(&self) -> Result<()> {
        self.ask(|reply| Message::Update { reply }).await?
    }

    /// Changes the network by hand. If that fails it stays as it was. Only after [`follow`](Self::follow).
    pub(crate) async fn change(&self, change: Change) -> Result<()> {
        self.ask(|reply| Message::Change { change, reply }).await?
    }

    /// Which card is where.
    pub(crate) async fn connections(&self) -> Result<Connections> {
        self.ask(|reply| Message::Connections { reply }).await
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(message(reply)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)
    }
}
