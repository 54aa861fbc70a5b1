//! Which interfaces of a pod become network cards of its VM, and how each carries its packets.

use crate::NetworkError;
use crate::names;
use crate::netlink::Link;
use crate::scan::Scan;

/// How an interface's packets get to the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through a new device that is connected to the interface.
    Connected,
    /// It is a TAP device; the VM holds its other end.
    Tap,
    /// It is a macvtap device; the VM holds its other end.
    MacVtap,
}

/// How `link` is connected.
pub(crate) fn way(link: &Link) -> Way {
    match link.kind.as_deref() {
        Some("tun") => Way::Tap,
        Some("macvtap") => Way::MacVtap,
        _ => Way::Connected,
    }
}

/// The interfaces that become network cards, by index.
///
/// Not those that nobody has set up (down, without an address: some kernels put tunnel devices into every namespace), nor
/// ports of a bridge or bond (that itself is connected; but a TAP device at a bridge is the VM's, and then the bridge is
/// not), nor what this crate has made.
pub(crate) fn choose(scan: &Scan) -> Result<Vec<&Link>, NetworkError> {
    let mut chosen = Vec::new();
    for link in &scan.links {
        if is_wanted(link, scan)? {
            chosen.push(link);
        }
    }
    refuse_shared_addresses(&chosen)?;
    refuse_stacks(&chosen)?;
    Ok(chosen)
}

fn is_wanted(link: &Link, scan: &Scan) -> Result<bool, NetworkError> {
    let is_set_up = link.up || scan.has_address(link);
    if link.loopback || !is_set_up || names::is_ours(&link.name) {
        return Ok(false);
    }
    if !link.ethernet || link.mac.len() != 6 {
        // Up, but without an address nobody can expect anything of it.
        return if scan.has_address(link) { Err(unsupported(link)) } else { Ok(false) };
    }
    if way(link) == Way::Tap {
        return Ok(true);
    }
    if link.bus.as_deref() == Some("pci") {
        return Err(NetworkError::Physical { interface: link.name.clone() });
    }
    Ok(!is_port(link, scan) && !is_bridge_of_a_tap(link, scan))
}

fn unsupported(link: &Link) -> NetworkError {
    let kind = link.kind.clone().unwrap_or_else(|| "hardware".to_owned());
    NetworkError::Unsupported { interface: link.name.clone(), kind }
}

fn is_port(link: &Link, scan: &Scan) -> bool {
    let controller = scan.links.iter().find(|other| Some(other.index) == link.controller);
    // The ports of a VRF receive their own packets.
    controller.is_some_and(|controller| !controller.is("vrf"))
}

fn is_bridge_of_a_tap(link: &Link, scan: &Scan) -> bool {
    scan.links.iter().any(|port| way(port) == Way::Tap && port.controller == Some(link.index))
}

/// The guest finds its cards by their hardware addresses.
fn refuse_shared_addresses(chosen: &[&Link]) -> Result<(), NetworkError> {
    for (at, link) in chosen.iter().enumerate() {
        if let Some(other) = chosen[..at].iter().find(|other| other.mac == link.mac) {
            return Err(NetworkError::SharedAddress { first: other.name.clone(), second: link.name.clone() });
        }
    }
    Ok(())
}

/// An interface that stands on another one in the same namespace would receive nothing: every packet of the other goes to
/// the VM.
fn refuse_stacks(chosen: &[&Link]) -> Result<(), NetworkError> {
    for link in chosen {
        let stacked = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"].iter().any(|kind| link.is(kind));
        let lower = chosen.iter().find(|lower| Some(lower.index) == link.lower);
        if let (true, Some(lower)) = (stacked, lower) {
            return Err(NetworkError::Stacked { interface: link.name.clone(), lower: lower.name.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::choose;
    use crate::NetworkError;
    use crate::netlink::Link;
    use crate::scan::Scan;

    fn link(index: u32, kind: Option<&str>) -> Link {
        Link {
            index,
            name: format!("if{index}"),
            kind: kind.map(str::to_owned),
            mac: vec![2, 0, 0, 0, 0, u8::try_from(index).unwrap()],
            up: true,
            ethernet: true,
            ..Link::default()
        }
    }

    fn chosen(links: Vec<Link>) -> Result<Vec<u32>, NetworkError> {
        let scan = Scan { links, ..Scan::default() };
        Ok(choose(&scan)?.into_iter().map(|link| link.index).collect())
    }

    #[test]
    fn a_pci_device_is_refused_by_name() {
        let card = Link { bus: Some("pci".to_owned()), ..link(2, None) };
        let error = chosen(vec![card]).unwrap_err();
        assert!(matches!(&error, NetworkError::Physical { interface } if interface == "if2"), "{error}");
        // The host itself may be a VM: a card of virtio is connected like a veth.
        let virtio = Link { bus: Some("virtio".to_owned()), ..link(3, None) };
        assert_eq!(chosen(vec![virtio]).unwrap(), [3]);
    }

    #[test]
    fn ports_are_not_connected_but_their_bridge_is() {
        let port = Link { controller: Some(4), ..link(2, Some("veth")) };
        assert_eq!(chosen(vec![port, link(4, Some("bridge"))]).unwrap(), [4]);
    }

    #[test]
    fn a_tap_device_at_a_bridge_is_the_vms_and_the_bridge_is_not() {
        let tap = Link { controller: Some(4), ..link(2, Some("tun")) };
        assert_eq!(chosen(vec![tap, link(4, Some("bridge"))]).unwrap(), [2]);
    }

    #[test]
    fn ports_of_a_vrf_are_connected() {
        let port = Link { controller: Some(4), ..link(2, Some("veth")) };
        let vrf = Link { ethernet: false, ..link(4, Some("vrf")) };
        assert_eq!(chosen(vec![port, vrf]).unwrap(), [2]);
    }

    #[test]
    fn tunnels_that_a_kernel_puts_everywhere_are_passed_over() {
        let down = |index, kind, ethernet| Link { up: false, ethernet, ..link(index, Some(kind)) };
        let tunnels = vec![down(2, "ipip", false), down(3, "gretap", true), down(4, "sit", false)];
        assert!(chosen(tunnels).unwrap().is_empty());
    }
}
