//! `kata-runtime network` and `iptables`, through the shim's management socket, while a container runs.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use kata_e2e::{Container, Containerd, Finished, Network, eventually, kata_test};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn sleeper<'c>(containerd: &'c Containerd, network: &Network) -> Container<'c> {
    containerd.container().network(network).command(["/bin/sleep", "1000"]).start()
}

/// `kata-runtime` with these words and the container's id for `ID`.
fn runtime(containerd: &Containerd, container: &Container<'_>, words: &str) -> Finished {
    let words = words.split(' ').map(|word| if word == "ID" { container.id() } else { word });
    containerd.kata_runtime(words)
}

fn listed(containerd: &Containerd, container: &Container<'_>, what: &str) -> Vec<Value> {
    let text = runtime(containerd, container, &format!("{what} list ID --json")).ok().text();
    serde_json::from_str(&text).expect("a list")
}

#[test]
fn interfaces_are_listed_with_what_they_are_connected_to() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let container = sleeper(containerd, &network);
        let all = listed(containerd, &container, "network");
        let eth0 = all.iter().find(|interface| interface["name"] == "eth0").expect("there is one");
        let mac = container.shell("cat /sys/class/net/eth0/address");
        assert_eq!(
            (&eth0["device"], &eth0["hwAddr"], &eth0["mtu"]),
            (&json!("eth0"), &json!(mac), &json!(1500))
        );
        let addresses = eth0["IPAddresses"].as_array().expect("a list");
        assert!(
            addresses.contains(&json!({ "family": "v4", "address": "10.7.0.2", "mask": "24" })),
            "{all:?}"
        );
        let loopback = all.iter().find(|interface| interface["name"] == "lo").expect("there is one");
        assert_eq!(loopback["device"], "");
        let table = runtime(containerd, &container, "network list ID").ok().text();
        assert!(table.contains("CONNECTED TO") && table.contains("10.7.0.2/24 fd00:7::2/64"), "{table}");
    });
}

#[test]
fn an_interface_is_taken_out_and_comes_back_while_the_container_runs() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let before = network.holdings();
        let container = sleeper(containerd, &network);
        container.shell("ping -c 1 -W 5 10.7.0.1");
        runtime(containerd, &container, "network remove ID eth0").ok().done();
        assert_eq!(container.shell("ls /sys/class/net"), "lo");
        assert_eq!(network.holdings(), before);
        // What the namespace tells of later does not bring it back.
        network.add_veth("net1", "host1", 8);
        eventually("the other one is there", LIMIT, || {
            container.exec_shell("ip addr show net1").run().text().contains("10.8.0.2/24")
        });
        assert_eq!(container.shell("ls /sys/class/net"), "lo\nnet1");
        runtime(containerd, &container, "network add ID eth0").ok().done();
        container.shell("ping -c 1 -W 5 10.7.0.1 && ping -c 1 -W 5 fd00:7::1 && ping -c 1 -W 5 10.8.0.1");
        let routes = container.shell("ip route");
        assert!(routes.contains("default via 10.7.0.1 dev eth0"), "{routes}");
        let devices: Vec<Value> =
            listed(containerd, &container, "network").iter().map(|one| one["device"].clone()).collect();
        assert!(devices.contains(&json!("eth0")) && devices.contains(&json!("net1")), "{devices:?}");
    });
}

#[test]
fn an_interface_made_anew_is_connected_again() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        network.add_veth("net1", "host1", 8);
        let container = sleeper(containerd, &network);
        runtime(containerd, &container, "network remove ID net1").ok().done();
        network.inside("link delete net1");
        network.add_veth("net1", "host1", 9);
        eventually("it is there", LIMIT, || {
            container.exec_shell("ip addr show net1").run().text().contains("10.9.0.2/24")
        });
    });
}

#[test]
fn an_interface_may_be_another_in_the_guest() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        network.add_veth("net1", "host1", 8);
        let container = sleeper(containerd, &network);
        runtime(containerd, &container, "network add ID net1 --name lan --mtu 1300 --address 10.8.0.77/24")
            .ok()
            .done();
        let link = container.shell("ip addr show lan");
        assert!(
            link.contains("mtu 1300") && link.contains("10.8.0.77/24") && !link.contains("10.8.0.2/"),
            "{link}"
        );
        container.shell("ping -c 1 -W 5 10.8.0.1 && ping -c 1 -W 5 10.7.0.1");
        let file = containerd.directory().join("interface.json");
        std::fs::write(&file, r#"{"device":"net1","mtu":1400}"#).expect("the directory is there");
        runtime(containerd, &container, &format!("network add ID --file {}", file.display())).ok().done();
        let link = container.shell("ip addr show net1");
        assert!(link.contains("mtu 1400") && link.contains("10.8.0.2/24"), "{link}");
    });
}

#[test]
fn routes_set_by_hand_are_the_containers_until_they_are_reset() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let container = sleeper(containerd, &network);
        let id = container.id();
        let mine = ["network", "routes", "set", id, "192.0.2.0/24 via 10.7.0.1 dev eth0 metric 7"];
        containerd.kata_runtime(mine).ok().done();
        let routes = container.shell("ip route");
        assert!(routes.contains("192.0.2.0/24 via 10.7.0.1 dev eth0  metric 7"), "{routes}");
        assert!(!routes.contains("default"), "{routes}");
        // Another change of the namespace is no reason to forget them.
        network.add_veth("net1", "host1", 8);
        eventually("the interface is there", LIMIT, || {
            container.exec_shell("ip addr show net1").run().text().contains("10.8.0.2/24")
        });
        let shown = runtime(containerd, &container, "network routes list ID").ok().text();
        assert!(shown.lines().any(|line| line == "192.0.2.0/24 via 10.7.0.1 dev eth0 metric 7"), "{shown}");
        let lost = ["network", "routes", "set", id, "192.0.2.0/24 via 10.99.0.1 dev eth0"];
        containerd.kata_runtime(lost).fails_because("192.0.2.0/24 via 10.99.0.1 dev eth0");
        let routes = container.shell("ip route");
        assert!(routes.contains("192.0.2.0/24 via 10.7.0.1 dev eth0  metric 7"), "{routes}");
        runtime(containerd, &container, "network routes reset ID").ok().done();
        let routes = container.shell("ip route");
        assert!(
            routes.contains("default via 10.7.0.1 dev eth0") && !routes.contains("192.0.2.0"),
            "{routes}"
        );
    });
}

/// The guest image of this release has no such programs.
#[test]
fn without_programs_in_the_guest_the_packet_filter_is_refused_with_the_reason() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let container = sleeper(containerd, &network);
        let refused = |words: &str, program: &str| {
            runtime(containerd, &container, words)
                .fails_because(&format!("The guest image has no {program};"));
        };
        refused("iptables get ID", "iptables-save");
        refused("iptables get --sandbox-id ID --v6", "ip6tables-save");
        refused("iptables set ID", "iptables-restore");
        refused("iptables set --sandbox-id ID --v6 /dev/null", "ip6tables-restore");
    });
}

#[test]
fn what_cannot_be_done_is_told_with_the_reason() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let other = containerd.container().command(["/bin/sleep", "1000"]).start();
        let container = sleeper(containerd, &network);
        let refused = |words: &str, cause: &str| runtime(containerd, &container, words).fails_because(cause);
        refused("network add ID eth7", "no interface eth7 that can be connected (it has: eth0)");
        refused("network remove ID eth7", "no network interface eth7");
        refused("network add ID eth0 --name lo", "another network interface lo");
        refused("network list nobody", "has an id that begins with `nobody`");
        container.shell("ping -c 1 -W 5 10.7.0.1");
        // A beginning of the id is enough if no other has it.
        let (own, others) = (container.id().to_owned(), other.id().to_owned());
        let common = own.chars().zip(others.chars()).take_while(|(a, b)| a == b).count();
        containerd.kata_runtime(["network", "list", &own[..common]]).fails_because("several ids");
        containerd.kata_runtime(["network", "list", &own[..=common]]).ok().done();
        for vmm in containerd.processes_of("qemu-system-x86_64") {
            vmm.kill();
        }
        container.wait_until_stopped();
        refused("network list ID", "The sandbox has ended");
        container.remove();
        containerd
            .kata_runtime(["network", "list", own.as_str()])
            .fails_because("has an id that begins with");
    });
}

#[test]
fn upstreams_tools_find_the_agent_by_the_socket() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let path = Path::new("/run/vc/sbs").join(container.id()).join("shim-monitor.sock");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut stream = UnixStream::connect(&path).expect("the shim listens");
        stream.write_all(b"GET /agent-url HTTP/1.1\r\nHost: x\r\n\r\n").expect("the shim reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the shim answers");
        let expected = match Path::new("/dev/vhost-vsock").exists() {
            true => "\r\n\r\nvsock://",
            false => "\r\n\r\nhvsock:///run/kata/",
        };
        assert!(answer.contains(expected), "{answer}");
    });
}
