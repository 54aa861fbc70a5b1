//! What needs a host kernel with more than this project's machines have: run by `cargo xtask lab test`, not by the
//! workspace's tests. A test that finds its kernel without the thing fails.

use std::path::Path;
use std::process::Command;

use kata_e2e::{Container, Containerd, Network, ip, kata_test};

/// Makes `parent` and its other end `outside` (10.7.0.1), and with `link` the pod's `eth0` (10.7.0.2) on `parent`.
fn on_a_parent(name: &'static str, outside: &str, link: &str) -> Network {
    let network = Network::new(name);
    ip("link add parent type veth peer name outside");
    ip("link set parent up");
    ip("link set outside up");
    if outside != "outside" {
        ip(&format!("link add link outside name {outside} type vlan id 7"));
        ip(&format!("link set {outside} up"));
    }
    ip(&format!("addr add 10.7.0.1/24 dev {outside}"));
    ip(&format!("link add link parent name eth0 netns {name} type {link}"));
    network.inside("addr add 10.7.0.2/24 dev eth0");
    network.inside("link set eth0 up");
    network
}

fn sleeper<'c>(containerd: &'c Containerd, network: &Network) -> Container<'c> {
    containerd.container().network(network).command(["/bin/sleep", "1000"]).start()
}

#[track_caller]
fn assert_reachable(container: &Container<'_>) {
    container.shell("ping -c 1 -W 20 10.7.0.1");
    let ping = Command::new("busybox").args(["ping", "-c", "1", "-W", "20", "10.7.0.2"]).output();
    assert!(ping.is_ok_and(|ping| ping.status.success()), "the pod is not reached");
}

#[test]
fn a_pod_on_an_ipvlan_is_reached() {
    kata_test(|containerd| {
        let network = on_a_parent("pod", "outside", "ipvlan mode l2");
        let before = network.holdings();
        let container = sleeper(containerd, &network);
        assert!(container.shell("ip addr show eth0").contains("10.7.0.2/24"));
        assert_reachable(&container);
        container.remove();
        assert_eq!(network.holdings(), before);
        ip("link delete parent");
    });
}

#[test]
fn a_pod_on_a_vlan_is_reached() {
    kata_test(|containerd| {
        let network = on_a_parent("pod", "outside.7", "vlan id 7");
        let before = network.holdings();
        let container = sleeper(containerd, &network);
        assert_reachable(&container);
        container.remove();
        assert_eq!(network.holdings(), before);
        ip("link delete parent");
    });
}

#[test]
fn packets_are_moved_by_vhost_net_unless_it_is_disabled() {
    kata_test(|containerd| {
        assert!(Path::new("/dev/vhost-net").exists(), "this host has no vhost-net");
        for disabled in [false, true] {
            containerd.reconfigure(|text| {
                text.replace("disable_vhost_net = false", &format!("disable_vhost_net = {disabled}"))
            });
            let network = Network::with_veth("pod");
            let container = sleeper(containerd, &network);
            assert_reachable(&container);
            let vmm = containerd.processes_of("qemu-system-x86_64")[0].pid;
            let open = std::fs::read_dir(format!("/proc/{vmm}/fd")).expect("the VMM runs").flatten();
            let vhost =
                open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("vhost-net")));
            assert_eq!(vhost.count(), usize::from(!disabled));
            container.remove();
        }
    });
}
