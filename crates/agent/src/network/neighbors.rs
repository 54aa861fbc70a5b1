//! Neighbours: hardware addresses that need not be asked for (`RTM_*NEIGH`).

use super::addresses::{family, octets};
use super::asked::AskedNeighbor;
use super::links::Link;
use super::netlink::{CREATE, Netlink, REPLACE};
use super::wire::Message;
use super::{NetworkError, Result};

/// linux/rtnetlink.h and linux/neighbour.h.
const RTM_NEWNEIGH: u16 = 28;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const RTN_UNICAST: u8 = 1;

/// Adds entries, or changes those of the same addresses.
pub(super) fn add(netlink: &Netlink, links: &[Link], asked: &[AskedNeighbor]) -> Result<()> {
    for neighbor in asked {
        let AskedNeighbor { address, device, .. } = neighbor;
        let link = links.iter().find(|link| link.name == *device).ok_or_else(|| NetworkError::NoDevice {
            what: format!("neighbour {address}"),
            device: device.clone(),
        })?;
        netlink
            .change(message(link.index, neighbor), CREATE | REPLACE)
            .map_err(|source| NetworkError::Neighbor { address: *address, device: device.clone(), source })?;
    }
    Ok(())
}

fn message(index: u32, neighbor: &AskedNeighbor) -> Message {
    // `struct ndmsg`.
    let mut fixed = vec![family(neighbor.address), 0, 0, 0];
    fixed.extend(index.to_ne_bytes());
    fixed.extend(neighbor.state.to_ne_bytes());
    fixed.extend([neighbor.flags, RTN_UNICAST]);
    let message = Message::new(RTM_NEWNEIGH, &fixed).with(NDA_DST, &octets(neighbor.address));
    if neighbor.hardware.is_empty() { message } else { message.with(NDA_LLADDR, &neighbor.hardware) }
}
