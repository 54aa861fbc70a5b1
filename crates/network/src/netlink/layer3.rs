//! Addresses, routes and neighbours: read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Socket;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The interface's index.
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    /// The length of the prefix of the network, or of `peer`.
    pub(crate) prefix: u8,
    /// The address at the other end, for links between two.
    pub(crate) peer: Option<IpAddr>,
    /// A privacy address: the kernel makes it, and drops it again.
    pub(crate) temporary: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// The network's address; unspecified (with `prefix` 0) for the default route. Its family is the route's.
    pub(crate) destination: IpAddr,
    pub(crate) prefix: u8,
    /// The address that packets should come from (`RTA_PREFSRC`).
    pub(crate) source: Option<IpAddr>,
    /// `RT_SCOPE_*`.
    pub(crate) scope: u8,
    pub(crate) table: u32,
    pub(crate) metric: u32,
    pub(crate) mtu: u32,
    /// Made by the kernel when an address was added (`RTPROT_KERNEL`).
    pub(crate) by_kernel: bool,
    /// To another host; not to this one, to nobody or to a group.
    pub(crate) unicast: bool,
    /// To nobody: packets are dropped or refused, or another table is asked (blackhole, unreachable, prohibit, throw).
    pub(crate) barrier: bool,
    /// An entry of the kernel's cache of exceptions.
    pub(crate) cached: bool,
    /// Where to; more than one for a multipath route.
    pub(crate) hops: Vec<Hop>,
}

/// One way that a route goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The interface's index.
    pub(crate) link: u32,
    pub(crate) gateway: Option<IpAddr>,
    /// The gateway is on the link, whatever the addresses say (`RTNH_F_ONLINK`).
    pub(crate) onlink: bool,
}

/// A neighbour's hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// The interface's index.
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) mac: Vec<u8>,
    /// `NUD_*`.
    pub(crate) state: u16,
    /// `NTF_*`.
    pub(crate) flags: u8,
    /// It was set by hand and stays (`NUD_PERMANENT`).
    pub(crate) permanent: bool,
}

impl Socket {
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let dump = self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(dump
            .into_iter()
            .filter_map(|object| match object {
                RouteNetlinkMessage::NewAddress(message) => address(&message),
                _ => None,
            })
            .collect())
    }

    /// The routes of all tables and both families.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for object in self.dump(&RouteNetlinkMessage::GetRoute(request))? {
                // A kernel without IPv6 answers with what it has of any family.
                if let RouteNetlinkMessage::NewRoute(message) = object
                    && message.header.address_family == family
                {
                    routes.push(route(&message));
                }
            }
        }
        Ok(routes)
    }

    pub(crate) fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let dump = self.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(dump
            .into_iter()
            .filter_map(|object| match object {
                RouteNetlinkMessage::NewNeighbour(message) => neighbour(message),
                _ => None,
            })
            .collect())
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut own, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => (),
        }
    }
    let address = own.or(other)?;
    Some(Address {
        link: message.header.index,
        address,
        prefix: message.header.prefix_len,
        peer: other.filter(|other| *other != address),
        // The bit means "secondary" for IPv4, and "temporary" for IPv6.
        temporary: address.is_ipv6() && message.header.flags.contains(AddressHeaderFlags::Secondary),
    })
}

fn route(message: &RouteMessage) -> Route {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let mut route = Route {
        destination: unspecified,
        prefix: header.destination_prefix_length,
        source: None,
        scope: header.scope.into(),
        table: header.table.into(),
        metric: 0,
        mtu: 0,
        by_kernel: header.protocol == RouteProtocol::Kernel,
        unicast: header.kind == RouteType::Unicast,
        barrier: matches!(
            header.kind,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw
        ),
        cached: header.flags.contains(RouteFlags::Cloned),
        hops: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => route.destination = ip(to).unwrap_or(unspecified),
            RouteAttribute::PrefSource(from) => route.source = ip(from),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            RouteAttribute::MultiPath(hops) => route.hops = hops.iter().map(next_hop).collect(),
            _ => (),
        }
    }
    if let Some(link) = interface(&message.attributes) {
        let onlink = header.flags.contains(RouteFlags::Onlink);
        route.hops.push(Hop { link, gateway: gateway(&message.attributes), onlink });
    }
    route
}

fn next_hop(hop: &RouteNextHop) -> Hop {
    Hop {
        link: hop.interface_index,
        gateway: gateway(&hop.attributes),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
    }
}

fn interface(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The gateway, which can be of the other family (`RTA_VIA`).
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        RouteAttribute::Via(RouteVia::Inet(gateway)) => Some((*gateway).into()),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some((*gateway).into()),
        _ => None,
    })
}

fn mtu(metrics: &[RouteMetric]) -> u32 {
    let mtu = metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or_default()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, Vec::new());
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(ip.into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(ip.into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes,
            _ => (),
        }
    }
    Some(Neighbour {
        link: message.header.ifindex,
        address: address?,
        mac,
        permanent: message.header.state == NeighbourState::Permanent,
        state: message.header.state.into(),
        flags: message.header.flags.bits(),
    })
}
