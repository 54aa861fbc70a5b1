//! What is in a pod's namespace.

use std::io;

use crate::netlink::{Address, Link, Neighbour, Route, Socket};

/// A namespace at one time.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// By index.
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
    pub(crate) neighbours: Vec<Neighbour>,
}

impl Scan {
    /// Reads the namespace that `socket` belongs to.
    pub(crate) fn of(socket: &mut Socket) -> io::Result<Self> {
        Ok(Self {
            links: socket.links()?,
            addresses: socket.addresses()?,
            routes: socket.routes()?,
            neighbours: socket.neighbours()?,
        })
    }

    /// Whether the interface has an address that somebody gave it: every IPv6 interface has one on its link.
    pub(crate) fn has_address(&self, link: &Link) -> bool {
        self.addresses.iter().any(|address| address.link == link.index && !is_link_local(address))
    }
}

/// An address of `fe80::/10`: each side makes its own.
pub(crate) fn is_link_local(address: &Address) -> bool {
    matches!(address.address, std::net::IpAddr::V6(address) if address.is_unicast_link_local())
}
