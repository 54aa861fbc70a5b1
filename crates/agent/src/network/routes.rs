//! Routes as the kernel has them (`RTM_*ROUTE`).

use std::net::{IpAddr, Ipv4Addr};

use super::addresses::{address, family, octets};
use super::asked::{AskedRoute, Prefix, RouteTo};
use super::links::Link;
use super::netlink::{APPEND, CREATE, Netlink, NetlinkError};
use super::wire::{Message, attribute, attributes, number, short};
use super::{NetworkError, Result};

/// linux/rtnetlink.h.
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;
const RT_TABLE_UNSPEC: u8 = 0;
const RT_TABLE_MAIN: u32 = 254;

/// Who made a route.
const RTPROT_KERNEL: u8 = 2;
const RTPROT_BOOT: u8 = 3;
const RTPROT_RA: u8 = 9;

/// `struct rtmsg` and `struct rtnexthop`.
const FIXED: usize = 12;
const NEXT_HOP: usize = 8;

/// A route through the interface of an index.
pub(super) type Route = RouteTo<u32>;

/// One entry of the kernel's table.
#[derive(Debug)]
pub(super) struct Entry {
    /// One for each of its next hops.
    pub(super) routes: Vec<Route>,
    protocol: u8,
    /// As the kernel told it, which is also how it is named.
    body: Vec<u8>,
}

impl Entry {
    /// The guest's own matter: connected networks, and what routers announce.
    pub(super) fn is_kernels(&self) -> bool {
        matches!(self.protocol, RTPROT_KERNEL | RTPROT_RA)
    }

    /// `None` for what is no route to another place: local addresses, broadcasts, cached routes.
    fn read(body: Vec<u8>) -> Option<Self> {
        let &[family, length, _, _, table, protocol, scope, kind, ..] = &*body else { return None };
        let flags = number(&body, 8)?;
        if kind != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
            return None;
        }
        let v6 = i32::from(family) == libc::AF_INET6;
        if !v6 && i32::from(family) != libc::AF_INET {
            return None;
        }
        let zero = if v6 { IpAddr::V6(0.into()) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let mut route = Route {
            dest: Prefix { address: zero, length },
            gateway: None,
            device: None,
            source: None,
            scope,
            on_link: flags & RTNH_F_ONLINK != 0,
            mtu: 0,
            metric: 0,
            table: table.into(),
        };
        let mut hops = None;
        for (kind, value) in attributes(body.get(FIXED..)?) {
            match kind {
                RTA_DST => route.dest.address = address(value)?,
                RTA_PREFSRC => route.source = address(value),
                RTA_PRIORITY => route.metric = number(value, 0)?,
                RTA_TABLE => route.table = number(value, 0)?,
                RTA_METRICS => route.mtu = mtu(value),
                RTA_MULTIPATH => hops = Some(value),
                kind => read_way(&mut route, kind, value),
            }
        }
        let routes = hops.map_or_else(|| vec![route.clone()], |hops| each_hop(&route, hops));
        Some(Self { routes, protocol, body })
    }
}

fn mtu(metrics: &[u8]) -> u32 {
    let found = attributes(metrics).find(|(kind, _)| *kind == RTAX_MTU);
    found.and_then(|(_, value)| number(value, 0)).unwrap_or_default()
}

/// Where packets go.
fn read_way(route: &mut Route, kind: u16, value: &[u8]) {
    match kind {
        RTA_OIF => route.device = number(value, 0),
        RTA_GATEWAY => route.gateway = address(value),
        // Of another family, which comes first.
        RTA_VIA => route.gateway = value.get(2..).and_then(address),
        _ => {}
    }
}

/// A list of `struct rtnexthop`, each with its attributes.
fn each_hop(common: &Route, mut rest: &[u8]) -> Vec<Route> {
    let mut routes = Vec::new();
    while let (Some(length), Some(index)) = (short(rest, 0).map(usize::from), number(rest, 4)) {
        let Some(found) = rest.get(NEXT_HOP..length) else { break };
        let on_link = u32::from(rest[2]) & RTNH_F_ONLINK != 0;
        let mut route = Route { device: Some(index), on_link, ..common.clone() };
        for (kind, value) in attributes(found) {
            read_way(&mut route, kind, value);
        }
        routes.push(route);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    routes
}

/// All routes of both families, but those to the guest itself.
pub(super) fn list(netlink: &Netlink) -> Result<Vec<Entry>> {
    let list = netlink.list(RTM_GETROUTE, &[0; FIXED]).map_err(NetworkError::list("routes"))?;
    Ok(list.into_iter().filter_map(Entry::read).collect())
}

/// Makes the routes exactly those asked for, apart from what the kernel makes, in the main table and in those that are
/// named.
pub(super) fn set(netlink: &Netlink, links: &[Link], asked: &[AskedRoute]) -> Result<()> {
    let asked = asked.iter().map(|route| resolve(links, route)).collect::<Result<Vec<_>>>()?;
    let ours = |entry: &Entry| {
        let table = entry.routes.first().map_or(0, |route| route.table);
        !entry.is_kernels() && (table == RT_TABLE_MAIN || asked.iter().any(|route| route.table == table))
    };
    let mut kept = Vec::new();
    for entry in list(netlink)? {
        let wanted = |route: &Route| asked.iter().any(|asked| is_same(asked, route));
        if ours(&entry) && !entry.routes.iter().all(wanted) {
            remove(netlink, links, &entry)?;
        } else {
            kept.push(entry);
        }
    }
    let missing = asked.into_iter().filter(|route| !kept.iter().any(|entry| serves(entry, route)));
    add_all(netlink, links, missing.collect())
}

/// Whether a present route is the one that was asked for. The kernel finds the interface of a gateway itself.
fn is_same(asked: &Route, present: &Route) -> bool {
    let device = asked.device.or(present.device);
    Route { device, ..asked.clone() } == *present
}

/// The kernel's own route to a connected network also has the address as its source.
fn serves(entry: &Entry, asked: &Route) -> bool {
    entry.routes.iter().any(|present| {
        let source = if entry.is_kernels() { asked.source.or(present.source) } else { asked.source };
        is_same(&Route { source, ..asked.clone() }, present)
    })
}

fn resolve(links: &[Link], asked: &AskedRoute) -> Result<Route> {
    let device = match &asked.device {
        None => None,
        Some(name) => {
            let link = links.iter().find(|link| link.name == *name);
            let missing =
                || NetworkError::NoDevice { what: describe(asked, Some(name)), device: name.clone() };
            Some(link.ok_or_else(missing)?.index)
        }
    };
    Ok(asked.through(device))
}

/// A gateway may be reached by a route that comes later in the list: what fails is tried again as long as others succeed.
fn add_all(netlink: &Netlink, links: &[Link], mut waiting: Vec<Route>) -> Result<()> {
    loop {
        let before = waiting.len();
        let mut first = None;
        waiting.retain(|route| match netlink.change(add_message(route), CREATE | APPEND) {
            Ok(()) => false,
            Err(error) if error.errno() == Some(libc::EEXIST) => false,
            Err(error) => {
                first.get_or_insert_with(|| failed(links, route, "added")(error));
                true
            }
        });
        match first {
            Some(error) if waiting.len() == before => return Err(error),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn add_message(route: &Route) -> Message {
    let Prefix { address, length } = route.dest;
    let table = u8::try_from(route.table).unwrap_or(RT_TABLE_UNSPEC);
    let mut fixed = vec![family(address), length, 0, 0, table, RTPROT_BOOT, route.scope, RTN_UNICAST];
    fixed.extend(if route.on_link { RTNH_F_ONLINK } else { 0 }.to_ne_bytes());
    let mut message = Message::new(RTM_NEWROUTE, &fixed).with_number(RTA_TABLE, route.table);
    if length > 0 {
        message = message.with(RTA_DST, &octets(address));
    }
    if let Some(gateway) = route.gateway {
        message = if gateway.is_ipv6() == address.is_ipv6() {
            message.with(RTA_GATEWAY, &octets(gateway))
        } else {
            let family = u16::from(family(gateway)).to_ne_bytes();
            message.with(RTA_VIA, &[&family[..], &octets(gateway)].concat())
        };
    }
    if let Some(source) = route.source {
        message = message.with(RTA_PREFSRC, &octets(source));
    }
    for (kind, number) in [(RTA_OIF, route.device.unwrap_or_default()), (RTA_PRIORITY, route.metric)] {
        if number > 0 {
            message = message.with_number(kind, number);
        }
    }
    if route.mtu > 0 {
        message = message.with(RTA_METRICS, &attribute(RTAX_MTU, &route.mtu.to_ne_bytes()));
    }
    message
}

fn remove(netlink: &Netlink, links: &[Link], entry: &Entry) -> Result<()> {
    match netlink.change(Message::new(RTM_DELROUTE, &entry.body), 0) {
        // It went with its interface.
        Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
        done => match entry.routes.first() {
            Some(route) => done.map_err(failed(links, route, "removed")),
            None => Ok(()),
        },
    }
}

fn failed(links: &[Link], route: &Route, done: &'static str) -> impl FnOnce(NetlinkError) -> NetworkError {
    let device = links.iter().find(|link| Some(link.index) == route.device);
    let what = describe(route, device.map(|link| link.name.as_str()));
    move |source| NetworkError::Route { what, done, source }
}

/// As ip-route(8) writes it.
fn describe<T>(route: &RouteTo<T>, device: Option<&str>) -> String {
    let Prefix { address, length } = route.dest;
    let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let device = device.map(|device| format!(" dev {device}")).unwrap_or_default();
    format!("{address}/{length}{via}{device}")
}

/// What the kernel would read of a request for a route.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn sent(route: &Route) -> Option<Route> {
    let bytes = add_message(route).into_bytes(0, 0);
    let body = super::wire::messages(&bytes).next()?.body.to_vec();
    Entry::read(body)?.routes.pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kata_protocol::types;

    fn route(dest: &str, gateway: &str) -> Route {
        let asked = types::Route {
            dest: dest.into(),
            gateway: gateway.into(),
            device: "eth0".into(),
            mtu: 1300,
            metric: 7,
            table: 1000,
            flags: 4,
            ..Default::default()
        };
        AskedRoute::new(&asked).expect("has a meaning").through(Some(3))
    }

    #[test]
    fn a_route_is_read_as_it_is_sent() {
        for (dest, gateway) in [
            ("", "10.0.0.1"),
            ("10.0.0.0/8", ""),
            ("fd00::/64", "fe80::1"),
            ("0.0.0.0/0", "fe80::1"),
            ("::1", ""),
        ] {
            let route = route(dest, gateway);
            assert_eq!(sent(&route), Some(route));
        }
    }

    #[test]
    fn each_next_hop_of_a_route_is_a_route() {
        let hop = |index: u32, gateway: &str| {
            let gateway = attribute(RTA_GATEWAY, &octets(gateway.parse().expect("an address")));
            let length = u16::try_from(NEXT_HOP + gateway.len()).expect("is short");
            [&length.to_ne_bytes()[..], &[4, 0], &index.to_ne_bytes(), &gateway].concat()
        };
        let hops = attribute(RTA_MULTIPATH, &[hop(3, "fd00::1"), hop(4, "fd00::2")].concat());
        let family = libc::AF_INET6.to_le_bytes()[0];
        let fixed = [family, 0, 0, 0, 254, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
        let entry = Entry::read([&fixed[..], &hops].concat()).expect("is a route");
        let found: Vec<_> =
            entry.routes.iter().map(|route| (route.device, route.gateway, route.on_link)).collect();
        let gateway = |text: &str| text.parse().ok();
        assert_eq!(found, [(Some(3), gateway("fd00::1"), true), (Some(4), gateway("fd00::2"), true)]);
    }
}
