//! Network interfaces ("links"): read, made, set up, deleted.

use std::io;

use netlink_packet_core::Nla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoMacVtap, InfoTun, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage, MacVtapMode,
};

use super::Socket;

/// `IFLA_TUN_MULTI_QUEUE`, which the library does not name.
const TUN_MULTI_QUEUE: u16 = 7;

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The kernel's name of its kind ("veth"); `None` for hardware.
    pub(crate) kind: Option<String>,
    /// Its hardware address; 6 bytes for Ethernet.
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    /// It carries Ethernet frames.
    pub(crate) ethernet: bool,
    /// It does without ARP (`IFF_NOARP`).
    pub(crate) no_arp: bool,
    /// The index of the bridge, bond or VRF that it is a port of.
    pub(crate) controller: Option<u32>,
    /// The index of the interface that it stands on (or of its peer), if that is in the same namespace.
    pub(crate) lower: Option<u32>,
    /// The bus of the device behind it ("pci"). Kernels before 5.14 do not tell.
    pub(crate) bus: Option<String>,
    /// A TAP or TUN device with many queues.
    pub(crate) multi_queue: bool,
}

impl Link {
    /// Whether it is of `kind`.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

impl Socket {
    /// All interfaces, by index.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let dump = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let mut links: Vec<Link> = dump
            .into_iter()
            .filter_map(|object| match object {
                RouteNetlinkMessage::NewLink(link) => Some(from_message(link)),
                _ => None,
            })
            .collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The interface `name`.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Sets an interface up; `mtu` of `None` stays as it is.
    pub(crate) fn set_up(&mut self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// The kernel gives the interface no IPv6 address of its own. Nothing to do where it has no IPv6.
    pub(crate) fn no_own_ipv6(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        match self.request(RouteNetlinkMessage::SetLink(message), 0) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => Ok(()),
            result => result,
        }
    }

    /// Makes the macvtap `name` on the interface with the index `lower`. It takes over that one's hardware address and every
    /// packet (mode passthru).
    pub(crate) fn make_macvtap(&mut self, name: &str, lower: u32, mtu: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.extend([
            LinkAttribute::Link(lower),
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVtap),
                LinkInfo::Data(InfoData::MacVtap(vec![InfoMacVtap::Mode(MacVtapMode::Passthrough)])),
            ]),
        ]);
        self.create(RouteNetlinkMessage::NewLink(message))
    }

    pub(crate) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.request(RouteNetlinkMessage::DelLink(message), 0)
    }
}

fn from_message(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        no_arp: flags.contains(LinkFlags::Noarp),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        ..Link::default()
    };
    let mut elsewhere = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Link(index) => link.lower = Some(index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::ParentDevBusName(bus) => link.bus = Some(bus),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| read_info(&mut link, info)),
            _ => (),
        }
    }
    if elsewhere || link.lower == Some(link.index) {
        link.lower = None;
    }
    link
}

fn read_info(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
        LinkInfo::Data(InfoData::Tun(attributes)) => {
            link.multi_queue = attributes.iter().any(|attribute| {
                let InfoTun::Other(attribute) = attribute else { return false };
                let mut value = vec![0; attribute.value_len()];
                attribute.emit_value(&mut value);
                attribute.kind() == TUN_MULTI_QUEUE && value.first() == Some(&1)
            });
        }
        _ => (),
    }
}
