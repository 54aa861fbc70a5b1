//! What the guest configures, told from what is in the pod's namespace.

use std::net::IpAddr;

use kata_protocol::types::{ARPNeighbor, IPAddress, IPFamily, Interface, Route};

use crate::GuestNetwork;
use crate::netlink::{self, Address, Hop, Link, Neighbour};
use crate::scan::{Scan, is_link_local};

/// `IFF_NOARP` of `linux/if.h`.
const IFF_NOARP: u32 = 0x80;
/// `RTNH_F_ONLINK` of `linux/rtnetlink.h`.
const RTNH_F_ONLINK: u32 = 4;
/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL`.
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// What belongs to the interfaces `chosen`.
pub(crate) fn network(scan: &Scan, chosen: &[&Link]) -> GuestNetwork {
    let mut routes: Vec<Route> = scan
        .routes
        .iter()
        .inspect(|route| warn_of_barrier(route))
        .filter(|route| !comes_by_itself(route, scan))
        .filter_map(|route| self::route(route, chosen))
        .collect();
    // A gateway is refused as long as nothing leads to it.
    routes.sort_by_key(|route| !route.gateway.is_empty());
    GuestNetwork {
        interfaces: chosen.iter().map(|link| interface(link, scan)).collect(),
        routes,
        neighbors: scan
            .neighbours
            .iter()
            .filter_map(|neighbour| self::neighbour(neighbour, chosen))
            .collect(),
    }
}

fn interface(link: &Link, scan: &Scan) -> Interface {
    let its =
        |address: &&Address| address.link == link.index && !address.temporary && !is_link_local(address);
    Interface {
        device: link.name.clone(),
        name: link.name.clone(),
        IPAddresses: scan
            .addresses
            .iter()
            .filter(its)
            .map(|address| self::address(address, link, scan))
            .collect(),
        mtu: link.mtu.into(),
        hwAddr: mac(&link.mac),
        type_: link.kind.clone().unwrap_or_default(),
        raw_flags: if link.no_arp { IFF_NOARP } else { 0 },
        ..Interface::default()
    }
}

fn address(address: &Address, link: &Link, scan: &Scan) -> IPAddress {
    // The prefix of a link between two is the other's. The guest's address stands alone, and the kernel's route to the other
    // is among the routes.
    let prefix = if address.peer.is_some() { bits(address.address) } else { address.prefix };
    let no_prefix_route = prefix < bits(address.address) && is_without_route(address, link, scan);
    IPAddress { no_prefix_route, ..ip(address.address, prefix) }
}

/// Whether the kernel's route to the address's network was taken away, or never made: some plugins lead a network's packets
/// through a gateway of it.
fn is_without_route(address: &Address, link: &Link, scan: &Scan) -> bool {
    let mut by_kernel = scan.routes.iter().filter(|route| {
        route.by_kernel && route.unicast && route.hops.iter().any(|hop| hop.link == address.link)
    });
    // It comes when the link is ready, which IPv6's route of every link shows.
    let ready = match address.address {
        IpAddr::V4(_) => link.up,
        IpAddr::V6(_) => by_kernel
            .clone()
            .any(|route| matches!(route.destination, IpAddr::V6(to) if to.is_unicast_link_local())),
    };
    let network = network_of(address.address, address.prefix);
    ready && !by_kernel.any(|route| route.prefix == address.prefix && route.destination == network)
}

fn ip(address: IpAddr, prefix: u8) -> IPAddress {
    IPAddress {
        family: family(address).into(),
        address: address.to_string(),
        mask: prefix.to_string(),
        ..IPAddress::default()
    }
}

/// The agent cannot be told of routes to nowhere.
fn warn_of_barrier(route: &netlink::Route) {
    if route.barrier && !route.by_kernel {
        tracing::warn!(
            destination = %route.destination, prefix = route.prefix, table = route.table,
            "The guest does not get a route that keeps packets back"
        );
    }
}

/// Whether the guest's kernel makes the route, or one of its own in its place.
fn comes_by_itself(route: &netlink::Route, scan: &Scan) -> bool {
    if !route.unicast || route.cached || route.table == LOCAL {
        return true;
    }
    let of_every_link = match route.destination {
        IpAddr::V6(to) => to.is_multicast() || to.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    of_every_link || (route.by_kernel && route.table == MAIN && !leads_to_a_peer(route, scan))
}

/// The kernel's route to the other end of a link between two, which the agent cannot be told as part of the address.
fn leads_to_a_peer(route: &netlink::Route, scan: &Scan) -> bool {
    scan.addresses.iter().any(|address| {
        let is_peer = address.peer.is_some_and(|peer| network_of(peer, route.prefix) == route.destination);
        is_peer && address.prefix == route.prefix
    })
}

fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    let host_bits = u32::from(bits(address).saturating_sub(prefix));
    match address {
        IpAddr::V4(address) => {
            IpAddr::V4((address.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)).into())
        }
        IpAddr::V6(address) => {
            IpAddr::V6((address.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)).into())
        }
    }
}

/// `None` for a route that leads to no card of the VM.
fn route(route: &netlink::Route, chosen: &[&Link]) -> Option<Route> {
    let ways = |hop: &Hop| {
        chosen.iter().find(|link| link.index == hop.link).map(|link| (hop.clone(), link.name.clone()))
    };
    let (hop, device) = route.hops.iter().find_map(ways)?;
    if route.hops.len() > 1 {
        tracing::warn!(
            destination = %route.destination, prefix = route.prefix, via = device,
            "The guest gets only one way of a route with many"
        );
    }
    let dest =
        if route.prefix == 0 { String::new() } else { format!("{}/{}", route.destination, route.prefix) };
    Some(Route {
        dest,
        gateway: hop.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        device,
        source: route.source.map(|source| source.to_string()).unwrap_or_default(),
        scope: route.scope.into(),
        family: family(route.destination).into(),
        flags: if hop.onlink { RTNH_F_ONLINK } else { 0 },
        mtu: route.mtu,
        metric: route.metric,
        table: if route.table == MAIN { 0 } else { route.table },
        ..Route::default()
    })
}

/// `None` for a neighbour that the guest finds itself, or of another interface.
fn neighbour(neighbour: &Neighbour, chosen: &[&Link]) -> Option<ARPNeighbor> {
    let link = chosen.iter().find(|link| link.index == neighbour.link)?;
    neighbour.permanent.then(|| ARPNeighbor {
        toIPAddress: Some(ip(neighbour.address, bits(neighbour.address))).into(),
        device: link.name.clone(),
        lladdr: mac(&neighbour.mac),
        state: neighbour.state.into(),
        flags: neighbour.flags.into(),
        ..ARPNeighbor::default()
    })
}

fn family(address: IpAddr) -> IPFamily {
    if address.is_ipv6() { IPFamily::v6 } else { IPFamily::v4 }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

/// Like `0a:58:0a:f4:01:02`.
fn mac(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

#[cfg(test)]
mod tests;
