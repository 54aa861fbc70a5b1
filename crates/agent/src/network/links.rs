//! Interfaces as the kernel has them (`RTM_*LINK`).

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::asked::Key;
use super::netlink::{Netlink, NetlinkError, announcements};
use super::wire::{Message, attributes, number, text};
use super::{NetworkError, Result};

/// linux/rtnetlink.h and linux/if_link.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

/// linux/if.h.
pub(super) const IFF_UP: u32 = 1;
pub(super) const IFF_NOARP: u32 = 0x80;
const IFF_LOOPBACK: u32 = 8;

/// `struct ifinfomsg`.
const FIXED: usize = 16;

/// How long a card may take to appear that was plugged in when a request came.
const APPEARANCE: Duration = Duration::from_secs(5);

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) hardware: Vec<u8>,
    pub(super) mtu: u32,
    /// IFF_*.
    pub(super) flags: u32,
    /// What the kernel calls a device without hardware, such as `veth`; else empty.
    pub(super) kind: String,
}

impl Link {
    fn read(body: &[u8]) -> Option<Self> {
        let mut link = Self { index: number(body, 4)?, flags: number(body, 8)?, ..Self::default() };
        for (kind, value) in attributes(body.get(FIXED..)?) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_ADDRESS => value.clone_into(&mut link.hardware),
                IFLA_MTU => link.mtu = number(value, 0)?,
                IFLA_LINKINFO => {
                    let found = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    link.kind = found.map(|(_, value)| text(value)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }

    fn has(&self, key: &Key) -> bool {
        match key {
            // The loopback's is all zeros.
            Key::Hardware(address) => self.flags & IFF_LOOPBACK == 0 && self.hardware == *address,
            Key::Pci(place) => place.name_in("net").is_some_and(|name| name == self.name),
            Key::Name(name) => self.name == *name,
        }
    }
}

/// All interfaces.
pub(super) fn list(netlink: &Netlink) -> Result<Vec<Link>> {
    let list = netlink.list(RTM_GETLINK, &[0; FIXED]).map_err(NetworkError::list("interfaces"))?;
    Ok(list.iter().filter_map(|body| Link::read(body)).collect())
}

/// The interface of that index, as it is now.
pub(super) fn of_index(netlink: &Netlink, index: u32) -> Result<Option<Link>> {
    Ok(list(netlink)?.into_iter().find(|link| link.index == index))
}

/// The interface of that key. Of several with one hardware address it is the card, not a device on top of it.
pub(super) fn find(netlink: &Netlink, key: &Key) -> Result<Option<Link>> {
    let found = list(netlink)?.into_iter().filter(|link| link.has(key));
    Ok(found.min_by_key(|link| (!link.kind.is_empty(), link.index)))
}

/// Waits for an interface that may have been plugged in a moment ago.
pub(super) async fn arrival(netlink: &Netlink, key: &Key) -> Result<Link> {
    if let Some(link) = find(netlink, key)? {
        return Ok(link);
    }
    // Listening comes before looking, so that nothing is missed in between.
    let events = announcements().and_then(|socket| crate::sys::watch(socket, Interest::READABLE));
    let events = events.map_err(NetworkError::Watch)?;
    let arrival = tokio::time::timeout(APPEARANCE, wait(netlink, key, &events));
    arrival.await.unwrap_or_else(|_| Err(NetworkError::Absent { key: key.clone(), limit: APPEARANCE }))
}

async fn wait(netlink: &Netlink, key: &Key, events: &AsyncFd<OwnedFd>) -> Result<Link> {
    loop {
        if let Some(link) = find(netlink, key)? {
            return Ok(link);
        }
        crate::announcements::next(events).await.map_err(NetworkError::Watch)?;
    }
}

/// Gives an interface its name. One that has that name gets this one's.
pub(super) fn rename(netlink: &Netlink, link: &Link, name: &str) -> Result<()> {
    if link.name == name {
        return Ok(());
    }
    let Some(other) = list(netlink)?.into_iter().find(|other| other.name == name) else {
        return call(netlink, link, name);
    };
    call(netlink, &other, &format!("swap{}", other.index))?;
    call(netlink, link, name)?;
    call(netlink, &other, &link.name)
}

/// An interface that is up cannot get a name.
fn call(netlink: &Netlink, link: &Link, name: &str) -> Result<()> {
    let failed = |source| NetworkError::Interface {
        name: link.name.clone(),
        what: format!("be called {name}"),
        source,
    };
    let was_up = link.flags & IFF_UP != 0;
    if was_up {
        set_flags(netlink, link.index, 0, IFF_UP).map_err(failed)?;
    }
    let called = netlink.change(message(link.index, 0, 0).with_text(IFLA_IFNAME, name), 0);
    if was_up {
        set_flags(netlink, link.index, IFF_UP, IFF_UP).map_err(failed)?;
    }
    called.map_err(failed)
}

/// Sets the largest packet, in bytes.
pub(super) fn set_mtu(netlink: &Netlink, index: u32, mtu: u32) -> std::result::Result<(), NetlinkError> {
    netlink.change(message(index, 0, 0).with_number(IFLA_MTU, mtu), 0)
}

/// Sets those flags that are in `mask`.
pub(super) fn set_flags(
    netlink: &Netlink,
    index: u32,
    flags: u32,
    mask: u32,
) -> std::result::Result<(), NetlinkError> {
    netlink.change(message(index, flags, mask), 0)
}

fn message(index: u32, flags: u32, mask: u32) -> Message {
    let fixed = [0, index, flags, mask].map(u32::to_ne_bytes).concat();
    Message::new(RTM_NEWLINK, &fixed)
}
