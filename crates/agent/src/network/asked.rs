//! What a request asks for, read and checked before anything is changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kata_protocol::types::{ARPNeighbor, IPAddress, IPFamily, Interface, Route};

use crate::pci;

/// linux/if.h: the longest name, without the zero at its end.
const LONGEST_NAME: usize = 15;

/// linux/if.h.
const IFF_NOARP: u32 = 0x80;

/// linux/rtnetlink.h.
const RTNH_F_ONLINK: u32 = 4;
const RT_SCOPE_LINK: u8 = 253;
const RT_TABLE_MAIN: u32 = 254;

/// The metric that the kernel gives a route over IPv6 that names none.
const METRIC_V6: u32 = 1024;

/// linux/neighbour.h.
const NUD_PERMANENT: u16 = 0x80;

/// Part of a request that has no meaning.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("The {part} of {whose} cannot be {value:?}; it is {expected}")]
pub(crate) struct Invalid {
    whose: String,
    part: &'static str,
    value: String,
    expected: &'static str,
}

type Result<T> = std::result::Result<T, Invalid>;

/// An address and the length of the prefix of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

/// An address as an interface shall have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskedAddress {
    pub(crate) prefix: Prefix,
    /// The kernel makes no route to its network.
    pub(crate) no_prefix_route: bool,
}

/// By what an interface is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Its hardware address.
    Hardware(Vec<u8>),
    /// Where its card is on the PCI bus.
    Pci(pci::Place),
    /// Its present name.
    Name(String),
}

/// An interface as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AskedInterface {
    pub(crate) key: Key,
    /// `None`: it keeps the one that it has.
    pub(crate) name: Option<String>,
    pub(crate) addresses: Vec<AskedAddress>,
    /// In bytes; 0: it keeps the one that it has.
    pub(crate) mtu: u32,
    pub(crate) no_arp: bool,
}

/// A route as it shall be, with its interface's name or index as `Device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteTo<Device> {
    /// The default route has a length of 0.
    pub(crate) dest: Prefix,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) device: Option<Device>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) scope: u8,
    /// The gateway needs no route to it.
    pub(crate) on_link: bool,
    /// In bytes; 0: the interface's.
    pub(crate) mtu: u32,
    pub(crate) metric: u32,
    pub(crate) table: u32,
}

/// A route that a request names.
pub(crate) type AskedRoute = RouteTo<String>;

/// An entry for the table of neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AskedNeighbor {
    pub(crate) address: IpAddr,
    pub(crate) device: String,
    pub(crate) hardware: Vec<u8>,
    pub(crate) state: u16,
    pub(crate) flags: u8,
}

impl AskedInterface {
    /// From a message.
    pub(crate) fn new(asked: &Interface) -> Result<Self> {
        let given = [&asked.name, &asked.device, &asked.hwAddr].into_iter().find(|text| !text.is_empty());
        let whose = format!("interface {}", given.map_or("without a name", |text| text));
        let wrong = |part, value: &str, expected| Invalid {
            whose: whose.clone(),
            part,
            value: value.to_owned(),
            expected,
        };
        let key = if !asked.hwAddr.is_empty() {
            let expected = "six bytes in hexadecimal, separated by colons";
            Key::Hardware(hardware(&asked.hwAddr).ok_or_else(|| wrong("hwAddr", &asked.hwAddr, expected))?)
        } else if !asked.devicePath.is_empty() {
            let expected = "slots of the PCI bus in hexadecimal, separated by slashes";
            let place = asked.devicePath.parse().ok();
            Key::Pci(place.ok_or_else(|| wrong("devicePath", &asked.devicePath, expected))?)
        } else {
            let expected = "the name of an interface, if neither hwAddr nor devicePath is given";
            Key::Name(name(&asked.device).ok_or_else(|| wrong("device", &asked.device, expected))?)
        };
        let new_name = match asked.name.as_str() {
            "" => None,
            given => {
                Some(name(given).ok_or_else(|| wrong("name", given, "at most 15 bytes, without / and :"))?)
            }
        };
        let mut addresses = Vec::new();
        for address in &asked.IPAddresses {
            let text = format!("{}/{}", address.address, address.mask);
            let expected = "an address with the length of its prefix";
            let prefix = prefix(address).ok_or_else(|| wrong("address", &text, expected))?;
            addresses.push(AskedAddress { prefix, no_prefix_route: address.no_prefix_route });
        }
        let mtu = u32::try_from(asked.mtu)
            .map_err(|_| wrong("MTU", &asked.mtu.to_string(), "a number of bytes below 4 GiB"))?;
        let no_arp = asked.raw_flags & IFF_NOARP != 0;
        Ok(Self { key, name: new_name, addresses, mtu, no_arp })
    }
}

impl AskedRoute {
    /// From a message.
    pub(crate) fn new(asked: &Route) -> Result<Self> {
        let whose = format!("route to {:?}", asked.dest);
        let wrong = |part, value: &str| {
            let expected = "an address of the route's family";
            Invalid { whose: whose.clone(), part, value: value.to_owned(), expected }
        };
        let optional = |part, text: &str| match text {
            "" => Ok(None),
            text => text.parse::<IpAddr>().map(Some).map_err(|_| wrong(part, text)),
        };
        let gateway = optional("gateway", &asked.gateway)?;
        let source = optional("source", &asked.source)?;
        let is_v6 = match source.or(gateway) {
            Some(address) => address.is_ipv6(),
            None => asked.family.enum_value() == Ok(IPFamily::v6),
        };
        let dest = dest(&asked.dest, is_v6).ok_or_else(|| wrong("dest", &asked.dest))?;
        let is_v6 = dest.address.is_ipv6();
        if source.is_some_and(|source| source.is_ipv6() != is_v6) {
            return Err(wrong("source", &asked.source));
        }
        if is_v6 && gateway.is_some_and(|gateway| gateway.is_ipv4()) {
            return Err(wrong("gateway", &asked.gateway));
        }
        let device = name(&asked.device);
        if device.is_none() && (gateway.is_none() || !asked.device.is_empty()) {
            let expected = "an interface, where there is no gateway";
            return Err(Invalid { expected, ..wrong("device", &asked.device) });
        }
        let scope = u8::try_from(asked.scope).map_err(|_| {
            let expected = "a number of rt_scopes, at most 255";
            Invalid { expected, ..wrong("scope", &asked.scope.to_string()) }
        })?;
        // What is reached without a gateway is on the link, as for ip-route(8); or no gateway could be reached there.
        let direct = scope == 0 && gateway.is_none();
        let scope = match scope {
            // IPv6 has none.
            _ if is_v6 => 0,
            _ if direct => RT_SCOPE_LINK,
            scope => scope,
        };
        Ok(Self {
            dest,
            gateway,
            device,
            source,
            scope,
            on_link: asked.flags & RTNH_F_ONLINK != 0,
            mtu: asked.mtu,
            metric: if is_v6 && asked.metric == 0 { METRIC_V6 } else { asked.metric },
            table: if asked.table == 0 { RT_TABLE_MAIN } else { asked.table },
        })
    }
}

impl<T> RouteTo<T> {
    /// The same through another interface, or one named otherwise.
    pub(super) fn through<U>(&self, device: Option<U>) -> RouteTo<U> {
        let Self { dest, gateway, source, scope, on_link, mtu, metric, table, .. } = *self;
        RouteTo { dest, gateway, device, source, scope, on_link, mtu, metric, table }
    }
}

impl AskedNeighbor {
    /// From a message.
    pub(crate) fn new(asked: &ARPNeighbor) -> Result<Self> {
        let address = &asked.toIPAddress.address;
        let wrong = |part, value: &str, expected| Invalid {
            whose: format!("neighbour {address:?}"),
            part,
            value: value.to_owned(),
            expected,
        };
        let number = |part, number: i32, widest: u16| match u16::try_from(number) {
            Ok(number) if number <= widest => Ok(number),
            _ => Err(wrong(part, &number.to_string(), "a number of linux/neighbour.h")),
        };
        let flags = number("flags", asked.flags, 0xff)?;
        Ok(Self {
            address: address.parse().map_err(|_| wrong("address", address, "one of IPv4 or IPv6"))?,
            device: name(&asked.device)
                .ok_or_else(|| wrong("device", &asked.device, "the name of an interface"))?,
            hardware: match asked.lladdr.as_str() {
                "" => Vec::new(),
                text => hardware(text)
                    .ok_or_else(|| wrong("lladdr", text, "bytes in hexadecimal, separated by colons"))?,
            },
            state: match number("state", asked.state, u16::MAX)? {
                0 => NUD_PERMANENT,
                state => state,
            },
            flags: flags.to_le_bytes()[0],
        })
    }
}

/// Bytes in hexadecimal, separated by colons.
fn hardware(text: &str) -> Option<Vec<u8>> {
    let byte = |text: &str| {
        let plain = text.len() <= 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        u8::from_str_radix(text, 16).ok().filter(|_| plain)
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    bytes.filter(|bytes| (6..=20).contains(&bytes.len()))
}

/// A name that the kernel takes.
fn name(text: &str) -> Option<String> {
    let taken =
        text.bytes().all(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b'/' | b':' | 0 | b'%'));
    let usable = taken && (1..=LONGEST_NAME).contains(&text.len()) && text != "." && text != "..";
    usable.then(|| text.to_owned())
}

/// The mask is a length, a dotted mask, or nothing for a single address.
fn prefix(asked: &IPAddress) -> Option<Prefix> {
    let address: IpAddr = asked.address.parse().ok()?;
    let length = match asked.mask.as_str() {
        "" => widest(address),
        mask if mask.contains('.') => dotted(mask).filter(|_| address.is_ipv4())?,
        mask => length(mask, address)?,
    };
    Some(Prefix { address, length })
}

fn dest(text: &str, is_v6: bool) -> Option<Prefix> {
    if text.is_empty() || text == "default" {
        let address = if is_v6 { IpAddr::V6(0.into()) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        return Some(Prefix { address, length: 0 });
    }
    let (address, rest) = text.split_once('/').map_or((text, None), |(address, rest)| (address, Some(rest)));
    let address = address.parse().ok()?;
    let length = rest.map_or(Some(widest(address)), |rest| length(rest, address))?;
    Some(Prefix { address: network(address, length), length })
}

/// The address without what comes after its prefix, which the kernel does not keep.
fn network(address: IpAddr, length: u8) -> IpAddr {
    let after = u32::from(widest(address) - length);
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::MAX.checked_shl(after).unwrap_or(0) & u32::from(v4)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::MAX.checked_shl(after).unwrap_or(0) & u128::from(v6)).into(),
    }
}

fn widest(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn length(text: &str, address: IpAddr) -> Option<u8> {
    text.parse().ok().filter(|length| *length <= widest(address))
}

fn dotted(mask: &str) -> Option<u8> {
    let bits = u32::from(mask.parse::<Ipv4Addr>().ok()?);
    let length = bits.leading_ones();
    // Ones, then zeros.
    (bits.count_ones() == length).then(|| u8::try_from(length).ok())?
}

#[cfg(test)]
#[path = "asked/tests.rs"]
mod tests;
