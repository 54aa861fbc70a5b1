//! The network of a namespace that somebody has made for the container, as CNI plugins do.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use kata_e2e::{Container, Containerd, Created, Network, eventually, ip, kata_test, test};
use serde_json::json;

/// Kept running, to be looked at.
fn sleeper<'c>(containerd: &'c Containerd, network: &Network) -> Container<'c> {
    containerd.container().network(network).command(["/bin/sleep", "1000"]).start()
}

/// With this setting of `[runtime]` by annotation.
fn with_setting<'c>(
    containerd: &'c Containerd,
    network: &Network,
    key: &str,
    value: &str,
) -> kata_e2e::Recipe<'c> {
    let annotation = format!("io.katacontainers.config.runtime.{key}={value}");
    containerd
        .container()
        .network(network)
        .option("--annotation")
        .option(annotation)
        .command(["/bin/sleep", "1000"])
}

#[track_caller]
fn assert_reachable(container: &Container<'_>, network: &Network) {
    for address in ["10.7.0.1", "fd00:7::1"] {
        container.shell(&format!("ping -c 1 -W 5 {address}"));
    }
    for address in ["10.7.0.2", "fd00:7::2"] {
        let ping = Command::new("busybox").args(["ping", "-c", "1", "-W", "5", address]).output();
        assert!(ping.is_ok_and(|ping| ping.status.success()), "{address}: {}", network.inside("addr"));
    }
}

#[test]
fn a_container_has_the_addresses_and_routes_of_its_namespace() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        network.inside("link set eth0 mtu 1400");
        let container = sleeper(containerd, &network);
        let mac = network.inside("-o link show eth0");
        let mac = mac.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a veth");
        let link = container.shell("ip link show eth0");
        assert!(link.contains("mtu 1400") && link.contains(mac) && link.contains("UP"), "{link}");
        let addresses = container.shell("ip addr show eth0");
        assert!(addresses.contains("10.7.0.2/24") && addresses.contains("fd00:7::2/64"), "{addresses}");
        let routes = container.shell("ip route");
        assert!(routes.contains("default via 10.7.0.1 dev eth0"), "{routes}");
        let routes = container.shell("ip -6 route");
        assert!(routes.contains("default via fd00:7::1 dev eth0"), "{routes}");
        assert_reachable(&container, &network);
    });
}

#[test]
fn a_container_is_reached_through_macvtap() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let container = with_setting(containerd, &network, "internetworking_model", "macvtap").start();
        assert_reachable(&container, &network);
    });
}

#[test]
fn a_card_has_a_pair_of_queues_for_each_cpu_if_it_is_configured_so() {
    kata_test(|containerd| {
        containerd.reconfigure(|text| {
            text.replace("network_queues = 1", "network_queues = 2")
                .replace("default_vcpus = 1", "default_vcpus = 2")
        });
        let network = Network::with_veth("pod");
        let container = sleeper(containerd, &network);
        assert_eq!(container.shell("cd /sys/class/net/eth0/queues && echo *"), "rx-0 rx-1 tx-0 tx-1");
        assert_reachable(&container, &network);
    });
}

#[test]
fn without_a_model_a_container_has_only_the_loopback() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let container = with_setting(containerd, &network, "internetworking_model", "none").start();
        assert_eq!(container.shell("ls /sys/class/net"), "lo");
        assert!(!network.traffic_control().contains("ingress"));
    });
}

#[test]
fn several_interfaces_keep_their_names_and_their_routes() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        network.add_veth("net1", "host1", 8);
        network.inside("route add 192.0.2.0/24 via 10.8.0.1 metric 50");
        network.inside("route add 198.51.100.0/24 via 10.99.0.1 dev net1 onlink");
        network.inside("neigh add 10.8.0.77 lladdr 02:00:00:00:00:77 dev net1 nud permanent");
        let container = sleeper(containerd, &network);
        let routes = container.shell("ip route");
        for route in
            ["192.0.2.0/24 via 10.8.0.1 dev net1", "metric 50", "198.51.100.0/24 via 10.99.0.1 dev net1"]
        {
            assert!(routes.contains(route), "{route} in {routes}");
        }
        let neighbours = container.shell("ip neigh");
        let known =
            neighbours.lines().find(|line| line.starts_with("10.8.0.77 dev net1 lladdr 02:00:00:00:00:77"));
        assert!(known.is_some_and(|line| line.ends_with("PERMANENT")), "{neighbours}");
        container.shell("ping -c 1 -W 5 10.8.0.1 && ping -c 1 -W 5 10.7.0.1");
    });
}

#[test]
fn a_large_transfer_arrives_whole_in_both_directions() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let container = sleeper(containerd, &network);
        let script = "dd if=/dev/urandom of=/tmp/data bs=1M count=20 2>/dev/null; md5sum < /tmp/data; \
                      nc -l -p 7000 < /tmp/data > /tmp/back; md5sum < /tmp/back";
        let serving = container.exec_shell(script).attach();
        let client = "import socket, time\n\
                      def connect():\n    while True:\n        try: return socket.create_connection(('10.7.0.2', 7000))\n        except ConnectionError: time.sleep(0.05)\n\
                      s = connect(); data = b''\n\
                      while len(data) < 20 << 20: data += s.recv(1 << 20)\n\
                      s.sendall(data); s.shutdown(socket.SHUT_WR)";
        let client = Command::new("python3").args(["-c", client]).status();
        assert!(client.is_ok_and(|status| status.success()));
        let text = serving.finish().ok().text();
        let sums: Vec<&str> = text.lines().collect();
        assert!(sums.len() == 2 && sums[0] == sums[1], "{text}");
    });
}

/// Less time than this would be a faster way than the limit allows; how much more it takes is the machine's affair.
#[test]
fn a_card_receives_and_sends_no_faster_than_its_limits() {
    kata_test(|containerd| {
        containerd.reconfigure(|text| {
            text.replace("rx_rate_limiter_max_rate = 0", "rx_rate_limiter_max_rate = 8000000")
                .replace("tx_rate_limiter_max_rate = 0", "tx_rate_limiter_max_rate = 4000000")
        });
        let network = Network::with_veth("pod");
        let before = network.holdings();
        let container = sleeper(containerd, &network);
        let script =
            "dd if=/dev/zero of=/tmp/data bs=1M count=1 2>/dev/null; nc -l -p 7000 < /tmp/data > /tmp/back";
        let serving = container.exec_shell(script).attach();
        let client = "import array, fcntl, socket, termios, time\n\
                      def connect():\n    while True:\n        try: return socket.create_connection(('10.7.0.2', 7000))\n        except ConnectionError: time.sleep(0.05)\n\
                      def unacknowledged(s):\n    left = array.array('i', [0]); fcntl.ioctl(s, termios.TIOCOUTQ, left); return left[0]\n\
                      s = connect(); begun = time.time(); got = 0\n\
                      while got < 1 << 20: got += len(s.recv(1 << 20))\n\
                      print(time.time() - begun); begun = time.time()\n\
                      s.sendall(bytes(2 << 20)); s.shutdown(socket.SHUT_WR)\n\
                      while unacknowledged(s): time.sleep(0.02)\n\
                      print(time.time() - begun)";
        let client = Command::new("python3").args(["-c", client]).output().expect("python3 is installed");
        serving.finish().ok().done();
        let times: Vec<f64> =
            String::from_utf8_lossy(&client.stdout).lines().filter_map(|line| line.parse().ok()).collect();
        // 1 MiB at 0.5 MB/s and 2 MiB at 1 MB/s take 2.1 s each.
        assert!(times.len() == 2 && times.iter().all(|time| *time > 1.7), "{times:?} {client:?}");
        container.remove();
        assert_eq!(network.holdings(), before);
    });
}

#[test]
fn nothing_is_left_in_the_namespace() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let before = network.holdings();
        let container = sleeper(containerd, &network);
        assert!(network.traffic_control().contains("ingress"));
        container.remove();
        assert_eq!(network.holdings(), before);
    });
}

#[test]
fn a_killed_server_leaves_nothing_in_the_namespace() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let before = network.holdings();
        let container = sleeper(containerd, &network);
        for shim in containerd.processes_of("containerd-shim-kata-v2") {
            shim.kill();
        }
        eventually("containerd has cleaned up", Duration::from_secs(20), || {
            containerd.processes().is_empty()
        });
        assert_eq!(network.holdings(), before);
        if !container.status().is_empty() {
            container.task("delete", &["--force"]).done();
        }
        containerd.ctr(["containers", "rm", container.id()]).done();
    });
}

/// With TAP devices of its own the VM would silence whoever uses the interfaces now.
#[test]
fn a_namespace_that_others_use_is_refused_unless_it_is_allowed() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let mut other = Command::new("ip").args(["netns", "exec", "pod", "sleep", "1000"]).spawn().unwrap();
        let refused = containerd.container().network(&network).command(["/bin/true"]).try_start();
        refused.fails_because("is used by other processes");
        let container =
            with_setting(containerd, &network, "experimental", "shared_network_namespace").start();
        assert_reachable(&container, &network);
        other.kill().unwrap();
        other.wait().unwrap();
    });
}

#[test]
fn the_hosts_network_is_refused_unless_it_is_allowed() {
    kata_test(|containerd| {
        let own = |spec: &mut serde_json::Value| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
            namespaces.retain(|namespace| namespace["type"] != "network");
        };
        let refused = containerd.container().spec(own).try_start();
        refused.fails_because("the host's network");
        let served = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = served.local_addr().unwrap().port();
        let container = containerd.container().spec(|spec| {
            own(spec);
            spec["annotations"] = json!({ "io.katacontainers.config.runtime.experimental": "host_network" });
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = container.start();
        let greeter =
            std::thread::spawn(move || served.accept().and_then(|(mut peer, _)| peer.write_all(b"hello")));
        // 10.0.2.2 is the host's own loopback.
        assert_eq!(container.shell(&format!("nc 10.0.2.2 {port} < /dev/null")), "hello");
        greeter.join().unwrap().unwrap();
    });
}

/// Gives the namespace of a process an `eth0`; `$1` is its id.
const CONNECT: &str = "set -e; \
    ip link add host0 type veth peer name eth0 netns $1; \
    ip addr add 10.7.0.1/24 dev host0; ip -6 addr add fd00:7::1/64 dev host0 nodad; ip link set host0 up; \
    nsenter -t $1 -n ip addr add 10.7.0.2/24 dev eth0; nsenter -t $1 -n ip -6 addr add fd00:7::2/64 dev eth0 nodad; \
    nsenter -t $1 -n ip link set eth0 up; nsenter -t $1 -n ip route add default via 10.7.0.1";

/// Docker gives a container its network by such a hook.
#[test]
fn a_network_that_a_hook_brings_is_there_when_the_workload_begins() {
    kata_test(|containerd| {
        let container = containerd.container().spec(|spec| {
            let script = format!("set -- $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); {CONNECT}");
            let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
            spec["hooks"] = json!({ "createRuntime": [
                { "path": "/bin/sh", "args": ["sh", "-c", script], "env": [path] }
            ] });
            spec["process"]["args"] =
                json!(["/bin/sh", "-c", "ip addr show eth0; ip route; ping -c 1 -W 5 10.7.0.1"]);
        });
        let text = container.run().ok().text();
        assert!(text.contains("10.7.0.2/24") && text.contains("fd00:7::2/64"), "{text}");
        assert!(text.contains("default via 10.7.0.1 dev eth0"), "{text}");
    });
}

/// Docker also gives a container its network between the task's creation and its start, in the namespace of the process
/// that the creation told.
#[test]
fn a_network_that_appears_between_creation_and_start_is_there_when_the_workload_begins() {
    test(|containerd| {
        let created = containerd.container().spec(|spec| spec["process"]["args"] = json!(LOOK)).create_task();
        let connected =
            Command::new("sh").args(["-c", CONNECT, "connect", &created.pid.to_string()]).status();
        assert!(connected.is_ok_and(|status| status.success()));
        assert_begins_with_a_network(&created);
    });
}

#[test]
fn a_named_namespace_can_be_filled_between_creation_and_start() {
    test(|containerd| {
        let network = Network::new("pod");
        let recipe = containerd.container().spec(|spec| {
            spec["process"]["args"] = json!(LOOK);
            let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
            let its = namespaces.iter_mut().find(|namespace| namespace["type"] == "network");
            its.expect("a network namespace")["path"] = json!(network.path());
        });
        let created = recipe.create_task();
        network.add_veth("eth0", "host0", 7);
        network.inside("route add default via 10.7.0.1");
        assert_begins_with_a_network(&created);
    });
}

/// A workload that looks at its network once, at its very begin.
const LOOK: [&str; 3] = ["/bin/sh", "-c", "ip addr show eth0; ip route; ping -c 1 -W 10 10.7.0.1"];

#[track_caller]
fn assert_begins_with_a_network(created: &Created<'_>) {
    created.start();
    created.container.wait_until_stopped();
    let text = std::fs::read_to_string(&created.output).expect("the workload has written");
    for part in ["10.7.0.2/24", "fd00:7::2/64", "default via 10.7.0.1 dev eth0", " 0% packet loss"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(created.container.delete(), 0);
}

fn vmm(containerd: &Containerd) -> String {
    containerd.processes_of("qemu-system-x86_64")[0].pid.to_string()
}

fn connect(containerd: &Containerd) {
    let connected = Command::new("sh").args(["-c", CONNECT, "connect", &vmm(containerd)]).status();
    assert!(connected.is_ok_and(|status| status.success()));
}

#[test]
fn a_running_container_is_given_a_network_and_loses_it_again() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        assert_eq!(container.shell("ls /sys/class/net"), "lo");
        connect(containerd);
        let limit = Duration::from_secs(20);
        eventually("the network is there", limit, || {
            container.exec_shell("ip addr show eth0; ip route").run().text().contains("default via 10.7.0.1")
        });
        container.shell("ping -c 1 -W 5 10.7.0.1");
        ip("link delete host0");
        eventually("the network is gone", limit, || container.shell("ls /sys/class/net") == "lo");
    });
}
