//! What somebody has changed about a pod's network by hand, beside what is in its namespace. It is kept by the indices of
//! the interfaces: one that is made anew is another one, whatever its name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use kata_network::{GuestNetwork, View};
use kata_protocol::types::{IPAddress, Interface as Message, Route as RouteMessage};

use super::NetworkFailure;
use super::json::{Interface, IpAddress, Route};

/// `RTNH_F_ONLINK` of `linux/rtnetlink.h`.
const ONLINK: u32 = 4;

/// The interface that every guest has.
const LOOPBACK: &str = "lo";

/// One change.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Attaches an interface of the namespace, or changes one that is attached.
    Add(Interface),
    /// Takes an interface out of the VM; by its name in the guest, or in the namespace.
    Remove(String),
    /// The guest's routes are these, or again those of the namespace.
    Routes(Option<Vec<Route>>),
}

/// All of them that hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    removed: BTreeSet<u32>,
    settings: BTreeMap<u32, Settings>,
    routes: Option<Vec<Pinned>>,
}

/// How an interface is to be in the guest where it is not as in the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Settings {
    name: Option<String>,
    mtu: Option<u32>,
    addresses: Vec<IpAddress>,
}

/// A route set by hand.
#[derive(Debug, Clone)]
struct Pinned {
    route: RouteMessage,
    /// It leads through an interface of the namespace, and holds only while that is attached.
    needs_card: bool,
}

type Result<T> = std::result::Result<T, NetworkFailure>;

/// The interfaces of the namespace with their indices.
fn all(view: &View) -> impl Iterator<Item = (u32, &Message)> {
    view.indices.iter().copied().zip(&view.guest.interfaces)
}

impl Changes {
    /// The interfaces that are to be attached, with their indices.
    pub(super) fn attached<'a>(&'a self, view: &'a View) -> impl Iterator<Item = (u32, &'a Message)> {
        all(view).filter(|(index, _)| !self.removed.contains(index))
    }

    /// What the guest is to have.
    pub(super) fn wanted(&self, view: &View) -> GuestNetwork {
        let mut guest = GuestNetwork::default();
        let mut routes = view.guest.routes.clone();
        let mut names = HashMap::new();
        for (index, message) in self.attached(view) {
            let mut interface = message.clone();
            if let Some(settings) = self.settings.get(&index) {
                settings.apply(&mut interface);
                settings.drop_unreachable(&message.device, &mut routes);
            }
            names.insert(interface.device.clone(), interface.name.clone());
            guest.interfaces.push(interface);
        }
        let rename = |device: &mut String| names.get(device).map(|name| name.clone_into(device)).is_some();
        routes.retain_mut(|route| rename(&mut route.device));
        guest.routes = match &self.routes {
            None => routes,
            Some(pinned) => {
                let is_there = |name: &String| guest.interfaces.iter().any(|there| there.name == *name);
                let held =
                    pinned.iter().filter(|pinned| !pinned.needs_card || is_there(&pinned.route.device));
                held.map(|pinned| pinned.route.clone()).collect()
            }
        };
        guest.neighbors.clone_from(&view.guest.neighbors);
        guest.neighbors.retain_mut(|neighbor| rename(&mut neighbor.device));
        guest
    }

    /// Forgets interfaces that are not in the namespace any more.
    pub(super) fn forget_gone(&mut self, view: &View) {
        self.removed.retain(|index| view.indices.contains(index));
        self.settings.retain(|index, _| view.indices.contains(index));
    }

    /// Adds a change.
    pub(super) fn make(&mut self, change: Change, view: &View) -> Result<()> {
        match change {
            Change::Add(asked) => self.add(asked, view),
            Change::Remove(name) => self.remove(name, view),
            Change::Routes(routes) => {
                let there = self.wanted(view).interfaces;
                let pinned = |route: Route| Pinned {
                    needs_card: there.iter().any(|interface| interface.name == route.device),
                    route: route.into(),
                };
                self.routes = routes.map(|routes| routes.into_iter().map(pinned).collect());
                Ok(())
            }
        }
    }

    fn add(&mut self, asked: Interface, view: &View) -> Result<()> {
        let is_asked = |message: &Message| match [&asked.device, &asked.mac, &asked.name] {
            [device, ..] if !device.is_empty() => message.device == *device,
            [_, mac, _] if !mac.is_empty() => message.hwAddr.eq_ignore_ascii_case(mac),
            [.., name] => message.device == *name,
        };
        let found = all(view).find(|(_, message)| is_asked(message));
        let (index, message) = found.ok_or_else(|| NetworkFailure::NoInterface {
            name: [&asked.device, &asked.mac, &asked.name]
                .into_iter()
                .find(|text| !text.is_empty())
                .cloned()
                .unwrap_or_default(),
            there: names(all(view).map(|(_, message)| &message.device)),
        })?;
        refuse_contradictions(&asked, message)?;
        let name = if asked.name.is_empty() { message.name.clone() } else { asked.name };
        let others = Self { removed: &self.removed | &BTreeSet::from([index]), ..self.clone() };
        if name == LOOPBACK || others.wanted(view).interfaces.iter().any(|other| other.name == name) {
            return Err(NetworkFailure::NameTaken { name });
        }
        self.removed.remove(&index);
        let settings = Settings {
            name: Some(name).filter(|name| *name != message.name),
            mtu: Some(asked.mtu).filter(|mtu| *mtu != 0),
            addresses: asked.addresses,
        };
        self.settings.remove(&index);
        if settings != Settings::default() {
            self.settings.insert(index, settings);
        }
        Ok(())
    }

    fn remove(&mut self, name: String, view: &View) -> Result<()> {
        let guest = self.wanted(view).interfaces;
        let attached: Vec<u32> = self.attached(view).map(|(index, _)| index).collect();
        let at = guest.iter().position(|interface| interface.name == name);
        let at = at.or_else(|| guest.iter().position(|interface| interface.device == name));
        let Some(index) = at.map(|at| attached[at]) else {
            let there = names(guest.iter().map(|interface| &interface.name));
            return Err(NetworkFailure::NotAttached { name, there });
        };
        self.removed.insert(index);
        self.settings.remove(&index);
        Ok(())
    }
}

impl Settings {
    fn apply(&self, interface: &mut Message) {
        if let Some(name) = &self.name {
            interface.name.clone_from(name);
        }
        if let Some(mtu) = self.mtu {
            interface.mtu = mtu.into();
        }
        if !self.addresses.is_empty() {
            interface.IPAddresses = self.addresses.iter().copied().map(IPAddress::from).collect();
        }
    }

    /// Routes of the namespace that other addresses do not lead to: the guest's kernel would refuse them.
    fn drop_unreachable(&self, device: &str, routes: &mut Vec<RouteMessage>) {
        if self.addresses.is_empty() {
            return;
        }
        let direct: Vec<IpAddress> = routes
            .iter()
            .filter(|route| route.device == device && route.gateway.is_empty())
            .filter_map(|route| route.dest.parse().ok())
            .chain(self.addresses.iter().copied())
            .collect();
        routes.retain(|route| {
            let gateway = route.gateway.parse().ok();
            let leads = gateway.is_none_or(|gateway| direct.iter().any(|net| contains(*net, gateway)));
            let source = route.source.parse::<IpAddr>().ok();
            let own = source.is_none_or(|source| self.addresses.iter().any(|own| own.address == source));
            route.device != device || ((leads || route.flags & ONLINK != 0) && own)
        });
    }
}

fn contains(net: IpAddress, address: IpAddr) -> bool {
    let (width, prefix) = (if address.is_ipv6() { 128 } else { 32 }, u32::from(net.prefix));
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let head = |address| bits(address).checked_shr(width - prefix).unwrap_or(0);
    net.address.is_ipv6() == address.is_ipv6() && head(net.address) == head(address)
}

fn names<'a>(all: impl Iterator<Item = &'a String>) -> String {
    let all: Vec<&str> = all.map(String::as_str).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// What is asked for must be as it is, or be the runtime's to change.
fn refuse_contradictions(asked: &Interface, message: &Message) -> Result<()> {
    let refused = |part, value: &str, expected: &str| {
        let (value, expected) = (value.to_owned(), expected.to_owned());
        Err(NetworkFailure::Unchangeable { part, value, expected })
    };
    if !asked.mac.is_empty() && !asked.mac.eq_ignore_ascii_case(&message.hwAddr) {
        return refused("hwAddr", &asked.mac, &message.hwAddr);
    }
    if !asked.kind.is_empty() && asked.kind != message.type_ {
        return refused("type", &asked.kind, &message.type_);
    }
    if !asked.device_path.is_empty() {
        return refused("devicePath", &asked.device_path, "");
    }
    if asked.raw_flags != 0 {
        return refused("raw_flags", &asked.raw_flags.to_string(), "0");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `eth0` with a default route, and `eth1`.
    fn view() -> View {
        let interface = |name: &str, address: &str| Message {
            device: name.to_owned(),
            name: name.to_owned(),
            hwAddr: format!("02:00:00:00:00:0{}", &name[3..]),
            mtu: 1500,
            IPAddresses: vec![address.parse::<IpAddress>().unwrap().into()],
            type_: "veth".to_owned(),
            ..Message::default()
        };
        let routes = ["default via 10.0.0.1 dev eth0", "10.9.0.0/16 via 10.1.0.1 dev eth1"];
        View {
            guest: GuestNetwork {
                interfaces: vec![interface("eth0", "10.0.0.2/24"), interface("eth1", "10.1.0.2/24")],
                routes: routes.map(|route| route.parse::<Route>().unwrap().into()).to_vec(),
                neighbors: Vec::new(),
            },
            indices: vec![5, 7],
        }
    }

    fn add(text: &str) -> Change {
        Change::Add(serde_json::from_str(text).unwrap())
    }

    fn interfaces(guest: &GuestNetwork) -> Vec<String> {
        let shown = |interface: &Message| {
            let ips = interface.IPAddresses.iter().map(|ip| format!("{}/{}", ip.address, ip.mask));
            format!("{} {} {}", interface.name, interface.mtu, ips.collect::<Vec<_>>().join(" "))
        };
        guest.interfaces.iter().map(shown).collect()
    }

    fn routes(guest: &GuestNetwork) -> Vec<String> {
        guest.routes.iter().map(|route| Route::told(route, str::to_owned).to_string()).collect()
    }

    #[test]
    fn without_changes_the_guest_has_what_the_namespace_has() {
        assert_eq!(Changes::default().wanted(&view()), view().guest);
    }

    #[test]
    fn a_removed_interface_stays_out_with_its_routes_until_it_is_added_or_made_anew() {
        let (mut changes, mut view) = (Changes::default(), view());
        changes.make(Change::Remove("eth1".into()), &view).unwrap();
        assert_eq!(routes(&changes.wanted(&view)), ["default via 10.0.0.1 dev eth0"]);
        let twice = changes.make(Change::Remove("eth1".into()), &view).unwrap_err();
        assert!(twice.to_string().contains("eth0"), "{twice}");
        let mut added = changes.clone();
        added.make(add(r#"{"device":"eth1"}"#), &view).unwrap();
        assert_eq!(added.wanted(&view), view.guest);
        view.indices[1] = 8;
        changes.forget_gone(&view);
        assert_eq!(changes.wanted(&view), view.guest);
    }

    #[test]
    fn an_interface_may_have_another_name_and_size_in_the_guest() {
        let (mut changes, view) = (Changes::default(), view());
        changes.make(add(r#"{"device":"eth1","name":"net1","mtu":1400}"#), &view).unwrap();
        let guest = changes.wanted(&view);
        assert_eq!(interfaces(&guest), ["eth0 1500 10.0.0.2/24", "net1 1400 10.1.0.2/24"]);
        assert_eq!(routes(&guest)[1], "10.9.0.0/16 via 10.1.0.1 dev net1");
        changes.make(Change::Remove("net1".into()), &view).unwrap();
        assert_eq!(interfaces(&changes.wanted(&view)).len(), 1);
    }

    #[test]
    fn routes_that_other_addresses_do_not_lead_to_are_left_out() {
        let (mut changes, view) = (Changes::default(), view());
        let other = r#"{"device":"eth1","IPAddresses":[{"address":"10.2.0.2","mask":"24"}]}"#;
        changes.make(add(other), &view).unwrap();
        assert_eq!(routes(&changes.wanted(&view)), ["default via 10.0.0.1 dev eth0"]);
        let more = r#"{"device":"eth1","IPAddresses":[{"address":"10.1.0.9","mask":"16"}]}"#;
        changes.make(add(more), &view).unwrap();
        assert_eq!(routes(&changes.wanted(&view)).len(), 2);
    }

    #[test]
    fn routes_set_by_hand_hold_while_their_interface_is_attached() {
        let (mut changes, view) = (Changes::default(), view());
        let own = ["10.20.0.0/16 via 10.1.0.1 dev eth1", "10.30.0.0/16 dev br0"];
        let all = own.map(|route| route.parse().unwrap()).to_vec();
        changes.make(Change::Routes(Some(all)), &view).unwrap();
        assert_eq!(routes(&changes.wanted(&view)).len(), 2);
        changes.make(Change::Remove("eth1".into()), &view).unwrap();
        assert_eq!(routes(&changes.wanted(&view)), ["10.30.0.0/16 dev br0"]);
        changes.make(add(r#"{"device":"eth1"}"#), &view).unwrap();
        assert_eq!(routes(&changes.wanted(&view)).len(), 2);
        changes.make(Change::Routes(None), &view).unwrap();
        assert_eq!(changes.wanted(&view), view.guest);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_there_is() {
        let (mut changes, view) = (Changes::default(), view());
        for (text, word) in [
            (r#"{"device":"eth2"}"#, "eth0, eth1"),
            (r#"{"hwAddr":"02:00:00:00:00:09"}"#, "eth0, eth1"),
            (r#"{"device":"eth1","hwAddr":"02:00:00:00:00:00"}"#, "02:00:00:00:00:01"),
            (r#"{"device":"eth1","type":"macvlan"}"#, "veth"),
            (r#"{"device":"eth1","devicePath":"02/03"}"#, "devicePath"),
            (r#"{"device":"eth1","name":"eth0"}"#, "eth0"),
            (r#"{"device":"eth1","name":"lo"}"#, "lo"),
        ] {
            let error = changes.make(add(text), &view).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert_eq!(changes.wanted(&view), view.guest);
        changes.make(add(r#"{"hwAddr":"02:00:00:00:00:01"}"#), &view).unwrap();
    }
}
