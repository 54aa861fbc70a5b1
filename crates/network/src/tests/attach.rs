//! Interfaces of every kind that the test kernel has, connected, with packets through them.

use std::sync::atomic::Ordering;

use super::support::{MAC, Namespace, Pod, send};
use crate::{Backend, Model, NetworkError, PodNetwork, attach, attach_interface, release};

#[tokio::test]
async fn a_veth_is_connected_by_filters_and_packets_pass_both_ways() {
    let pod = Pod::new();
    let network = attach(&pod.request(Model::TcFilter)).await.unwrap();
    assert_eq!(pod.links(), ["lo", "eth0", "tap0_kata"]);
    let nic = &network.nics[0];
    assert_eq!((nic.name.as_str(), nic.mac, nic.mtu), ("eth0", MAC, 1400));
    pod.assert_packets_pass(&network);
    let addresses = pod.pod.command("ip", "-br addr show dev tap0_kata");
    assert!(!addresses.contains("fe80"), "{addresses}");
}

#[tokio::test]
async fn a_veth_is_connected_by_a_macvtap_and_packets_pass_both_ways() {
    let pod = Pod::new();
    let network = attach(&pod.request(Model::MacVtap)).await.unwrap();
    assert_eq!(pod.links(), ["lo", "eth0", "tap0_kata"]);
    pod.assert_packets_pass(&network);
}

#[tokio::test]
async fn a_card_has_as_many_queues_as_asked_for() {
    for model in [Model::TcFilter, Model::MacVtap] {
        let pod = Pod::new();
        let network = attach(&crate::Request { queues: 3, ..pod.request(model) }).await.unwrap();
        let Backend::Tap { queues, vhost } = &network.nics[0].backend else { panic!("{network:?}") };
        assert_eq!((queues.len(), vhost.len()), (3, 0));
        pod.assert_packets_pass(&network);
    }
}

#[tokio::test]
async fn vhost_is_used_where_the_host_has_it_and_missing_silently_elsewhere() {
    let pod = Pod::new();
    let network = attach(&crate::Request { vhost: true, ..pod.request(Model::TcFilter) }).await.unwrap();
    let Backend::Tap { vhost, .. } = &network.nics[0].backend else { panic!("{network:?}") };
    assert_eq!(vhost.len(), usize::from(super::support::kernel_has("/dev/vhost-net")));
}

#[tokio::test]
async fn the_guest_is_told_names_addresses_and_routes() {
    let pod = Pod::new();
    pod.pod.ip("route add 10.9.0.0/16 via 192.0.2.1 dev eth0 onlink metric 7 mtu 1300 table 100
                route add 169.254.1.1 dev eth0 scope link
                route add blackhole 10.66.0.0/16
                neigh add 10.1.0.9 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    let guest = attach(&pod.request(Model::TcFilter)).await.unwrap().guest;
    let [eth0] = guest.interfaces.as_slice() else { panic!("{guest:?}") };
    assert_eq!((eth0.name.as_str(), eth0.hwAddr.as_str(), eth0.mtu), ("eth0", "02:00:00:00:00:10", 1400));
    let addresses: Vec<_> = eth0.IPAddresses.iter().map(|ip| format!("{}/{}", ip.address, ip.mask)).collect();
    assert_eq!(addresses, ["10.1.0.2/24", "fd00::2/64"]);
    let routes: Vec<_> = guest
        .routes
        .iter()
        .map(|route| {
            let (dest, gateway, table) = (&route.dest, &route.gateway, route.table);
            let (metric, mtu, flags) = (route.metric, route.mtu, route.flags);
            format!(
                "{dest}>{gateway} table {table} metric {metric} mtu {mtu} flags {flags} scope {}",
                route.scope
            )
        })
        .collect();
    assert_eq!(
        routes,
        [
            "169.254.1.1/32> table 0 metric 0 mtu 0 flags 0 scope 253",
            "10.9.0.0/16>192.0.2.1 table 100 metric 7 mtu 1300 flags 4 scope 0",
            ">10.1.0.1 table 0 metric 0 mtu 0 flags 0 scope 0",
            ">fd00::1 table 0 metric 1024 mtu 0 flags 0 scope 0",
        ]
    );
    let [neighbour] = guest.neighbors.as_slice() else { panic!("{guest:?}") };
    assert_eq!(
        (neighbour.toIPAddress.address.as_str(), neighbour.lladdr.as_str(), neighbour.state),
        ("10.1.0.9", "02:00:00:00:00:99", 0x80)
    );
}

#[tokio::test]
async fn a_route_with_many_ways_or_a_gateway_of_the_other_family_is_read() {
    let pod = Pod::new();
    pod.pod.ip("route flush default
                route add 10.50.0.0/16 nexthop via 10.1.0.1 weight 3 nexthop via 10.1.0.3
                route add 10.51.0.0/16 via inet6 fd00::1 dev eth0
                route add fd50::/64 nexthop via fd00::1 nexthop via fd00::3
                route del default via fd00::1");
    let guest = attach(&pod.request(Model::TcFilter)).await.unwrap().guest;
    let routes: Vec<_> =
        guest.routes.iter().map(|route| format!("{} {}", route.dest, route.gateway)).collect();
    assert_eq!(routes, ["10.50.0.0/16 10.1.0.1", "10.51.0.0/16 fd00::1", "fd50::/64 fd00::1"]);
}

#[tokio::test]
async fn the_other_end_of_a_link_between_two_is_a_route() {
    let pod = Pod::new();
    pod.pod.ip("addr flush dev eth0
                addr add 10.5.0.1 peer 10.6.0.1/32 dev eth0");
    let guest = attach(&pod.request(Model::TcFilter)).await.unwrap().guest;
    let address = &guest.interfaces[0].IPAddresses[0];
    assert_eq!((address.address.as_str(), address.mask.as_str()), ("10.5.0.1", "32"));
    assert_eq!((guest.routes[0].dest.as_str(), guest.routes[0].source.as_str()), ("10.6.0.1/32", "10.5.0.1"));
}

#[tokio::test]
async fn an_empty_namespace_and_the_model_none_give_no_cards() {
    let pod = Pod::new();
    let network = attach(&pod.request(Model::None)).await.unwrap();
    assert!(network.nics.is_empty() && network.guest.interfaces.is_empty());
    let empty = Namespace::new();
    let request = crate::Request { netns: empty.path.clone(), ..pod.request(Model::TcFilter) };
    assert!(attach(&request).await.unwrap().nics.is_empty());
}

#[tokio::test]
async fn a_macvlan_and_a_bridge_are_connected_and_ports_are_not() {
    let pod = Pod::new();
    pod.pod.ip("link add br0 type bridge
                link set br0 address 02:00:00:00:00:30
                link set br0 up
                link set eth0 master br0
                link add unused type veth peer name unused2");
    let network = attach(&pod.request(Model::TcFilter)).await.unwrap();
    assert_eq!(network.nics.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>(), ["br0"]);

    let pod = Pod::new();
    pod.world.ip("link add link peer name mac0 address 02:00:00:00:00:40 type macvlan mode bridge");
    pod.world.command("ip", &format!("link set mac0 netns {}", pod.pod_thread()));
    pod.pod.ip("link set mac0 up");
    let network = attach(&pod.request(Model::TcFilter)).await.unwrap();
    assert_eq!(names(&network), ["eth0", "mac0"]);
    assert_eq!(network.guest.interfaces[1].type_, "macvlan");
    drop(network);
    let error = attach(&pod.request(Model::MacVtap)).await.unwrap_err();
    assert!(matches!(&error, NetworkError::NoMacVtap { interface } if interface == "mac0"), "{error}");
}

#[tokio::test]
async fn a_tap_device_of_the_pod_is_used_as_it_is() {
    for flags in ["vnet_hdr", "vnet_hdr multi_queue", ""] {
        let pod = Pod::new();
        pod.pod.ip(&format!(
            "link set eth0 down
             addr flush dev eth0
             tuntap add dev own mode tap {flags}
             link set own address 02:00:00:00:00:20
             addr add 10.7.0.1/24 dev own
             link set own up"
        ));
        let network = attach(&crate::Request { queues: 2, ..pod.request(Model::TcFilter) }).await.unwrap();
        assert_eq!(names(&network), ["own"]);
        let Backend::Tap { queues, .. } = &network.nics[0].backend else { panic!("{network:?}") };
        assert_eq!(queues.len(), if flags.contains("multi") { 2 } else { 1 });
        let socket = pod.pod.udp("10.7.0.1:0");
        send(&queues[0], "10.7.0.9:9", &socket.local_addr().unwrap().to_string(), b"from the VM");
        assert_eq!(socket.recv(&mut [0; 64]).unwrap(), b"from the VM".len());
    }
}

#[tokio::test]
async fn a_macvtap_of_the_pod_is_used_as_it_is() {
    let pod = Pod::new();
    // The world keeps the pod's interface, and the pod gets a macvtap on it.
    pod.pod.ip("addr flush dev eth0
                link set eth0 down address 02:00:00:00:00:50");
    pod.pod.command("ip", &format!("link set eth0 netns {}", pod.world_thread()));
    pod.world.ip("link set eth0 up
                  link add link eth0 name mv0 address 02:00:00:00:00:10 type macvtap mode bridge");
    pod.world.command("ip", &format!("link set mv0 netns {}", pod.pod_thread()));
    pod.pod.ip("addr add 10.1.0.2/24 dev mv0");
    let network = attach(&pod.request(Model::TcFilter)).await.unwrap();
    assert_eq!(names(&network), ["mv0"]);
    pod.assert_packets_pass(&network);
}

#[tokio::test]
async fn one_interface_more_is_connected_and_released_while_the_others_stay() {
    for model in [Model::TcFilter, Model::MacVtap] {
        let pod = Pod::new();
        let request = pod.request(model);
        let network = attach(&request).await.unwrap();
        pod.pod.ip("link add eth1 type veth peer name away
                    link set away netns WORLD
                    addr add 10.2.0.2/24 dev eth1
                    link set eth1 up"
            .replace("WORLD", &pod.world_thread().to_string())
            .as_str());
        let (nic, guest) = attach_interface(&request, "eth1").await.unwrap();
        assert_eq!(guest.interfaces.len(), 1);
        assert!(guest.routes.is_empty(), "{guest:?}");
        assert_eq!(pod.links(), ["lo", "eth0", "tap0_kata", "eth1", "tap1_kata"]);
        let announced = nic.announced.clone();
        drop(nic);
        release(&*pod.log, announced).unwrap();
        assert_eq!(pod.links(), ["lo", "eth0", "tap0_kata", "eth1"]);
        assert_eq!(pod.log.open().len(), 1);
        pod.assert_packets_pass(&network);
        attach_interface(&request, "eth1").await.unwrap();
    }
}

#[tokio::test]
async fn an_interface_that_is_not_there_is_named() {
    let pod = Pod::new();
    let error = attach_interface(&pod.request(Model::TcFilter), "eth7").await.unwrap_err();
    assert!(matches!(&error, NetworkError::Missing { interface } if interface == "eth7"), "{error}");
}

#[tokio::test]
async fn with_the_model_none_no_interface_is_connected_later() {
    let pod = Pod::new();
    let error = attach_interface(&pod.request(Model::None), "eth0").await.unwrap_err();
    assert!(matches!(error, NetworkError::Off { .. }), "{error}");
}

#[tokio::test]
async fn an_interface_that_has_an_address_but_is_down_is_set_up() {
    for model in [Model::TcFilter, Model::MacVtap] {
        let pod = Pod::new();
        pod.pod.ip("link set eth0 down");
        let network = attach(&pod.request(model)).await.unwrap();
        assert_eq!(names(&network), ["eth0"]);
        assert!(pod.pod.command("ip", "-br link show dev eth0").contains(",UP"));
    }
}

#[tokio::test]
async fn two_interfaces_with_one_hardware_address_are_refused() {
    let pod = Pod::new();
    pod.pod.ip("link add eth1 address 02:00:00:00:00:10 type veth peer name eth2
                link set eth1 up");
    let error = attach(&pod.request(Model::TcFilter)).await.unwrap_err();
    assert!(matches!(error, NetworkError::SharedAddress { .. }), "{error}");
}

#[tokio::test]
async fn an_interface_on_another_one_of_the_pod_is_refused() {
    let pod = Pod::new();
    pod.pod.ip("link add link eth0 name mac0 type macvlan mode bridge
                link set mac0 up");
    let error = attach(&pod.request(Model::TcFilter)).await.unwrap_err();
    assert!(matches!(error, NetworkError::Stacked { .. }), "{error}");
}

#[tokio::test]
async fn an_interface_without_ethernet_frames_is_refused_if_it_has_an_address() {
    let pod = Pod::new();
    pod.pod.ip("tuntap add dev ip0 mode tun
                link set ip0 up");
    drop(attach(&pod.request(Model::TcFilter)).await.unwrap());
    pod.log.replay();
    pod.pod.ip("addr add 10.8.0.1/24 dev ip0");
    let error = attach(&pod.request(Model::TcFilter)).await.unwrap_err();
    assert!(matches!(&error, NetworkError::Unsupported { kind, .. } if kind == "tun"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_announced_is_not_made() {
    for model in [Model::TcFilter, Model::MacVtap] {
        let pod = Pod::new();
        pod.log.full.store(true, Ordering::SeqCst);
        let error = attach(&pod.request(model)).await.unwrap_err();
        assert!(matches!(error, NetworkError::Announce { .. }), "{error}");
        assert_eq!(pod.links(), ["lo", "eth0"]);
        assert_eq!(pod.filters(), "None");
    }
}

fn names(network: &PodNetwork) -> Vec<&str> {
    network.nics.iter().map(|nic| nic.name.as_str()).collect()
}
