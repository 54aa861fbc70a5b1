//! What is understood of a request, and what is refused.

use super::*;

fn addressed(address: &str, mask: &str) -> Interface {
    let address = IPAddress { address: address.into(), mask: mask.into(), ..Default::default() };
    Interface { device: "eth0".into(), IPAddresses: vec![address], ..Default::default() }
}

fn to(dest: &str, gateway: &str) -> Route {
    Route { dest: dest.into(), gateway: gateway.into(), device: "eth0".into(), ..Default::default() }
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("has no meaning").to_string()
}

#[test]
fn a_mask_is_a_length_or_dotted() {
    let length = |address, mask| {
        AskedInterface::new(&addressed(address, mask)).map(|read| read.addresses[0].prefix.length)
    };
    assert_eq!(length("10.0.0.2", "24"), Ok(24));
    assert_eq!(length("10.0.0.2", "255.255.240.0"), Ok(20));
    assert_eq!(length("10.0.0.2", "0.0.0.0"), Ok(0));
    assert_eq!(length("10.0.0.2", ""), Ok(32));
    assert_eq!(length("fd00::2", "64"), Ok(64));
    for (address, mask) in [
        ("10.0.0.2", "33"),
        ("10.0.0.2", "255.0.255.0"),
        ("fd00::2", "129"),
        ("fd00::2", "255.0.0.0"),
        ("10.0.0", "8"),
    ] {
        assert!(
            refusal(length(address, mask)).starts_with("The address of interface eth0 cannot be"),
            "{mask}"
        );
    }
}

#[test]
fn an_interface_is_found_by_hardware_address_then_place_then_name() {
    let mut asked = Interface { device: "eth0".into(), ..Default::default() };
    let key = |asked: &Interface| AskedInterface::new(asked).expect("has a meaning").key;
    assert_eq!(key(&asked), Key::Name("eth0".into()));
    asked.devicePath = "02/03".into();
    assert!(matches!(key(&asked), Key::Pci(_)));
    asked.hwAddr = "02:00:CA:fe:00:01".into();
    assert_eq!(key(&asked), Key::Hardware(vec![2, 0, 0xca, 0xfe, 0, 1]));
}

#[test]
fn an_interface_that_is_not_named_is_refused() {
    assert!(refusal(AskedInterface::new(&Interface::default())).contains("if neither hwAddr nor devicePath"));
}

#[test]
fn what_the_kernel_would_not_take_for_a_name_is_refused() {
    for name in ["a/b", "..", "a b", "a:b", "sixteen-letters-", "eth%d"] {
        let asked = Interface { device: "eth0".into(), name: name.into(), ..Default::default() };
        assert!(refusal(AskedInterface::new(&asked)).contains("The name of interface"), "{name}");
    }
}

#[test]
fn what_is_no_hardware_address_is_refused() {
    for address in ["02:00", "02:00:00:00:00:zz", "+2:00:00:00:00:01", "02:00:00:00:00:001", ":::::"] {
        let asked = Interface { hwAddr: address.into(), ..Default::default() };
        assert!(refusal(AskedInterface::new(&asked)).starts_with("The hwAddr of interface"), "{address}");
    }
}

#[test]
fn a_default_route_is_written_in_many_ways() {
    for (dest, gateway, expected) in [
        ("", "10.0.0.1", "0.0.0.0"),
        ("default", "10.0.0.1", "0.0.0.0"),
        ("0.0.0.0/0", "10.0.0.1", "0.0.0.0"),
        ("", "fd00::1", "::"),
        ("::/0", "fd00::1", "::"),
    ] {
        let read = AskedRoute::new(&to(dest, gateway)).expect("has a meaning");
        assert_eq!((read.dest.address.to_string().as_str(), read.dest.length), (expected, 0));
    }
}

#[test]
fn only_the_prefix_of_a_destination_counts() {
    for (dest, expected) in [
        ("10.1.2.3/16", "10.1.0.0"),
        ("10.1.2.3/0", "0.0.0.0"),
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::1:2/64", "fd00::"),
    ] {
        assert_eq!(AskedRoute::new(&to(dest, "")).expect("has a meaning").dest.address.to_string(), expected);
    }
}

#[test]
fn a_default_route_without_gateway_is_of_the_named_family() {
    let asked = Route { family: IPFamily::v6.into(), ..to("", "") };
    assert!(AskedRoute::new(&asked).expect("has a meaning").dest.address.is_ipv6());
}

#[test]
fn what_has_no_gateway_is_on_the_link() {
    assert_eq!(AskedRoute::new(&to("10.1.0.0/16", "")).expect("has a meaning").scope, RT_SCOPE_LINK);
    assert_eq!(AskedRoute::new(&to("10.1.0.0/16", "10.0.0.1")).expect("has a meaning").scope, 0);
}

#[test]
fn a_route_that_contradicts_itself_is_refused() {
    for (asked, part) in [
        (to("fd00::/64", "10.0.0.1"), "gateway"),
        (Route { source: "10.0.0.2".into(), ..to("fd00::/64", "") }, "source"),
        (Route { device: String::new(), ..to("10.1.0.0/16", "") }, "device"),
        (Route { scope: 256, ..to("10.1.0.0/16", "") }, "scope"),
        (to("10.1.0.0/33", ""), "dest"),
        (to("nowhere", ""), "dest"),
    ] {
        let refusal = refusal(AskedRoute::new(&asked));
        assert!(
            refusal.starts_with(&format!("The {part} of route to {:?} cannot be", asked.dest)),
            "{refusal}"
        );
    }
}

#[test]
fn a_neighbour_is_permanent_unless_it_says_otherwise() {
    let address = IPAddress { address: "10.0.0.9".into(), ..Default::default() };
    let asked = ARPNeighbor {
        toIPAddress: Some(address).into(),
        device: "eth0".into(),
        lladdr: "02:00:00:00:00:09".into(),
        ..Default::default()
    };
    assert_eq!(AskedNeighbor::new(&asked).expect("has a meaning").state, NUD_PERMANENT);
    let reachable = ARPNeighbor { state: 2, ..asked.clone() };
    assert_eq!(AskedNeighbor::new(&reachable).expect("has a meaning").state, 2);
    let wrong = ARPNeighbor { flags: 256, ..asked };
    assert!(refusal(AskedNeighbor::new(&wrong)).starts_with("The flags of neighbour"));
}
