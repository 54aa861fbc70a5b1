//! The guest's network: names, addresses, routes and neighbours of its interfaces, as the host asks for them.
//!
//! The kernel is asked over a netlink socket of this room's own ([`netlink`], [`wire`]), some 200 lines. The agent is loaded
//! into every guest, and what runs for the first time costs most there: netlink-packet-route alone, which reads every
//! attribute that there is, adds 540 kB to a static program, a fifth of the agent; rtnetlink's connection is a task with
//! queues besides. All of this room adds 92 kB. The kernel answers within the call that asks, so a change is not
//! interrupted by another request's: nothing here is awaited but the arrival of a card. Without a network in the request
//! nothing of it runs.

mod addresses;
pub(crate) mod asked;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod iptables;
mod links;
mod neighbors;
mod netlink;
mod routes;
mod sys;
mod told;
mod wire;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use kata_protocol::types::{ARPNeighbor, Interface, Route};

use asked::{AskedInterface, AskedNeighbor, AskedRoute, Invalid, Key};
use netlink::{Netlink, NetlinkError};

pub(crate) use iptables::IpTablesError;

/// The network is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The request.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No conversation with the kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A list was not told.
    #[error("Cannot list the {what} of the guest")]
    List { what: &'static str, source: NetlinkError },
    /// A network card that is not there.
    #[error("No interface with {} appeared in the guest within {} s; has the VM got that network card?", name(key), limit.as_secs())]
    Absent { key: Key, limit: Duration },
    /// The arrival of a card cannot be seen.
    #[error("Cannot watch the interfaces of the guest")]
    Watch(#[source] io::Error),
    /// An interface that went away.
    #[error("The interface with {} went away while it was configured", name(key))]
    Gone { key: Key },
    /// The kernel refused a change of an interface.
    #[error("Interface {name} cannot {what}")]
    Interface { name: String, what: String, source: NetlinkError },
    /// A name that no interface has.
    #[error("The guest has no interface {device} for {what}")]
    NoDevice { what: String, device: String },
    /// The kernel refused a change of a route.
    #[error("The route to {what} cannot be {done}")]
    Route { what: String, done: &'static str, source: NetlinkError },
    /// The kernel refused a neighbour.
    #[error("The neighbour {address} on {device} cannot be added")]
    Neighbor { address: IpAddr, device: String, source: NetlinkError },
    /// The packet filter.
    #[error(transparent)]
    IpTables(#[from] IpTablesError),
}

impl NetworkError {
    fn list(what: &'static str) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::List { what, source }
    }
}

type Result<T> = std::result::Result<T, NetworkError>;

fn name(key: &Key) -> String {
    match key {
        Key::Hardware(address) => format!("the hardware address {}", told::hardware(address)),
        Key::Pci(place) => format!("the PCI path {place}"),
        Key::Name(name) => format!("the name {name}"),
    }
}

/// The network that is the agent's to change.
#[derive(Debug)]
pub(crate) struct Network(());

impl Network {
    /// For the agent that owns its network namespace.
    pub(crate) fn owned() -> Self {
        Self(())
    }

    /// Configures everything of a sandbox, when nothing is configured yet.
    pub(crate) async fn configure(
        &self,
        interfaces: &[Interface],
        routes: &[Route],
        neighbors: &[ARPNeighbor],
    ) -> Result<()> {
        let interfaces = all(interfaces, AskedInterface::new)?;
        let routes = all(routes, AskedRoute::new)?;
        let neighbors = all(neighbors, AskedNeighbor::new)?;
        let netlink = Netlink::open()?;
        for interface in &interfaces {
            set_interface(&netlink, interface).await?;
        }
        if routes.is_empty() && neighbors.is_empty() {
            return Ok(());
        }
        let links = links::list(&netlink)?;
        if !routes.is_empty() {
            routes::set(&netlink, &links, &routes)?;
        }
        neighbors::add(&netlink, &links, &neighbors)
    }

    /// Changes an interface, which may be about to appear; what it is then.
    pub(crate) async fn update_interface(&self, interface: &Interface) -> Result<Interface> {
        let asked = AskedInterface::new(interface)?;
        let netlink = Netlink::open()?;
        let index = set_interface(&netlink, &asked).await?;
        let gone = || NetworkError::Gone { key: asked.key.clone() };
        let link = links::of_index(&netlink, index)?.ok_or_else(gone)?;
        Ok(told::interface(&link, &addresses::list(&netlink)?))
    }

    /// Replaces the routes; what they are then.
    pub(crate) fn update_routes(&self, routes: &[Route]) -> Result<Vec<Route>> {
        let asked = all(routes, AskedRoute::new)?;
        let netlink = Netlink::open()?;
        routes::set(&netlink, &links::list(&netlink)?, &asked)?;
        list_routes()
    }

    /// Adds neighbours, or changes them.
    pub(crate) fn add_neighbors(&self, neighbors: &[ARPNeighbor]) -> Result<()> {
        let asked = all(neighbors, AskedNeighbor::new)?;
        let netlink = Netlink::open()?;
        neighbors::add(&netlink, &links::list(&netlink)?, &asked)
    }
}

/// All interfaces.
pub(crate) fn list_interfaces() -> Result<Vec<Interface>> {
    let netlink = Netlink::open()?;
    let addresses = addresses::list(&netlink)?;
    Ok(links::list(&netlink)?.iter().map(|link| told::interface(link, &addresses)).collect())
}

/// All routes to other places.
pub(crate) fn list_routes() -> Result<Vec<Route>> {
    let netlink = Netlink::open()?;
    let links = links::list(&netlink)?;
    let entries = routes::list(&netlink)?;
    Ok(entries.iter().flat_map(|entry| &entry.routes).map(|route| told::route(route, &links)).collect())
}

fn all<T, U>(messages: &[T], read: impl Fn(&T) -> std::result::Result<U, Invalid>) -> Result<Vec<U>> {
    Ok(messages.iter().map(read).collect::<std::result::Result<_, _>>()?)
}

/// An interface gets its addresses when it is up, so that the kernel makes the routes to their networks at once.
async fn set_interface(netlink: &Netlink, asked: &AskedInterface) -> Result<u32> {
    let mut link = links::arrival(netlink, &asked.key).await?;
    let index = link.index;
    if let Some(name) = &asked.name {
        links::rename(netlink, &link, name)?;
        link.name.clone_from(name);
    }
    let failed = |what: String| {
        let name = link.name.clone();
        move |source| NetworkError::Interface { name, what, source }
    };
    if asked.mtu != 0 {
        let what = format!("have an MTU of {} bytes", asked.mtu);
        links::set_mtu(netlink, index, asked.mtu).map_err(failed(what))?;
    }
    let flags = links::IFF_UP | if asked.no_arp { links::IFF_NOARP } else { 0 };
    links::set_flags(netlink, index, flags, flags).map_err(failed("be set up".to_owned()))?;
    addresses::set(netlink, &link, &asked.addresses)?;
    Ok(index)
}
