//! Addresses of interfaces as the kernel has them (`RTM_*ADDR`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::asked::{AskedAddress, Prefix};
use super::links::Link;
use super::netlink::{CREATE, Netlink, REPLACE};
use super::wire::{Message, attributes, number};
use super::{NetworkError, Result};

/// linux/rtnetlink.h and linux/if_addr.h.
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u8 = 2;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// `struct ifaddrmsg`.
const FIXED: usize = 8;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The interface's index.
    pub(super) index: u32,
    pub(super) prefix: Prefix,
    /// The kernel makes no route to its network.
    pub(super) no_prefix_route: bool,
}

impl Address {
    fn read(body: &[u8]) -> Option<Self> {
        let (length, index) = (*body.get(1)?, number(body, 4)?);
        let (mut local, mut other, mut flags) = (None, None, 0);
        for (kind, value) in attributes(body.get(FIXED..)?) {
            match kind {
                IFA_LOCAL => local = address(value),
                IFA_ADDRESS => other = address(value),
                IFA_FLAGS => flags = number(value, 0)?,
                _ => {}
            }
        }
        // On a point-to-point link the other one is the peer's.
        let prefix = Prefix { address: local.or(other)?, length };
        Some(Self { index, prefix, no_prefix_route: flags & IFA_F_NOPREFIXROUTE != 0 })
    }
}

/// Four bytes or sixteen.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

/// As [`address`] reads them.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The kernel's number of an address's family.
pub(super) fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    family.to_le_bytes()[0]
}

/// The addresses of all interfaces.
pub(super) fn list(netlink: &Netlink) -> Result<Vec<Address>> {
    let list = netlink.list(RTM_GETADDR, &[0; FIXED]).map_err(NetworkError::list("addresses"))?;
    Ok(list.iter().filter_map(|body| Address::read(body)).collect())
}

/// Gives an interface these addresses and no others, but those that the kernel makes for the link.
pub(super) fn set(netlink: &Netlink, link: &Link, asked: &[AskedAddress]) -> Result<()> {
    let failed = |what, prefix: &Prefix| {
        let what = format!("{what} the address {}/{}", prefix.address, prefix.length);
        move |source| NetworkError::Interface { name: link.name.clone(), what, source }
    };
    for present in list(netlink)?.iter().filter(|present| present.index == link.index) {
        let Address { ref prefix, no_prefix_route, .. } = *present;
        // An address that is there keeps its route, or stays without.
        if asked.contains(&AskedAddress { prefix: *prefix, no_prefix_route }) || is_of_link(prefix.address) {
            continue;
        }
        match netlink.change(message(RTM_DELADDR, link.index, prefix), 0) {
            // It went with another one of its network.
            Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => {}
            done => done.map_err(failed("lose", prefix))?,
        }
    }
    for AskedAddress { prefix, no_prefix_route } in asked {
        let mut message = message(RTM_NEWADDR, link.index, prefix).with(IFA_ADDRESS, &octets(prefix.address));
        if *no_prefix_route {
            // They stand for those at the message's begin.
            let flags = IFA_F_NOPREFIXROUTE | u32::from(flags(prefix));
            message = message.with_number(IFA_FLAGS, flags);
        }
        if let Some(broadcast) = broadcast(prefix) {
            message = message.with(IFA_BROADCAST, &broadcast.octets());
        }
        netlink.change(message, CREATE | REPLACE).map_err(failed("have", prefix))?;
    }
    Ok(())
}

/// Nobody else can have the pod's address, and a tentative one cannot be used.
fn flags(prefix: &Prefix) -> u8 {
    if prefix.address.is_ipv6() { IFA_F_NODAD } else { 0 }
}

fn message(kind: u16, index: u32, prefix: &Prefix) -> Message {
    let mut fixed = vec![family(prefix.address), prefix.length, flags(prefix), 0];
    fixed.extend(index.to_ne_bytes());
    Message::new(kind, &fixed).with(IFA_LOCAL, &octets(prefix.address))
}

/// The last address of a network over IPv4 that has one to spare.
fn broadcast(prefix: &Prefix) -> Option<Ipv4Addr> {
    let IpAddr::V4(address) = prefix.address else { return None };
    let hosts = u32::MAX.checked_shr(prefix.length.into()).filter(|_| prefix.length < 31)?;
    Some(Ipv4Addr::from(u32::from(address) | hosts))
}

fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_networks_with_room_have_a_broadcast_address() {
        let of = |text: &str, length| broadcast(&Prefix { address: text.parse().expect("address"), length });
        assert_eq!(of("10.1.2.3", 24), Some(Ipv4Addr::new(10, 1, 2, 255)));
        assert_eq!(of("10.1.2.3", 0), Some(Ipv4Addr::BROADCAST));
        assert_eq!([of("10.1.2.3", 31), of("10.1.2.3", 32), of("fd00::1", 16)], [None; 3]);
    }
}
