//! The guest's network: an agent that owns its network namespace, and cards that are plugged into it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use kata_protocol::agent::{
    ARPNeighbors, AddARPNeighborsRequest, GetIPTablesRequest, ListInterfacesRequest, ListRoutesRequest,
    Routes, SetIPTablesRequest, UpdateInterfaceRequest, UpdateRoutesRequest,
};
use kata_protocol::kata::StartSandboxRequest;
use kata_protocol::types::{ARPNeighbor, IPAddress, Interface, Route};
use protobuf::MessageField;
use ttrpc::Code;

use crate::guest::{Guest, limit, message, skips};
use crate::links::{Slots, hardware};

/// Runs a test with an agent that has a network of its own, where that is possible.
macro_rules! network_test {
    ($(#[$doc:meta])* async fn $name:ident($guest:ident, $slots:ident) $body:block) => {
        $(#[$doc])*
        #[tokio::test]
        async fn $name() {
            if skips() {
                return;
            }
            let $guest = Guest::with_network().await;
            let $slots = Slots::of(&$guest);
            $body
        }
    };
}

fn address(text: &str) -> IPAddress {
    let (address, mask) = text.split_once('/').unwrap_or((text, ""));
    IPAddress { address: address.into(), mask: mask.into(), ..Default::default() }
}

/// The card of that number.
fn card(number: u8, name: &str, addresses: &[&str]) -> Interface {
    Interface {
        hwAddr: hardware(number),
        name: name.into(),
        IPAddresses: addresses.iter().map(|text| address(text)).collect(),
        ..Default::default()
    }
}

fn route(dest: &str, gateway: &str, device: &str) -> Route {
    Route { dest: dest.into(), gateway: gateway.into(), device: device.into(), ..Default::default() }
}

fn neighbor(to: &str, device: &str, number: u8) -> ARPNeighbor {
    ARPNeighbor {
        toIPAddress: MessageField::some(address(to)),
        device: device.into(),
        lladdr: hardware(number),
        state: 0x80,
        ..Default::default()
    }
}

/// A route as a line.
fn line(route: &Route) -> String {
    let dest = if route.dest.is_empty() { "default" } else { &route.dest };
    let via = if route.gateway.is_empty() { String::new() } else { format!(" via {}", route.gateway) };
    format!("{dest}{via} dev {}", route.device)
}

/// Without those of the other ends of the cards.
fn lines(routes: &Routes) -> Vec<String> {
    routes.Routes.iter().map(line).filter(|line| !line.ends_with("-peer")).collect()
}

/// Its addresses, but that which the kernel makes for the link.
fn addresses(interface: &Interface) -> Vec<String> {
    let all = interface.IPAddresses.iter().map(|found| format!("{}/{}", found.address, found.mask));
    all.filter(|text| !text.starts_with("fe80:")).collect()
}

impl Guest {
    async fn start_network(&self, request: StartSandboxRequest) -> ttrpc::Result<()> {
        self.sandbox.start_sandbox(limit(), &request).await.map(|_| ())
    }

    async fn update_interface(&self, interface: Interface) -> ttrpc::Result<Interface> {
        let request =
            UpdateInterfaceRequest { interface: MessageField::some(interface), ..Default::default() };
        self.agent.update_interface(limit(), &request).await
    }

    async fn update_routes(&self, routes: Vec<Route>) -> ttrpc::Result<Routes> {
        let routes = Routes { Routes: routes, ..Default::default() };
        let request = UpdateRoutesRequest { routes: MessageField::some(routes), ..Default::default() };
        self.agent.update_routes(limit(), &request).await
    }

    async fn interface(&self, name: &str) -> Interface {
        let listed = self.agent.list_interfaces(limit(), &ListInterfacesRequest::default()).await;
        let mut interfaces = listed.expect("listed").Interfaces;
        let place = interfaces.iter().position(|interface| interface.name == name);
        interfaces.swap_remove(place.expect("there is one of that name"))
    }

    /// The kernel makes the address of the link and its route by itself, a moment after the interface is up.
    async fn await_link(&self, name: &str) {
        let of_link = |text: &str| text.starts_with("fe80:");
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        let waiting = async {
            loop {
                pause.tick().await;
                let listed = self.agent.list_routes(limit(), &ListRoutesRequest::default()).await;
                let is_routed = listed.expect("listed").Routes.iter().any(|route| of_link(&route.dest));
                let found = self.interface(name).await.IPAddresses;
                if is_routed && found.iter().any(|found| of_link(&found.address)) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the link gets its address");
    }

    async fn add_neighbors(&self, neighbors: Vec<ARPNeighbor>) -> ttrpc::Result<()> {
        let neighbors = ARPNeighbors { ARPNeighbors: neighbors, ..Default::default() };
        let request =
            AddARPNeighborsRequest { neighbors: MessageField::some(neighbors), ..Default::default() };
        self.agent.add_arp_neighbors(limit(), &request).await.map(|_| ())
    }

    /// Puts a script into the guest's `/usr/sbin`.
    fn install(&self, name: &str, script: &str) {
        let path = self.folder.path().join("sbin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("can be executed");
    }
}

network_test! {
    async fn the_network_stands_when_the_sandbox_is_started(guest, slots) {
        slots.plug("ens3", 1);
        let routes = vec![route("", "10.0.0.1", "eth0"), route("", "fd00::1", "eth0")];
        let neighbors = vec![neighbor("10.0.0.1", "eth0", 9), neighbor("fd00::1", "eth0", 9)];
        let request = StartSandboxRequest {
            interfaces: vec![Interface { mtu: 1400, ..card(1, "eth0", &["10.0.0.2/24", "fd00::2/64"]) }],
            routes: MessageField::some(Routes { Routes: routes, ..Default::default() }),
            neighbors: MessageField::some(ARPNeighbors { ARPNeighbors: neighbors, ..Default::default() }),
            ..Default::default()
        };
        guest.start_network(request).await.expect("configured");
        let eth0 = guest.interface("eth0").await;
        assert_eq!((eth0.mtu, eth0.hwAddr.as_str(), eth0.raw_flags & 1), (1400, "02:00:00:00:00:01", 1));
        assert_eq!(addresses(&eth0), ["10.0.0.2/24", "fd00::2/64"]);
        let routes = guest.agent.list_routes(limit(), &ListRoutesRequest::default()).await.expect("listed");
        for expected in ["default via 10.0.0.1 dev eth0", "default via fd00::1 dev eth0"] {
            assert!(lines(&routes).iter().any(|line| line == expected), "{:?}", lines(&routes));
        }
        assert!(slots.file("arp").contains("02:00:00:00:00:09"), "{}", slots.file("arp"));
    }
}

network_test! {
    async fn an_address_over_ipv6_can_be_used_at_once(guest, slots) {
        slots.plug("ens3", 1);
        guest.update_interface(card(1, "eth0", &["fd00::2/64"])).await.expect("configured");
        let table = slots.file("if_inet6");
        let line = table.lines().find(|line| line.starts_with("fd00")).expect("has the address");
        let flags = line.split_whitespace().nth(4).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        assert_eq!(flags.map(|flags| flags & 0x40), Some(0), "{line} is tentative");
    }
}

network_test! {
    /// What a plugin (ptp) does to make a network's packets go through the host.
    async fn a_route_through_a_gateway_can_stand_for_that_of_the_addresses_network(guest, slots) {
        slots.plug("eth0", 1);
        let card = |no_prefix_route| {
            let mut card = card(1, "eth0", &["10.0.0.2/16", "fd00::2/64"]);
            card.IPAddresses.iter_mut().for_each(|address| address.no_prefix_route = no_prefix_route);
            card
        };
        guest.update_interface(card(false)).await.expect("configured");
        guest.update_interface(card(true)).await.expect("changed");
        let routes = vec![
            route("10.0.0.1/32", "", "eth0"),
            route("10.0.0.0/16", "10.0.0.1", "eth0"),
            route("fd00::1/128", "", "eth0"),
            route("fd00::/64", "fd00::1", "eth0"),
        ];
        let told = guest.update_routes(routes).await.expect("configured");
        let told: Vec<_> = lines(&told).into_iter().filter(|line| !line.starts_with("fe80:")).collect();
        let expected = [
            "10.0.0.0/16 via 10.0.0.1 dev eth0",
            "10.0.0.1/32 dev eth0",
            "fd00::1/128 dev eth0",
            "fd00::/64 via fd00::1 dev eth0",
        ];
        assert_eq!(told, expected);
        let eth0 = guest.update_interface(card(false)).await.expect("changed back");
        assert!(eth0.IPAddresses.iter().all(|address| !address.no_prefix_route), "{eth0:?}");
    }
}

network_test! {
    async fn an_interface_has_exactly_the_addresses_that_are_asked_for(guest, slots) {
        slots.plug("eth0", 1);
        let first = ["10.0.0.2/24", "10.0.0.3/24", "192.168.7.1/16", "fd00::2/64"];
        guest.update_interface(card(1, "eth0", &first)).await.expect("configured");
        let second = ["10.0.0.3/24", "172.16.0.1/255.240.0.0", "fd00::3/64"];
        let told = guest.update_interface(card(1, "eth0", &second)).await.expect("configured");
        assert_eq!(addresses(&told), ["10.0.0.3/24", "172.16.0.1/12", "fd00::3/64"]);
    }
}

network_test! {
    async fn the_address_of_the_link_stays(guest, slots) {
        slots.plug("eth0", 1);
        let of_link = |told: &Interface| told.IPAddresses.iter().any(|found| found.address.starts_with("fe80:"));
        guest.update_interface(card(1, "eth0", &[])).await.expect("configured");
        guest.await_link("eth0").await;
        assert!(of_link(&guest.update_interface(card(1, "eth0", &["10.0.0.2/24"])).await.expect("configured")));
    }
}

network_test! {
    async fn an_interface_without_a_hardware_address_is_found_by_its_name(guest, slots) {
        slots.plug("ens3", 1);
        let asked = Interface { device: "ens3".into(), name: "eth0".into(), ..Default::default() };
        let told = guest.update_interface(asked).await.expect("configured");
        assert_eq!((told.name.as_str(), told.hwAddr), ("eth0", hardware(1)));
    }
}

network_test! {
    async fn an_interface_that_is_up_gets_a_new_name_and_is_up_again(guest, slots) {
        slots.plug("eth0", 1);
        guest.update_interface(card(1, "eth0", &["10.0.0.2/24"])).await.expect("configured");
        let told = guest.update_interface(card(1, "net1", &["10.0.0.2/24"])).await.expect("configured");
        assert_eq!((told.name.as_str(), told.raw_flags & 1), ("net1", 1));
    }
}

network_test! {
    async fn two_interfaces_can_swap_their_names(guest, slots) {
        slots.plug("eth0", 1);
        slots.plug("eth1", 2);
        let request = StartSandboxRequest {
            interfaces: vec![card(1, "eth1", &["10.0.1.2/24"]), card(2, "eth0", &["10.0.2.2/24"])],
            ..Default::default()
        };
        guest.start_network(request).await.expect("configured");
        for (name, number, expected) in [("eth1", 1, "10.0.1.2/24"), ("eth0", 2, "10.0.2.2/24")] {
            let found = guest.interface(name).await;
            assert_eq!((found.hwAddr.clone(), addresses(&found)), (hardware(number), vec![expected.to_owned()]));
        }
    }
}

network_test! {
    async fn a_card_without_arp_has_none(guest, slots) {
        slots.plug("eth0", 1);
        let asked = Interface { raw_flags: 0x80, ..card(1, "eth0", &[]) };
        assert_eq!(guest.update_interface(asked).await.expect("configured").raw_flags & 0x80, 0x80);
    }
}

network_test! {
    async fn a_card_that_is_plugged_in_later_is_awaited(guest, slots) {
        let asked = guest.update_interface(card(1, "eth0", &["10.0.0.2/24"]));
        tokio::pin!(asked);
        let early = tokio::time::timeout(Duration::from_millis(300), &mut asked).await;
        assert!(early.is_err(), "there was no card to be configured");
        slots.plug("ens3", 1);
        assert_eq!(addresses(&asked.await.expect("configured")), ["10.0.0.2/24"]);
    }
}

network_test! {
    async fn a_card_that_never_comes_is_named(guest, slots) {
        slots.plug("eth0", 1);
        let begin = Instant::now();
        let refusal = message(guest.update_interface(card(7, "eth7", &[])).await);
        assert!(refusal.starts_with("No interface with the hardware address 02:00:00:00:00:07 appeared"), "{refusal}");
        assert!(begin.elapsed() >= Duration::from_secs(5));
    }
}

network_test! {
    async fn a_refused_interface_is_named_with_the_kernels_reason(guest, slots) {
        slots.plug("eth0", 1);
        let asked = Interface { mtu: 70_000, ..card(1, "eth0", &[]) };
        let refusal = message(guest.start_network(StartSandboxRequest { interfaces: vec![asked], ..Default::default() }).await);
        let expected = "Interface eth0 cannot have an MTU of 70000 bytes: mtu greater than device maximum";
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

network_test! {
    async fn a_refused_route_is_named_with_the_kernels_reason(guest, slots) {
        slots.plug("eth0", 1);
        guest.update_interface(card(1, "eth0", &["10.0.0.2/24"])).await.expect("configured");
        let refusal = message(guest.update_routes(vec![route("10.9.0.0/16", "10.8.0.1", "eth0")]).await);
        let expected = "The route to 10.9.0.0/16 via 10.8.0.1 dev eth0 cannot be added: Nexthop has invalid gateway";
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

network_test! {
    async fn a_route_through_an_interface_that_is_not_there_is_named(guest, slots) {
        slots.plug("eth0", 1);
        let refusal = message(guest.update_routes(vec![route("10.9.0.0/16", "", "eth5")]).await);
        assert_eq!(refusal, "The guest has no interface eth5 for 10.9.0.0/16 dev eth5");
    }
}

network_test! {
    async fn a_route_may_come_before_the_one_to_its_gateway(guest, slots) {
        slots.plug("eth0", 1);
        guest.update_interface(card(1, "eth0", &["10.0.0.2/32", "fd00::2/128"])).await.expect("configured");
        let asked = vec![
            route("", "169.254.1.1", "eth0"),
            route("169.254.1.1/32", "", "eth0"),
            route("", "fd00:1::1", "eth0"),
            route("fd00:1::1", "", "eth0"),
        ];
        let told = lines(&guest.update_routes(asked).await.expect("routed"));
        for expected in ["default via 169.254.1.1 dev eth0", "default via fd00:1::1 dev eth0"] {
            assert!(told.iter().any(|line| line == expected), "{told:?}");
        }
    }
}

network_test! {
    async fn a_gateway_on_the_link_needs_no_route_to_it(guest, slots) {
        slots.plug("eth0", 1);
        guest.update_interface(card(1, "eth0", &["10.0.0.2/32"])).await.expect("configured");
        let asked = Route { flags: 4, ..route("default", "169.254.1.1", "eth0") };
        let told = guest.update_routes(vec![asked]).await.expect("routed").Routes;
        let told = told.iter().find(|route| route.gateway == "169.254.1.1").expect("is there");
        assert_eq!((line(told).as_str(), told.flags), ("default via 169.254.1.1 dev eth0", 4));
    }
}

network_test! {
    async fn the_routes_are_exactly_those_asked_for_and_the_kernels(guest, slots) {
        slots.plug("eth0", 1);
        guest.update_interface(card(1, "eth0", &["10.0.0.2/24", "fd00::2/64"])).await.expect("configured");
        guest.await_link("eth0").await;
        let first = vec![route("", "10.0.0.1", "eth0"), route("10.9.0.0/16", "10.0.0.7", "eth0"), route("", "fd00::1", "eth0")];
        guest.update_routes(first).await.expect("routed");
        let second = vec![route("", "10.0.0.3", "eth0"), route("10.9.0.0/16", "10.0.0.7", "eth0"), route("fd01::/64", "fd00::1", "")];
        let mut told = lines(&guest.update_routes(second).await.expect("routed"));
        told.sort();
        assert_eq!(told, [
            "10.0.0.0/24 dev eth0",
            "10.9.0.0/16 via 10.0.0.7 dev eth0",
            "default via 10.0.0.3 dev eth0",
            "fd00::/64 dev eth0",
            "fd01::/64 via fd00::1 dev eth0",
            "fe80::/64 dev eth0",
        ]);
    }
}

network_test! {
    async fn a_route_that_is_asked_for_again_is_left_alone(guest, slots) {
        slots.plug("eth0", 1);
        guest.update_interface(card(1, "eth0", &["10.0.0.2/24", "fd00::2/64"])).await.expect("configured");
        guest.await_link("eth0").await;
        let asked = || {
            let full = Route { mtu: 1300, metric: 7, source: "10.0.0.2".into(), ..route("10.9.0.0/16", "10.0.0.7", "eth0") };
            vec![full, route("10.0.0.0/24", "", "eth0"), route("", "fd00::1", "eth0"), route("", "fd00::9", "eth0")]
        };
        let first = guest.update_routes(asked()).await.expect("routed");
        let second = guest.update_routes(asked()).await.expect("routed");
        assert_eq!(lines(&first), lines(&second));
        let full = second.Routes.iter().find(|route| route.dest == "10.9.0.0/16").expect("is there");
        assert_eq!((full.mtu, full.metric, full.source.as_str()), (1300, 7, "10.0.0.2"));
        let connected = second.Routes.iter().filter(|route| route.dest == "10.0.0.0/24").count();
        assert_eq!(connected, 1, "the kernel's own route was added again");
    }
}

network_test! {
    async fn a_route_of_ipv4_may_have_a_gateway_of_ipv6(guest, slots) {
        slots.plug("eth0", 1);
        guest.update_interface(card(1, "eth0", &["10.0.0.2/32"])).await.expect("configured");
        let told = guest.update_routes(vec![route("0.0.0.0/0", "fe80::1", "eth0")]).await.expect("routed");
        assert!(lines(&told).contains(&"default via fe80::1 dev eth0".to_owned()), "{:?}", lines(&told));
    }
}

network_test! {
    async fn a_neighbour_is_permanent(guest, slots) {
        slots.plug("eth0", 1);
        guest.update_interface(card(1, "eth0", &["10.0.0.2/24"])).await.expect("configured");
        guest.add_neighbors(vec![neighbor("10.0.0.8", "eth0", 8)]).await.expect("added");
        let table = slots.file("arp");
        let line = table.lines().find(|line| line.starts_with("10.0.0.8")).expect("is there");
        // Complete and permanent.
        assert_eq!(line.split_whitespace().nth(2), Some("0x6"), "{line}");
    }
}

network_test! {
    async fn a_refused_neighbour_is_named(guest, slots) {
        slots.plug("eth0", 1);
        let refusal = message(guest.add_neighbors(vec![neighbor("10.0.0.8", "eth5", 8)]).await);
        assert_eq!(refusal, "The guest has no interface eth5 for neighbour 10.0.0.8");
    }
}

network_test! {
    async fn a_request_that_is_wrong_changes_nothing(guest, slots) {
        slots.plug("eth0", 1);
        let request = StartSandboxRequest {
            interfaces: vec![card(1, "net1", &["10.0.0.2/24"]), card(1, "eth0", &["10.0.0.2/99"])],
            ..Default::default()
        };
        let refusal = message(guest.start_network(request).await);
        assert!(refusal.starts_with("The address of interface eth0 cannot be \"10.0.0.2/99\""), "{refusal}");
        assert_eq!(addresses(&guest.interface("eth0").await), [""; 0]);
    }
}

network_test! {
    async fn a_guest_without_iptables_says_so(guest, _slots) {
        let refusal = guest.agent.get_ip_tables(limit(), &GetIPTablesRequest::default()).await;
        assert!(matches!(&refusal, Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::FAILED_PRECONDITION));
        let refusal = message(refusal);
        assert!(refusal.starts_with("The guest image has no iptables-save; add iptables"), "{refusal}");
        let request = SetIPTablesRequest { is_ipv6: true, ..Default::default() };
        let refusal = message(guest.agent.set_ip_tables(limit(), &request).await);
        assert!(refusal.starts_with("The guest image has no ip6tables-restore; add iptables"), "{refusal}");
    }
}

network_test! {
    async fn the_rules_that_were_set_are_told(guest, _slots) {
        guest.install("iptables-restore", "cat > /run/rules; echo done");
        guest.install("iptables-save", "cat /run/rules");
        let rules = b"*filter\nCOMMIT\n".repeat(10_000);
        let request = SetIPTablesRequest { data: rules.clone(), ..Default::default() };
        let answer = guest.agent.set_ip_tables(limit(), &request).await.expect("set");
        assert_eq!(answer.data, b"done\n");
        let told = guest.agent.get_ip_tables(limit(), &GetIPTablesRequest::default()).await.expect("told");
        assert!(told.data == rules, "other rules were told");
    }
}

network_test! {
    async fn what_iptables_complains_of_is_told(guest, _slots) {
        guest.install("iptables-restore", "echo 'line 1 failed' >&2; exit 2");
        let refusal = message(guest.agent.set_ip_tables(limit(), &SetIPTablesRequest::default()).await);
        assert_eq!(refusal, "iptables-restore failed in the guest (status 2): line 1 failed");
    }
}

agent_test!(
    /// It would be the host's.
    the_network_of_another_is_not_touched,
    |guest| {
        let interfaces = vec![card(1, "eth0", &["10.0.0.2/24"])];
        let refusals = [
            message(guest.start_network(StartSandboxRequest { interfaces, ..Default::default() }).await),
            message(guest.update_interface(card(1, "eth0", &[])).await),
            message(guest.update_routes(Vec::new()).await),
            message(guest.add_neighbors(Vec::new()).await),
            message(guest.agent.set_ip_tables(limit(), &SetIPTablesRequest::default()).await),
        ];
        for refusal in refusals {
            assert_eq!(refusal, "The network belongs to the host on which this agent runs without a VM");
        }
    }
);
