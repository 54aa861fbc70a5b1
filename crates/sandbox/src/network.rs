//! The pod's network: which namespace it is in, and what of it the VM gets.

mod cards;
mod changes;
pub(crate) mod json;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kata_config::{Config, NetworkModel};
use kata_intent::Intents;
use kata_network::{Backend, GuestNetwork, Model, NetworkError, Rates, Request};
use kata_protocol::types::{IPAddress, Interface, Route};
use kata_vmm::{NetworkNamespace, Nic, NicBackend, VmmError};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

pub(crate) use cards::{Card, Cards};
pub(crate) use changes::Change;

use crate::error::ErrorKind;

/// The card that goes through the host's own connections, as QEMU's user-mode network has it: the guest is
/// 10.0.2.15, the way out is 10.0.2.2.
const USER_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
const USER_ADDRESS: (&str, &str) = ("10.0.2.15", "24");
const USER_GATEWAY: &str = "10.0.2.2";

/// Cards that a pod may have at least, if it is given them while it runs. Docker gives it one or two after it has been
/// created.
const PORTS: u8 = 2;

/// The most ports that a VM has.
pub(crate) const MOST_PORTS: u8 = 8;

/// Where a pod's network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a namespace that somebody has made for it.
    Namespace(PathBuf),
    /// In a fresh one, with nothing in it.
    Fresh,
    /// It is the host's.
    Host,
}

impl Place {
    /// As the specification says: without a network namespace a container has the network of whoever starts it.
    pub(crate) fn of(spec: &Spec) -> Self {
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let network =
            namespaces.and_then(|all| all.iter().find(|ns| ns.typ() == LinuxNamespaceType::Network));
        match network.map(|namespace| namespace.path().clone()) {
            None => Self::Host,
            Some(None) => Self::Fresh,
            Some(Some(path)) => Self::Namespace(path),
        }
    }

    /// Where the VMM runs.
    pub(crate) fn of_vmm(&self) -> NetworkNamespace {
        match self {
            Self::Namespace(path) => NetworkNamespace::At(path.clone()),
            Self::Fresh => NetworkNamespace::New,
            Self::Host => NetworkNamespace::Callers,
        }
    }

    /// The namespace that was made for the pod, which a container manager can enter.
    pub(crate) fn of_pod(self) -> Option<PathBuf> {
        match self {
            Self::Namespace(path) if !kata_network::is_hosts(&path).unwrap_or(true) => Some(path),
            Self::Namespace(_) | Self::Fresh | Self::Host => None,
        }
    }

    /// How many cards the VM may have at a time that can come and go, if it begins with so many: one more at least.
    pub(crate) fn ports(&self, cards: usize) -> u8 {
        let more = u8::try_from(cards).unwrap_or(MOST_PORTS).saturating_add(1);
        match self {
            Self::Namespace(_) | Self::Fresh => more.clamp(PORTS, MOST_PORTS),
            Self::Host => 0,
        }
    }
}

/// The pod's network cannot be the VM's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkFailure {
    /// The host's network.
    #[error(
        "The pod is in the host's network (hostNetwork, --net=host), which a VM cannot share: its network cards are its \
         own. Give the pod a network of its own, or allow outgoing connections through the VMM by \
         `experimental = [\"host_network\"]` in [runtime]"
    )]
    Host,
    /// Somebody else's network.
    #[error(
        "The network namespace {} is used by other processes ({}), which would lose its interfaces to the VM. Give the pod \
         a network namespace of its own, or allow this by `experimental = [\"shared_network_namespace\"]` in [runtime]",
        path.display(), list(processes)
    )]
    Shared {
        /// The namespace.
        path: PathBuf,
        /// Who uses it.
        processes: Vec<u32>,
    },
    /// Who uses the namespace could not be found out.
    #[error("Cannot look at the network namespace {}; does it still exist?", path.display())]
    Unseen {
        /// The namespace.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its interfaces could not be connected.
    #[error(transparent)]
    Connect(#[from] NetworkError),
    /// A card could not be plugged in or out.
    #[error(
        "The network interface {interface} of the pod could not be given to the running VM, or taken from it"
    )]
    Plug {
        /// Its name.
        interface: String,
        /// Why not.
        source: VmmError,
    },
    /// The VMM cannot.
    #[error(
        "This hypervisor cannot be given network cards while it runs: give the pod its network before it starts"
    )]
    NoHotplug,
    /// The VM has no cards to plug in and out.
    #[error(
        "The pod has no network namespace whose interfaces could be connected: it is in the host's, or \
         internetworking_model is \"none\""
    )]
    NoCards,
    /// No such interface, or none that can be connected.
    #[error(
        "The pod's network namespace has no interface {name} that can be connected (it has: {there}); set it up there first"
    )]
    NoInterface {
        /// What was asked for.
        name: String,
        /// Those that there are.
        there: String,
    },
    /// Nothing to be taken out.
    #[error(
        "The guest has no network interface {name} that is connected to the pod's namespace (it has: {there})"
    )]
    NotAttached {
        /// What was asked for.
        name: String,
        /// Those that there are.
        there: String,
    },
    /// Two of one name.
    #[error("The guest has another network interface {name} already; choose another `name`")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Part of a request that cannot be had.
    #[error("The {part} of the interface cannot be {value:?}: it is {expected:?}, or left out")]
    Unchangeable {
        /// Which, in the words of the request.
        part: &'static str,
        /// What was asked for.
        value: String,
        /// What it is.
        expected: String,
    },
    /// The sandbox has ended.
    #[error("The sandbox has ended")]
    Ended,
}

impl NetworkFailure {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NoInterface { .. } | Self::NotAttached { .. } => ErrorKind::NotFound,
            Self::NameTaken { .. } => ErrorKind::AlreadyExists,
            Self::Unchangeable { .. } => ErrorKind::InvalidArgument,
            Self::NoCards | Self::NoHotplug => ErrorKind::FailedPrecondition,
            Self::Ended => ErrorKind::Unavailable,
            _ => ErrorKind::Unknown,
        }
    }
}

fn list(processes: &[u32]) -> String {
    processes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// What the VM and the guest get of the pod's network.
#[derive(Default)]
pub(crate) struct Connected {
    /// The VM's cards.
    pub(crate) nics: Vec<Nic>,
    /// What the guest configures.
    pub(crate) guest: GuestNetwork,
    /// What is known of those cards that can come and go.
    pub(crate) cards: Vec<Card>,
    /// What was connected; `None` if nothing was.
    pub(crate) request: Option<Request>,
}

/// Connects the pod's network with a VM that is still to be started.
pub(crate) async fn connect(
    place: Place,
    config: &Config,
    intents: Arc<dyn Intents>,
) -> Result<Connected, NetworkFailure> {
    if is_off(config) {
        return Ok(Connected::default());
    }
    let path = match place {
        Place::Fresh => return Ok(Connected::default()),
        Place::Host => return host(config),
        Place::Namespace(path) => path,
    };
    let unseen = |source| NetworkFailure::Unseen { path: path.clone(), source };
    if kata_network::is_hosts(&path).map_err(unseen)? {
        return host(config);
    }
    if !config.runtime.shared_network_namespace {
        refuse_shared(&path)?;
    }
    let request = request(path, config, intents);
    let network = kata_network::attach(&request).await?;
    Ok(Connected {
        cards: network.nics.iter().map(Card::of).collect(),
        nics: network.nics.into_iter().map(card).collect(),
        guest: network.guest,
        request: Some(request),
    })
}

fn is_off(config: &Config) -> bool {
    config.runtime.internetworking_model == NetworkModel::None
}

fn refuse_shared(path: &Path) -> Result<(), NetworkFailure> {
    let processes = kata_network::processes_in(path);
    let processes = processes.map_err(|source| NetworkFailure::Unseen { path: path.to_owned(), source })?;
    match processes.is_empty() {
        true => Ok(()),
        false => Err(NetworkFailure::Shared { path: path.to_owned(), processes }),
    }
}

/// What the VM's namespace will be to be asked for when it has one of its own, which only its process leads to.
pub(crate) fn of_own(place: &Place, vmm: u32, config: &Config, intents: Arc<dyn Intents>) -> Option<Request> {
    let is_own = matches!(place, Place::Fresh) && !is_off(config);
    is_own.then(|| request(PathBuf::from(format!("/proc/{vmm}/ns/net")), config, intents))
}

fn request(netns: PathBuf, config: &Config, intents: Arc<dyn Intents>) -> Request {
    Request {
        netns,
        model: match config.runtime.internetworking_model {
            NetworkModel::TcFilter => Model::TcFilter,
            NetworkModel::MacVtap => Model::MacVtap,
            NetworkModel::None => Model::None,
        },
        queues: config.hypervisor.network_queues,
        vhost: !config.hypervisor.disable_vhost_net,
        rates: Rates {
            receive: config.hypervisor.rx_rate_limiter_max_rate,
            send: config.hypervisor.tx_rate_limiter_max_rate,
        },
        intents,
    }
}

impl Card {
    fn of(nic: &kata_network::Nic) -> Self {
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        Self { device: nic.name.clone(), index: nic.index, mac, announced: nic.announced.clone() }
    }
}

/// The VMM's name for the card of an interface; not every interface's name is one for the VMM.
fn card_id(index: u32) -> String {
    format!("nic{index}")
}

fn card(nic: kata_network::Nic) -> Nic {
    let backend = match nic.backend {
        Backend::Tap { queues, vhost } => NicBackend::Tap { queues, vhost },
        Backend::VhostUser { socket } => NicBackend::VhostUser { socket, queues: 1 },
    };
    Nic { id: card_id(nic.index), mac: nic.mac, backend }
}

/// The host's network, as far as it can be had.
fn host(config: &Config) -> Result<Connected, NetworkFailure> {
    if !config.runtime.host_network {
        return Err(NetworkFailure::Host);
    }
    let address = IPAddress {
        address: USER_ADDRESS.0.to_owned(),
        mask: USER_ADDRESS.1.to_owned(),
        ..Default::default()
    };
    let interface = Interface {
        device: "eth0".to_owned(),
        name: "eth0".to_owned(),
        IPAddresses: vec![address],
        mtu: 1500,
        hwAddr: USER_MAC.map(|byte| format!("{byte:02x}")).join(":"),
        ..Default::default()
    };
    let route = Route { gateway: USER_GATEWAY.to_owned(), device: "eth0".to_owned(), ..Default::default() };
    Ok(Connected {
        nics: vec![Nic { id: "user".to_owned(), mac: USER_MAC, backend: NicBackend::User }],
        guest: GuestNetwork { interfaces: vec![interface], routes: vec![route], neighbors: Vec::new() },
        ..Connected::default()
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxBuilder, LinuxNamespaceBuilder, SpecBuilder};

    use super::*;

    fn spec(namespaces: &[(LinuxNamespaceType, Option<&str>)]) -> Spec {
        let namespace = |(kind, path): &(LinuxNamespaceType, Option<&str>)| {
            let builder = LinuxNamespaceBuilder::default().typ(*kind);
            match path {
                Some(path) => builder.path(path),
                None => builder,
            }
            .build()
            .unwrap()
        };
        let all: Vec<_> = namespaces.iter().map(namespace).collect();
        let linux = LinuxBuilder::default().namespaces(all).build().unwrap();
        SpecBuilder::default().linux(linux).build().unwrap()
    }

    #[test]
    fn a_namespace_with_a_path_is_the_pods() {
        let pod = spec(&[(LinuxNamespaceType::Network, Some("/run/netns/pod"))]);
        assert_eq!(Place::of(&pod), Place::Namespace("/run/netns/pod".into()));
        assert_eq!(Place::of(&spec(&[(LinuxNamespaceType::Network, None)])), Place::Fresh);
        assert_eq!(Place::of(&spec(&[(LinuxNamespaceType::Uts, None)])), Place::Host);
    }

    #[test]
    fn a_vm_has_room_for_one_card_more_than_it_begins_with() {
        let ports = |cards| Place::Fresh.ports(cards);
        assert_eq!([0, 1, 2, 7, 8, 300].map(ports), [2, 2, 3, 8, 8, 8]);
        assert_eq!(Place::Host.ports(1), 0);
    }

    #[test]
    fn the_hosts_network_is_refused_unless_it_is_allowed() {
        let mut config = Config::built_in(1);
        let refused = host(&config).err().unwrap().to_string();
        assert!(refused.contains("hostNetwork") && refused.contains("experimental"), "{refused}");
        config.runtime.host_network = true;
        let connected = host(&config).unwrap();
        assert!(matches!(connected.nics[0].backend, NicBackend::User));
        assert_eq!(connected.guest.interfaces[0].hwAddr, "52:54:00:12:34:56");
    }

    #[test]
    fn a_namespace_that_others_use_is_refused_by_their_ids() {
        let error = refuse_shared(Path::new("/proc/self/ns/net")).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    }
}
