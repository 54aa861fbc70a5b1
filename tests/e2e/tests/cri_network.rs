//! The network of pods that containerd has a CNI plugin make: a bridge, addresses of both families, mapped ports.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use kata_e2e::proto::{PortMapping, Protocol};
use kata_e2e::{PodContainer, cri_test, eventually};

/// Answers `hello` to whoever connects to the port.
const SERVER: &str = "while :; do echo hello | nc -l -p 8080; done";

#[track_caller]
fn assert_answers(address: &str) {
    eventually("the pod answers", Duration::from_secs(60), || {
        let Ok(mut stream) = TcpStream::connect(address) else { return false };
        let mut text = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("the time is not zero");
        stream.read_to_string(&mut text).is_ok() && text == "hello\n"
    });
}

#[test]
fn a_pods_addresses_are_those_of_its_containers() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        let addresses = pod.addresses();
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        let shown = container.shell("ip addr show eth0");
        for (address, length) in addresses.iter().zip([16, 64]) {
            assert!(shown.contains(&format!(" {address}/{length} ")), "{address} is not in {shown}");
        }
        let routes = container.shell("ip route; ip -6 route");
        for gateway in ["default via 10.88.0.1 dev eth0", "default via fd00:88::1 dev eth0"] {
            assert!(routes.contains(gateway), "{routes}");
        }
    });
}

fn assert_pings(container: &PodContainer<'_>, address: &str) {
    container.exec_shell(&format!("ping -c 1 -W 10 {address}")).ok().done();
}

#[test]
fn two_pods_reach_each_other_and_the_host() {
    cri_test(|cri| {
        let [first, second] = [cri.pod().run(), cri.pod().run()];
        let [of_first, of_second] = [&first, &second].map(|pod| pod.container("main").idle().start());
        for address in second.addresses() {
            assert_pings(&of_first, &address);
        }
        for address in first.addresses() {
            assert_pings(&of_second, &address);
        }
        for gateway in ["10.88.0.1", "fd00:88::1"] {
            assert_pings(&of_first, gateway);
        }
    });
}

#[test]
fn containers_of_a_pod_share_its_network() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let _server = pod.container("server").shell(SERVER).start();
        let client = pod.container("client").idle().start();
        eventually("the server answers", Duration::from_secs(60), || {
            client.exec_shell("nc -w 5 127.0.0.1 8080 </dev/null").text() == "hello"
        });
    });
}

#[test]
fn the_host_reaches_a_pod() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let _server = pod.container("server").shell(SERVER).start();
        assert_answers(&format!("{}:8080", pod.addresses()[0]));
    });
}

#[test]
fn a_mapped_port_of_the_host_leads_to_the_pod() {
    cri_test(|cri| {
        let mapping = PortMapping {
            protocol: Protocol::Tcp.into(),
            container_port: 8080,
            host_port: 18080,
            ..Default::default()
        };
        let pod = cri.pod().with(|config| config.port_mappings.push(mapping)).run();
        let _server = pod.container("server").shell(SERVER).start();
        // The rules are for what comes to an address of the host's.
        assert_answers("10.88.0.1:18080");
    });
}

#[test]
fn ten_megabytes_reach_the_host_unharmed() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let line = "head -c 10000000 /dev/zero | nc -l -p 8080";
        let server = pod.container("server").shell(line).start();
        let mut received = 0;
        eventually("all has come", Duration::from_secs(100), || {
            let address = format!("{}:8080", pod.addresses()[0]);
            let Ok(mut stream) = TcpStream::connect(address) else { return false };
            let mut buffer = vec![0; 1 << 20];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                assert!(buffer[..count].iter().all(|byte| *byte == 0));
                received += count;
            }
            received == 10_000_000
        });
        server.wait();
    });
}
