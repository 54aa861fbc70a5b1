//! What the kernel has, in the protocol's words.

use std::fmt::Write as _;
use std::net::IpAddr;

use kata_protocol::types::{IPAddress, IPFamily, Interface, Route};

use super::addresses::Address;
use super::asked::Prefix;
use super::links::Link;
use super::routes;

/// linux/rtnetlink.h.
const RTNH_F_ONLINK: u32 = 4;
const RT_TABLE_MAIN: u32 = 254;

/// An interface with those of `addresses` that are its own.
pub(super) fn interface(link: &Link, addresses: &[Address]) -> Interface {
    let own = addresses.iter().filter(|address| address.index == link.index);
    Interface {
        device: link.name.clone(),
        name: link.name.clone(),
        IPAddresses: own.map(ip_address).collect(),
        mtu: link.mtu.into(),
        hwAddr: hardware(&link.hardware),
        type_: link.kind.clone(),
        raw_flags: link.flags,
        ..Default::default()
    }
}

fn ip_address(own: &Address) -> IPAddress {
    let Prefix { address, length } = own.prefix;
    IPAddress {
        family: family(address).into(),
        address: address.to_string(),
        mask: length.to_string(),
        no_prefix_route: own.no_prefix_route,
        ..Default::default()
    }
}

/// A route. What is the default is left out, as it may be in a request.
pub(super) fn route(route: &routes::Route, links: &[Link]) -> Route {
    let device = links.iter().find(|link| Some(link.index) == route.device);
    let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    let Prefix { address, length } = route.dest;
    Route {
        dest: if length == 0 { String::new() } else { format!("{address}/{length}") },
        gateway: text(route.gateway),
        device: device.map(|link| link.name.clone()).unwrap_or_default(),
        source: text(route.source),
        scope: route.scope.into(),
        family: family(address).into(),
        flags: if route.on_link { RTNH_F_ONLINK } else { 0 },
        mtu: route.mtu,
        metric: route.metric,
        table: if route.table == RT_TABLE_MAIN { 0 } else { route.table },
        ..Default::default()
    }
}

fn family(address: IpAddr) -> IPFamily {
    if address.is_ipv6() { IPFamily::v6 } else { IPFamily::v4 }
}

/// Bytes in hexadecimal, separated by colons.
pub(super) fn hardware(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let separator = if text.is_empty() { "" } else { ":" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{byte:02x}");
    }
    text
}
