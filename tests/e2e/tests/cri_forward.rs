//! Ports of a pod that containerd forwards: it connects to the loopback of the pod's network namespace.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use kata_e2e::{
    Forward, Image, Pattern, Pod, PodContainer, amount, cri_test, eventually, fail, kata_cri_test, sha256,
};
use nix::sched::{CloneFlags, setns};

/// Answers every connection with what it says.
const ECHO: &str = "nc -ll -p 8080 -e cat";

/// The same for many at once: busybox's nc has room for two that wait, and the kernel resets others after seconds.
const ECHO_TO_MANY: &str = "import os, socket
server = socket.create_server(('', 8080), backlog=64)
while True:
    client = server.accept()[0]
    if os.fork() == 0:
        while data := client.recv(65536): client.sendall(data)
        os._exit(0)
    client.close()";

/// Longer than a server needs to come up.
const READY: Duration = Duration::from_secs(60);

/// Waits until a server is there, by its socket: a look at the table that holds `address:port` in hexadecimal digits.
#[track_caller]
fn wait_for_server(container: &PodContainer<'_>, port: u16) {
    eventually("the server listens", READY, || {
        let line = format!("grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6");
        container.exec_shell(&line).code == 0
    });
}

/// What an HTTP server answers, without its header.
#[track_caller]
fn get(mut connection: Forward, path: &str) -> Vec<u8> {
    connection.write(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
    let (mut answer, complaint) = connection.finish();
    let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = body.unwrap_or_else(|| fail(format_args!("no answer but {answer:?}; {complaint}")));
    answer.drain(..body + 4);
    answer
}

#[test]
fn much_goes_into_a_pod_and_comes_back_unharmed() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        // Its input never ends, so that it reads until the client goes.
        let line = "mkdir /www; mkfifo /in; exec 3<>/in; nc -l -p 8080 <&3 >/www/data; sha256sum /www/data; \
                    exec httpd -f -p 8081 -h /www";
        let server = pod.container("server").shell(line).start();
        wait_for_server(&server, 8080);
        let bytes = Pattern::new(1, amount(20_000_000, 100_000_000)).bytes();
        let (hash, _) = sha256(&bytes[..]).unwrap();
        let mut connection = pod.forward(8080);
        connection.write(&bytes);
        connection.close();
        wait_for_server(&server, 8081);
        server.wait_for_line(&format!("{hash}  /www/data"));
        assert!(get(pod.forward(8081), "/data") == bytes, "it comes back as it was");
    });
}

#[test]
fn ten_connections_at_once_are_kept_apart() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let server = pod.container("server").image(Image::Debian);
        let server = server.command(["/usr/bin/python3", "-c", ECHO_TO_MANY]).start();
        wait_for_server(&server, 8080);
        let mut connections: Vec<Forward> = (0..10).map(|_| pod.forward(8080)).collect();
        let said = |number: u64| Pattern::new(number, 50_000).bytes();
        for (number, connection) in (0..).zip(&mut connections) {
            connection.write(&said(number));
        }
        for (number, connection) in (0..).zip(&mut connections) {
            assert!(connection.read(50_000) == said(number), "connection {number}");
        }
    });
}

#[test]
fn a_port_that_nobody_listens_on_is_an_error_and_the_pod_lives() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let server = pod.container("server").shell(ECHO).start();
        wait_for_server(&server, 8080);
        let (bytes, complaint) = pod.forward(8079).finish();
        assert!(bytes.is_empty() && complaint.contains("8079"), "{bytes:?} {complaint}");
        let mut connection = pod.forward(8080);
        connection.write(b"still there");
        assert_eq!(connection.read(11), b"still there");
    });
}

/// A server on this address alone is reached by a port of containerd's.
#[track_caller]
fn assert_reached(pod: &Pod<'_>, address: &str) {
    let line = format!("mkdir /www; echo hello >/www/it; exec httpd -f -p {address}:8080 -h /www");
    let server = pod.container("server").shell(&line).start();
    wait_for_server(&server, 8080);
    assert_eq!(get(pod.forward(8080), "/it"), b"hello\n");
}

#[test]
fn a_server_on_the_loopback_alone_is_reached() {
    cri_test(|cri| assert_reached(&cri.pod().run(), "127.0.0.1"));
}

/// Without a VM that takes a host whose name `localhost` has an IPv6 address.
#[test]
fn a_server_on_the_loopback_of_ipv6_alone_is_reached() {
    kata_cri_test(|cri| assert_reached(&cri.pod().run(), "[::1]"));
}

#[test]
fn a_port_is_forwarded_again_after_a_client_went_away() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let server = pod.container("server").shell(ECHO).start();
        wait_for_server(&server, 8080);
        for _ in 0..3 {
            let mut connection = pod.forward(8080);
            connection.write(b"hello");
            assert_eq!(connection.read(5), b"hello");
            connection.abandon();
        }
    });
}

/// The path of the pod's network namespace.
fn netns(pod: &Pod<'_>) -> String {
    let namespaces = &pod.spec()["linux"]["namespaces"];
    let network =
        namespaces.as_array().into_iter().flatten().find(|namespace| namespace["type"] == "network");
    network.and_then(|network| network["path"].as_str()).expect("the pod has a network namespace").to_owned()
}

/// Connects in the pod's network namespace.
fn connect(netns: &str, address: &str) -> std::io::Result<TcpStream> {
    let namespace = File::open(netns)?;
    let connecting = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        TcpStream::connect(address)
    };
    std::thread::scope(|scope| scope.spawn(connecting).join()).expect("no panic")
}

#[test]
fn the_end_of_a_question_reaches_the_server_and_its_answer_the_client() {
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let server = pod.container("server").shell("nc -ll -p 8080 -e sha256sum").start();
        wait_for_server(&server, 8080);
        let question = Pattern::new(3, 1_000_000).bytes();
        let (hash, _) = sha256(&question[..]).unwrap();
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            let mut stream = connect(&netns(&pod), address).unwrap();
            stream.write_all(&question).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, format!("{hash}  -\n"), "{address}");
        }
    });
}

#[test]
fn a_reader_that_stops_does_not_stop_the_pod() {
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let server = pod.container("server").shell("nc -ll -p 8080 -e yes").start();
        wait_for_server(&server, 8080);
        let idle: Vec<TcpStream> = (0..3).map(|_| connect(&netns(&pod), "127.0.0.1:8080").unwrap()).collect();
        assert_eq!(server.shell("head -c 1000000 /dev/zero | wc -c"), "1000000");
        drop(idle);
    });
}
