//! Networks that CNI plugins make, called by hand: a container sees what one of runc sees in the same namespace, is
//! reached there, and leaves the namespace to the plugin as it was.

use std::process::Command;
use std::time::Duration;

use kata_e2e::{
    Attachment, Container, Containerd, Finished, Image, Network, eventually, host_local, ip, test,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// Interfaces, addresses and routes, without what the kernel numbers itself.
const VIEW: &str = "for i in /sys/class/net/*; do echo ${i##*/} $(cat $i/address) $(cat $i/mtu); done; \
                    ip addr | grep inet; ip route; ip -6 route";

/// What a runc container in this network sees.
fn seen_by_runc(containerd: &Containerd, network: &Network) -> Vec<String> {
    let mut seen = Vec::new();
    // ctr can miss the output of a container that ends at once.
    eventually("a container of runc tells what it sees", PATIENCE, || {
        let container = containerd.container().runtime("io.containerd.runc.v2").network(network);
        seen = lines(&container.shell(VIEW).run().ok().text());
        !seen.is_empty()
    });
    seen
}

/// In an order of their own, and without the ways in which addresses come to be: a guest's are there at once (`flags 02`), and
/// its kernel never makes a route that a plugin took away (`noprefixroute`).
fn lines(text: &str) -> Vec<String> {
    let ways = ["flags", "02", "tentative", "noprefixroute"];
    let words = |line: &str| {
        line.split_whitespace().filter(|word| !ways.contains(word)).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<_> = text.lines().map(words).collect();
    lines.sort();
    lines
}

/// An empty network in which the loopback is set up, as every manager does it first.
fn pod(name: &'static str) -> Network {
    let network = Network::new(name);
    network.inside("link set lo up");
    network
}

/// A container that sees what one of runc saw.
#[track_caller]
fn sleeper<'c>(containerd: &'c Containerd, network: &Network) -> Container<'c> {
    let expected = seen_by_runc(containerd, network);
    let container = containerd.container().network(network).command(["/bin/sleep", "1000"]).start();
    // Each kernel gives a link an address of its own when the link is ready.
    eventually(&format!("a container sees what one of runc sees: {expected:#?}"), PATIENCE, || {
        let seen = lines(&container.shell(VIEW));
        if seen != expected {
            println!("A container sees {seen:#?}");
        }
        seen == expected
    });
    container
}

#[track_caller]
fn assert_reachable(attachment: &Attachment<'_>) {
    for address in attachment.addresses() {
        // A bridge forwards, and has its address, only after a while.
        eventually(&format!("{address} answers"), Duration::from_secs(30), || {
            let ping = Command::new("busybox").args(["ping", "-c", "1", "-W", "1", address]).output();
            ping.is_ok_and(|ping| ping.status.success())
        });
    }
}

#[track_caller]
fn assert_reaches(container: &Container<'_>, addresses: &[&str]) {
    for address in addresses {
        container.shell(&format!("ping -c 1 -W 10 {address}"));
    }
}

/// A bridge with addresses of both families.
fn bridge(containerd: &Containerd, name: &str, number: u8) -> Value {
    let mut ipam = host_local(containerd, &[&format!("10.{number}.0.0/16"), &format!("fd00:{number}::/64")]);
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    json!({ "type": "bridge", "bridge": name, "isGateway": true, "ipam": ipam })
}

/// A macvlan on `up0`, whose other end `peer0` is 10.41.0.1 and fd00:41::1.
fn macvlan(containerd: &Containerd) -> Value {
    ip("link add up0 type veth peer name peer0");
    ip("addr add 10.41.0.1/16 dev peer0");
    ip("addr add fd00:41::1/64 dev peer0 nodad");
    ip("link set up0 up");
    ip("link set peer0 up");
    json!({ "type": "macvlan", "master": "up0", "ipam": host_local(containerd, &["10.41.0.0/16", "fd00:41::/64"]) })
}

#[test]
fn a_bridge_gives_addresses_of_both_families() {
    test(|containerd| {
        let network = pod("pod");
        let before = network.holdings();
        let eth0 = network.attach("eth0", bridge(containerd, "br0", 40));
        let container = sleeper(containerd, &network);
        assert_reachable(&eth0);
        assert_reaches(&container, &["10.40.0.1", "fd00:40::1"]);
        container.remove();
        eth0.delete();
        assert_eq!(network.holdings(), before);
        ip("link delete br0");
    });
}

#[test]
fn a_macvlan_reaches_the_network_of_its_parent() {
    test(|containerd| {
        let network = pod("pod");
        let before = network.holdings();
        let eth0 = network.attach("eth0", macvlan(containerd));
        let container = sleeper(containerd, &network);
        assert_reachable(&eth0);
        assert_reaches(&container, &["10.41.0.1", "fd00:41::1"]);
        container.remove();
        eth0.delete();
        assert_eq!(network.holdings(), before);
        ip("link delete up0");
    });
}

#[test]
fn pods_that_are_linked_to_the_host_alone_reach_each_other() {
    test(|containerd| {
        let [network, other] = [pod("pod"), pod("other")];
        let before = network.holdings();
        let mut ipam = host_local(containerd, &["10.42.0.0/16", "fd00:42::/64"]);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let configuration = json!({ "type": "ptp", "ipam": ipam });
        let [eth0, of_other] =
            [&network, &other].map(|network| network.attach("eth0", configuration.clone()));
        let container = sleeper(containerd, &network);
        assert_reachable(&eth0);
        assert_reaches(&container, &["10.42.0.1", "fd00:42::1"]);
        let others: Vec<&str> = of_other.addresses().iter().map(String::as_str).collect();
        assert_reaches(&container, &others);
        container.remove();
        of_other.delete();
        eth0.delete();
        assert_eq!(network.holdings(), before);
    });
}

#[test]
fn a_bridge_and_a_macvlan_are_two_interfaces() {
    test(|containerd| {
        let network = pod("pod");
        let before = network.holdings();
        let eth0 = network.attach("eth0", bridge(containerd, "br0", 40));
        let net1 = network.attach("net1", macvlan(containerd));
        let container = sleeper(containerd, &network);
        assert_reachable(&eth0);
        assert_reachable(&net1);
        assert_reaches(&container, &["10.40.0.1", "fd00:40::1", "10.41.0.1", "fd00:41::1"]);
        container.remove();
        net1.delete();
        eth0.delete();
        assert_eq!(network.holdings(), before);
        ip("link delete br0");
        ip("link delete up0");
    });
}

#[test]
fn a_network_of_the_loopback_alone_is_no_more_than_that() {
    test(|containerd| {
        let network = Network::new("pod");
        let lo = network.attach("lo", json!({ "type": "loopback" }));
        let container = sleeper(containerd, &network);
        assert_reaches(&container, &["127.0.0.1", "::1"]);
        container.remove();
        lo.delete();
    });
}

/// `ping` of iputils for both families, with payloads of these sizes, within the MTU and beyond.
#[test]
fn pings_of_every_size_are_answered() {
    test(|containerd| {
        let network = Network::with_veth("pod");
        network.add_veth("net1", "host1", 8);
        network.inside("link set net1 mtu 1280");
        ip("link set host1 mtu 1280");
        let container = containerd.container().image(Image::Network).network(&network);
        let container = container.command(["sleep", "1000"]).start();
        let ping = |sizes: &str, options: &str| {
            let line = format!("for s in {sizes}; do ping -c 1 -W 10 -s $s {options} || exit 1; done");
            container.shell(&line);
        };
        ping("0 1472 1473 20000 65507", "-4 10.7.0.1");
        ping("0 1452 1453 20000 65487", "-6 fd00:7::1");
        ping("1252", "-M do -4 10.8.0.1");
        ping("1232", "-M do -6 fd00:8::1");
        ping("1253 20000", "-4 10.8.0.1");
        ping("1233 20000", "-6 fd00:8::1");
        for address in ["10.7.0.2", "fd00:7::2", "10.8.0.2", "fd00:8::2"] {
            let ping = Command::new("busybox")
                .args(["ping", "-c", "1", "-W", "10", "-s", "20000", address])
                .output();
            assert!(ping.is_ok_and(|ping| ping.status.success()), "{address}");
        }
    });
}

/// `ping` of iputils, with an IP packet of this size that must not be fragmented.
fn whole_packet(container: &Container<'_>, address: &str, size: u32) -> Finished {
    let headers = if address.contains(':') { 48 } else { 28 };
    container.exec_shell(&format!("ping -c 1 -W 10 -M do -s {} {address}", size - headers)).run()
}

#[test]
fn large_packets_go_through_whole_from_end_to_end() {
    test(|containerd| {
        let networks = [pod("first"), pod("second")];
        let mut configuration = bridge(containerd, "br0", 40);
        configuration["mtu"] = json!(9000);
        let attached = networks.each_ref().map(|network| network.attach("eth0", configuration.clone()));
        let start = |network: &Network| {
            containerd.container().image(Image::Network).network(network).command(["sleep", "1000"]).start()
        };
        let containers = networks.each_ref().map(start);
        for peer in attached[1].addresses().iter().map(String::as_str).chain(["10.40.0.1", "fd00:40::1"]) {
            whole_packet(&containers[0], peer, 9000).ok().done();
            assert!(whole_packet(&containers[0], peer, 9001).code != 0, "{peer}");
        }
        containers.iter().for_each(Container::remove);
        attached.into_iter().for_each(Attachment::delete);
        ip("link delete br0");
    });
}
