//! What is understood of a request, for the fuzz targets in `fuzz/`.

use std::net::IpAddr;

use kata_protocol::types::{ARPNeighbor, Interface, Route};

use super::asked::{AskedInterface, AskedNeighbor, AskedRoute};
use super::routes;

/// An interface's new name, and its addresses with the lengths of their prefixes.
#[must_use]
pub fn asked_interface(asked: &Interface) -> Option<(Option<String>, Vec<(IpAddr, u8)>)> {
    let asked = AskedInterface::new(asked).ok()?;
    let addresses = asked.addresses.iter().map(|prefix| (prefix.address, prefix.length));
    Some((asked.name, addresses.collect()))
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
