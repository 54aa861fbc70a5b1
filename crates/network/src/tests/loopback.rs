//! The loopback of a namespace, taken over.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::support::Namespace;
use crate::{Loopback, LoopbackError};

const PATIENCE: Duration = Duration::from_secs(20);

fn namespace() -> Namespace {
    let pod = Namespace::new();
    pod.ip("link set lo up");
    pod
}

/// Connects in the namespace, as a container manager does.
fn connect(pod: &Namespace, address: &str) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    pod.run(move || TcpStream::connect_timeout(&address, PATIENCE))
}

#[tokio::test]
async fn a_connection_to_any_port_of_the_loopback_comes_with_its_destination() {
    let pod = namespace();
    let loopback = Loopback::take(&pod.path).await.unwrap();
    for address in ["127.0.0.1:80", "127.1.2.3:65535", "[::1]:8080", "127.0.0.1:1"] {
        let mut client = connect(&pod, address).unwrap();
        let (socket, destination) = loopback.accept().await.unwrap();
        assert_eq!(destination.to_string(), address);
        let mut socket = socket.into_std().unwrap();
        socket.write_all(b"hello").unwrap();
        drop(socket);
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
    }
}

#[tokio::test]
async fn other_addresses_of_the_namespace_are_left_alone() {
    let pod = namespace();
    pod.ip("addr add 10.1.2.3/32 dev lo");
    let _loopback = Loopback::take(&pod.path).await.unwrap();
    assert_eq!(connect(&pod, "10.1.2.3:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let server = pod.run(|| TcpListener::bind("10.1.2.3:8080")).unwrap();
    connect(&pod, "10.1.2.3:8080").unwrap();
    server.accept().unwrap();
}

#[tokio::test]
async fn datagrams_are_left_alone() {
    let pod = namespace();
    let _loopback = Loopback::take(&pod.path).await.unwrap();
    let server = pod.run(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = server.local_addr().unwrap();
    pod.run(move || UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"!", to)).unwrap();
    assert_eq!(server.recv(&mut [0; 2]).unwrap(), 1);
}

#[tokio::test]
async fn a_loopback_that_comes_up_later_is_taken_all_the_same() {
    let pod = Namespace::new();
    let loopback = Loopback::take(&pod.path).await.unwrap();
    pod.ip("link set lo up");
    let _clients = [connect(&pod, "127.0.0.1:80").unwrap(), connect(&pod, "[::1]:80").unwrap()];
    loopback.accept().await.unwrap();
    loopback.accept().await.unwrap();
}

#[tokio::test]
async fn another_namespace_is_not_touched() {
    let [pod, other] = [namespace(), namespace()];
    let _loopback = Loopback::take(&pod.path).await.unwrap();
    assert_eq!(connect(&other, "127.0.0.1:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_loopback_that_is_given_back_is_as_before() {
    let pod = namespace();
    drop(Loopback::take(&pod.path).await.unwrap());
    for address in ["127.0.0.1:80", "[::1]:80"] {
        assert_eq!(connect(&pod, address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
    }
    Loopback::take(&pod.path).await.unwrap();
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_named() {
    let error = Loopback::take(Path::new("/run/netns/nothing")).await.unwrap_err();
    assert!(matches!(error, LoopbackError::Namespace { .. }), "{error}");
    assert!(error.to_string().contains("/run/netns/nothing"), "{error}");
}
