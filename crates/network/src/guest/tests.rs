//! The conversion to what the guest configures.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::{option, prop_assert, prop_assert_eq};

use super::{comes_by_itself, network, network_of};
use crate::netlink::{Address, Hop, Link, Neighbour, Route};
use crate::scan::Scan;

/// Interfaces with the indices 1 to 4, of which the first two are the VM's.
fn links() -> Vec<Link> {
    (1..=4).map(|index| Link { index, name: format!("if{index}"), ..Link::default() }).collect()
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        any::<u64>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(bits)))),
    ]
}

fn hop() -> impl Strategy<Value = Hop> {
    (1_u32..=5, option::of(address()), any::<bool>()).prop_map(|(link, gateway, onlink)| Hop {
        link,
        gateway,
        onlink,
    })
}

fn route() -> impl Strategy<Value = Route> {
    let target = (address(), 0..=128_u8, option::of(address()), vec(hop(), 0..3));
    let numbers = (any::<u8>(), prop_oneof![Just(254), Just(255), 1_u32..1000], any::<u32>(), any::<u32>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (target, numbers, flags).prop_map(
        |(
            (destination, prefix, source, hops),
            (scope, table, metric, mtu),
            (by_kernel, unicast, barrier, cached),
        )| {
            let prefix = if destination.is_ipv4() { prefix.min(32) } else { prefix };
            let destination = network_of(destination, prefix);
            let barrier = barrier && !unicast;
            Route {
                destination,
                prefix,
                source,
                scope,
                table,
                metric,
                mtu,
                by_kernel,
                unicast,
                barrier,
                cached,
                hops,
            }
        },
    )
}

proptest! {
    #[test]
    fn routes_of_the_vms_interfaces_are_told_once_and_in_an_order_that_works(routes in vec(route(), 0..20)) {
        let links = links();
        let chosen: Vec<&Link> = links.iter().take(2).collect();
        let scan = Scan { links: links.clone(), routes, ..Scan::default() };
        let told = network(&scan, &chosen).routes;
        let is_vms = |hop: &Hop| hop.link <= 2;
        let expected = scan.routes.iter().filter(|route| !comes_by_itself(route, &scan) && route.hops.iter().any(is_vms));
        prop_assert_eq!(told.len(), expected.clone().count());
        for route in expected {
            let dest = if route.prefix == 0 { String::new() } else { format!("{}/{}", route.destination, route.prefix) };
            prop_assert!(told.iter().any(|told| told.dest == dest && told.metric == route.metric && told.mtu == route.mtu));
        }
        prop_assert!(told.is_sorted_by_key(|route| !route.gateway.is_empty()));
        for route in told {
            prop_assert!(["if1", "if2"].contains(&route.device.as_str()));
            prop_assert!(route.table != 254 && route.table != 255);
            prop_assert!(route.gateway.is_empty() || route.gateway.parse::<IpAddr>().is_ok());
        }
    }
}

fn plain(destination: &str, prefix: u8) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        prefix,
        source: None,
        scope: 253,
        table: 254,
        metric: 0,
        mtu: 0,
        by_kernel: false,
        unicast: true,
        barrier: false,
        cached: false,
        hops: vec![Hop { link: 1, gateway: None, onlink: false }],
    }
}

fn told(routes: Vec<Route>, addresses: Vec<Address>) -> Vec<String> {
    let links = links();
    let scan = Scan { routes, addresses, links: links.clone(), ..Scan::default() };
    network(&scan, &[&links[0], &links[1]]).routes.into_iter().map(|route| route.dest).collect()
}

#[test]
fn what_the_guests_kernel_makes_itself_is_not_told() {
    let by_kernel = |to, prefix| Route { by_kernel: true, ..plain(to, prefix) };
    let routes = vec![
        by_kernel("10.0.0.0", 24),
        by_kernel("fd00::", 64),
        plain("fe80::", 64),
        plain("ff00::", 8),
        Route { table: 255, ..plain("10.0.0.2", 32) },
        Route { unicast: false, ..plain("10.0.0.255", 32) },
        Route { cached: true, ..plain("fd00::9", 128) },
        plain("10.2.0.0", 16),
        // The kernel makes routes for addresses in the main table only.
        Route { table: 100, ..by_kernel("10.3.0.0", 16) },
    ];
    assert_eq!(told(routes, Vec::new()), ["10.2.0.0/16", "10.3.0.0/16"]);
}

#[test]
fn a_route_with_many_ways_keeps_the_first_that_the_vm_has() {
    let via = |link, gateway: &str| Hop { link, gateway: gateway.parse().ok(), onlink: true };
    let hops = vec![via(3, "10.3.0.1"), via(2, "10.2.0.1"), via(1, "10.1.0.1")];
    let links = links();
    let scan = Scan { routes: vec![Route { hops, ..plain("0.0.0.0", 0) }], ..Scan::default() };
    let guest = network(&scan, &[&links[0], &links[1]]);
    let route = &guest.routes[0];
    assert_eq!((route.device.as_str(), route.gateway.as_str(), route.flags), ("if2", "10.2.0.1", 4));
}

#[test]
fn the_route_to_the_other_end_is_told_with_its_own_prefix() {
    let ends = |peer: &str, prefix| Address {
        link: 1,
        address: "10.5.0.1".parse().unwrap(),
        prefix,
        peer: peer.parse().ok(),
        temporary: false,
    };
    let by_kernel = |to, prefix| Route { by_kernel: true, ..plain(to, prefix) };
    assert_eq!(told(vec![by_kernel("10.6.0.0", 24)], vec![ends("10.6.0.9", 24)]), ["10.6.0.0/24"]);
    assert!(told(vec![by_kernel("10.6.0.0", 24)], vec![ends("10.7.0.9", 24)]).is_empty());
}

/// The guest sent a network's packets to nobody where a plugin (ptp) had put a route through the host in the place of the
/// kernel's.
#[test]
fn an_address_without_the_kernels_route_has_none_in_the_guest() {
    let by_kernel = |to, prefix| Route { by_kernel: true, ..plain(to, prefix) };
    let of = |address: &str, prefix| Address {
        link: 1,
        address: address.parse().unwrap(),
        prefix,
        peer: None,
        temporary: false,
    };
    let addresses = vec![
        of("10.1.0.2", 24),
        of("10.2.0.2", 24),
        of("10.3.0.2", 32),
        of("fd00:1::2", 64),
        of("fd00:2::2", 64),
    ];
    let routes = vec![
        plain("10.1.0.0", 24),
        by_kernel("10.2.0.0", 24),
        by_kernel("fe80::", 64),
        by_kernel("fd00:2::", 64),
    ];
    let told = |up, routes: &[Route]| {
        let mut links = links();
        links[0].up = up;
        let scan = Scan { addresses: addresses.clone(), routes: routes.to_vec(), ..Scan::default() };
        let guest = network(&scan, &[&links[0]]);
        guest.interfaces[0].IPAddresses.iter().map(|ip| ip.no_prefix_route).collect::<Vec<_>>()
    };
    assert_eq!(told(true, &routes), [true, false, false, true, false]);
    // Before an interface is ready the kernel has made no route.
    assert_eq!(told(false, &[]), [false; 5]);
}

#[test]
fn addresses_that_each_side_makes_itself_are_not_told() {
    let of = |address: &str, temporary| Address {
        link: 1,
        address: address.parse().unwrap(),
        prefix: 64,
        peer: None,
        temporary,
    };
    let addresses = vec![of("fe80::1", false), of("fd00::7", true), of("fd00::1", false)];
    let links = links();
    let scan = Scan { addresses, ..Scan::default() };
    let guest = network(&scan, &[&links[0]]);
    let addresses: Vec<_> = guest.interfaces[0].IPAddresses.iter().map(|ip| ip.address.as_str()).collect();
    assert_eq!(addresses, ["fd00::1"]);
}

#[test]
fn only_neighbours_set_by_hand_are_told_and_interfaces_without_arp_are_marked() {
    let of = |link, permanent| Neighbour {
        link,
        address: "10.0.0.9".parse().unwrap(),
        mac: vec![2, 0, 0, 0, 0, 9],
        state: if permanent { 0x80 } else { 2 },
        flags: 0,
        permanent,
    };
    let mut links = links();
    links[0].no_arp = true;
    let scan = Scan { neighbours: vec![of(1, false), of(1, true), of(3, true)], ..Scan::default() };
    let guest = network(&scan, &[&links[0]]);
    assert_eq!(guest.neighbors.len(), 1);
    assert_eq!(guest.neighbors[0].lladdr, "02:00:00:00:00:09");
    assert_eq!(guest.interfaces[0].raw_flags, 0x80);
}
