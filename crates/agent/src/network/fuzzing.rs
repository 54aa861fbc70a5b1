//! What is understood of a request, for the fuzz targets in `fuzz/`.

use std::net::IpAddr;

use kata_protocol::types::{ARPNeighbor, Interface, Route};

use super::asked::{AskedInterface, AskedNeighbor, AskedRoute, Key};
use super::routes;

/// The names that an interface has and shall have, if it is known by one.
#[must_use]
pub fn asked_names(asked: &Interface) -> Option<Vec<String>> {
    let asked = AskedInterface::new(asked).ok()?;
    let known = match asked.key {
        Key::Name(name) => Some(name),
        _ => None,
    };
    Some(known.into_iter().chain(asked.name).collect())
}

/// An interface's addresses, with the lengths of their prefixes.
#[must_use]
pub fn asked_addresses(asked: &Interface) -> Option<Vec<(IpAddr, u8)>> {
    let asked = AskedInterface::new(asked).ok()?;
    Some(asked.addresses.iter().map(|asked| (asked.prefix.address, asked.prefix.length)).collect())
}

/// A route, and what the kernel reads of the request for it.
#[must_use]
pub fn asked_route(asked: &Route) -> Option<[String; 2]> {
    let route = AskedRoute::new(asked).ok()?.through(Some(1));
    Some([format!("{:?}", Some(&route)), format!("{:?}", routes::sent(&route).as_ref())])
}

/// A neighbour's interface.
#[must_use]
pub fn asked_neighbor(asked: &ARPNeighbor) -> Option<String> {
    Some(AskedNeighbor::new(asked).ok()?.device)
}
