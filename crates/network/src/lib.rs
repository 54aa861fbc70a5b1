//! A pod's network: the interfaces that a CNI plugin (or Docker, or a person) put into the pod's network namespace, each
//! connected to a network card of the VM, and what the guest must configure so that its end looks like the pod's.
//!
//! [`attach`] scans the namespace over netlink and connects what it finds. Whatever stays on the host when this process
//! dies is announced to the intent log before; [`undo`] takes it back. A TAP device goes with its descriptors.
//!
//! What comes later (Docker connects a container after it was created) is seen by a [`Watch`] and a [`look`], and connected
//! by [`attach_interface`].
//!
//! [`Loopback`] takes the connections to the namespace's loopback, for whoever carries them to the guest.

mod connect;
mod endpoint;
mod filter;
mod guest;
mod loopback;
mod macvtap;
mod names;
mod netlink;
mod netns;
mod scan;
mod sys;
mod tap;
#[cfg(test)]
mod tests;
mod undo;
mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kata_intent::{Intent, IntentId, Intents, undo_all};
use kata_protocol::types::{ARPNeighbor, Interface, Route};

pub use loopback::{Loopback, LoopbackError};
pub use netns::{is_hosts, processes_in};
pub use undo::undo;
pub use watch::Watch;

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

/// Limits of a network card, in bits per second; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// What the guest receives.
    pub receive: u64,
    /// What the guest sends.
    pub send: u64,
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
    /// How much each network card may carry.
    pub rates: Rates,
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
    /// Its index there, which no other interface of the namespace ever has.
    pub index: u32,
    /// The hardware address that the guest's card has.
    pub mac: [u8; 6],
    /// The interface's MTU in bytes.
    pub mtu: u32,
    /// What carries its packets. Its descriptors are the VM's: close them once the VM has them.
    pub backend: Backend,
    /// What was announced for it, in this order: for [`release`].
    pub announced: Vec<(IntentId, Intent)>,
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
    /// Routes, in an order in which they can be added: those that lead to gateways before those through them.
    pub routes: Vec<Route>,
    /// Static and permanent neighbours.
    pub neighbors: Vec<ARPNeighbor>,
}

/// A pod's namespace as it is at one time.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct View {
    /// What the guest would configure if everything were connected.
    pub guest: GuestNetwork,
    /// The index of each of `guest.interfaces`, in the same order.
    pub indices: Vec<u32>,
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
    /// The namespace is the host's.
    #[error(
        "The network namespace {} is the host's own, and a VM cannot have the host's network; give the pod a network \
         namespace",
        path.display()
    )]
    Host {
        /// Its path.
        path: PathBuf,
    },
    /// The kernel does not tell what is in the namespace.
    #[error("Cannot read what is in the network namespace {}; see the kernel's log", path.display())]
    Read {
        /// The namespace's path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no such interface, or none that can be connected.
    #[error("The pod has no network interface {interface} that is set up; give it an address, or set it up")]
    Missing {
        /// The interface's name.
        interface: String,
    },
    /// The model is "none".
    #[error(
        "The network interface {interface} is not connected, as internetworking_model is \"none\"; choose \"tcfilter\" if \
         the VM is to have it"
    )]
    Off {
        /// The interface's name.
        interface: String,
    },
    /// Another VM has the network.
    #[error(
        "The network interface {interface} already belongs to a VM; a network namespace can have one VM only: give each \
         its own, or end the other VM"
    )]
    Occupied {
        /// The interface's name.
        interface: String,
    },
    /// Another program takes the interface's packets.
    #[error(
        "The network interface {interface} has traffic filters of another program, which would not see the VM's packets; \
         see `tc filter show dev {interface} ingress` in the pod's network namespace, and remove them"
    )]
    Filtered {
        /// The interface's name.
        interface: String,
    },
    /// Another program decides how fast the interface sends.
    #[error(
        "The network interface {interface} has a queueing discipline of another program, and tx_rate_limiter_max_rate needs \
         one of its own there; see `tc qdisc show dev {interface}` in the pod's network namespace, and remove either"
    )]
    Shaped {
        /// The interface's name.
        interface: String,
    },
    /// A limit stands where packets are queued, which only traffic filters lead to.
    #[error(
        "The rate of the network interface {interface} cannot be limited, as it is not connected by traffic filters; set \
         rx_rate_limiter_max_rate and tx_rate_limiter_max_rate to 0, or use internetworking_model = \"tcfilter\" and an \
         interface that is no TAP or macvtap device"
    )]
    NoRate {
        /// The interface's name.
        interface: String,
    },
    /// A network card of the host.
    #[error(
        "The network interface {interface} is a PCI device, and handing over devices (VFIO) is not there yet; give the pod \
         a virtual interface on it, such as a macvlan"
    )]
    Physical {
        /// The interface's name.
        interface: String,
    },
    /// A network card of a VM carries Ethernet frames only.
    #[error(
        "The network interface {interface} ({kind}) does not carry Ethernet frames, which a VM's network card needs; use \
         another kind of interface, or make it in the container"
    )]
    Unsupported {
        /// The interface's name.
        interface: String,
        /// Its kind.
        kind: String,
    },
    /// The guest could not tell two cards apart.
    #[error(
        "The network interfaces {first} and {second} have the same hardware address, by which the guest tells its cards \
         apart; give each its own (ipvlan cannot: use macvlan)"
    )]
    SharedAddress {
        /// One interface's name.
        first: String,
        /// The other's.
        second: String,
    },
    /// Every packet goes to the VM before it gets there.
    #[error(
        "The network interface {interface} stands on {lower} in the same network namespace, and {lower}'s packets go to the \
         VM; make {interface} in the container, or leave {lower} outside the pod's network namespace"
    )]
    Stacked {
        /// The interface's name.
        interface: String,
        /// The interface below it.
        lower: String,
    },
    /// The kernel makes no macvtap on such an interface.
    #[error(
        "A macvtap cannot stand on the network interface {interface}, which is a macvlan or ipvlan; use \
         internetworking_model = \"tcfilter\""
    )]
    NoMacVtap {
        /// The interface's name.
        interface: String,
    },
    /// A step of the connection failed.
    #[error(
        "Cannot {step} the network interface {interface}; are the kernel's modules tun, macvtap, sch_ingress, cls_u32 and \
         act_mirred there, and does this process have CAP_NET_ADMIN?"
    )]
    Connect {
        /// The interface's name.
        interface: String,
        /// What failed, in the words of the message.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What cannot be announced is not made.
    #[error("Cannot announce a change of the pod's network in the intent log; is its disk full?")]
    Announce {
        /// Why not.
        source: io::Error,
    },
    /// Something was left behind; it stays in the intent log.
    #[error(
        "Cannot take back what was made for a network interface: {what}; it is tried again when the pod is cleaned up"
    )]
    Left {
        /// What is left.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// Connects every interface of the pod's namespace.
///
/// # Errors
/// See [`NetworkError`].
pub async fn attach(request: &Request) -> Result<PodNetwork, NetworkError> {
    if request.model == Model::None {
        return Ok(PodNetwork::default());
    }
    let owned = request.clone();
    inside(&request.netns, move || connect::all(&owned)).await
}

/// Connects one interface more of the pod's namespace, for a card that is plugged into the running VM. The network returned
/// has what belongs to that interface.
///
/// # Errors
/// See [`NetworkError`].
pub async fn attach_interface(request: &Request, name: &str) -> Result<(Nic, GuestNetwork), NetworkError> {
    if request.model == Model::None {
        return Err(NetworkError::Off { interface: name.to_owned() });
    }
    let (owned, name) = (request.clone(), name.to_owned());
    inside(&request.netns, move || connect::one(&owned, &name)).await
}

/// What the guest has to configure as the pod's namespace is now. The interfaces tell which are to be attached, and which are
/// gone. Nothing is changed.
///
/// # Errors
/// See [`NetworkError`].
pub async fn look(netns: &Path) -> Result<View, NetworkError> {
    let path = netns.to_owned();
    inside(netns, move || connect::look(&path)).await
}

/// Disconnects one card, which has been unplugged and whose descriptors are closed: takes back what was `announced` for it,
/// also if its interface is gone. Blocks for some system calls.
///
/// # Errors
/// [`NetworkError::Left`].
pub fn release(intents: &dyn Intents, announced: Vec<(IntentId, Intent)>) -> Result<(), NetworkError> {
    let left = undo_all(announced, undo, |id| intents.done(id)).into_iter().next();
    match left {
        None => Ok(()),
        Some(left) => Err(NetworkError::Left {
            what: format!("{:?}", left.intent),
            source: left.error.unwrap_or_else(|| io::ErrorKind::Other.into()),
        }),
    }
}

/// Runs `work` in a namespace that a VM may have.
async fn inside<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let failed = |source| NetworkError::Namespace { path: netns.to_owned(), source };
    if is_hosts(netns).map_err(failed)? {
        return Err(NetworkError::Host { path: netns.to_owned() });
    }
    netns::run_in(netns, work).await.map_err(failed)?
}
