//! Both ends of each carrier against each other, without a VM.

mod hostile;
mod join;
mod pipes;
mod port;

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::{Dialer, Error, Incoming, Listener};

const PORT: u32 = 1027;
const PATIENCE: Duration = Duration::from_secs(20);

/// A dialer whose guest has not come up, and the guest's end of the carrier.
fn sleeping_guest() -> (Dialer, UnixStream) {
    let (host, guest) = std::os::unix::net::UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    (Dialer::serial(OwnedFd::from(host)).unwrap(), UnixStream::from_std(guest).unwrap())
}

async fn serial() -> (Dialer, Listener, Incoming) {
    let (dialer, guest) = sleeping_guest();
    let listener = Listener::over(guest).await.unwrap();
    let incoming = listener.bind(PORT).await.unwrap();
    (dialer, listener, incoming)
}

async fn unix(dir: &tempfile::TempDir) -> (Dialer, Listener, Incoming) {
    let path = dir.path().join("agent.sock");
    let listener = Listener::unix(&path).await.unwrap();
    let incoming = listener.bind(PORT).await.unwrap();
    (Dialer::unix(path), listener, incoming)
}

/// Bytes go both ways, identities agree, and each side ends by itself.
async fn converse(dialer: &Dialer, incoming: &mut Incoming) {
    let mut host = dialer.connect(PORT).await.unwrap();
    host.stream.write_all(b"question").await.unwrap();
    let mut guest = incoming.accept().await.unwrap();
    assert_eq!(guest.peer_port, host.local_port);

    host.stream.shutdown().await.unwrap();
    let mut heard = String::new();
    guest.stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "question");

    // Our side is closed, theirs is not.
    guest.stream.write_all(b"answer").await.unwrap();
    guest.stream.shutdown().await.unwrap();
    let mut heard = String::new();
    host.stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "answer");
}

#[tokio::test]
async fn streams_go_both_ways_and_half_close_over_serial() {
    let (dialer, _listener, mut incoming) = serial().await;
    converse(&dialer, &mut incoming).await;
    converse(&dialer.clone(), &mut incoming).await;
}

#[tokio::test]
async fn streams_go_both_ways_and_half_close_over_unix() {
    let dir = tempfile::tempdir().unwrap();
    let (dialer, _listener, mut incoming) = unix(&dir).await;
    converse(&dialer, &mut incoming).await;
    converse(&dialer, &mut incoming).await;
}

#[tokio::test]
async fn a_unix_socket_may_have_no_file() {
    let name = format!("\0kata-transport-{}", std::process::id());
    let listener = Listener::unix(name.as_ref()).await.unwrap();
    let mut incoming = listener.bind(PORT).await.unwrap();
    converse(&Dialer::unix(name.into()), &mut incoming).await;
}

#[tokio::test]
async fn local_ports_differ() {
    let (dialer, _listener, mut incoming) = serial().await;
    let first = dialer.connect(PORT).await.unwrap();
    let second = dialer.connect(PORT).await.unwrap();
    assert_ne!(first.local_port, second.local_port);
    let peers = [incoming.accept().await.unwrap().peer_port, incoming.accept().await.unwrap().peer_port];
    assert!(peers.contains(&first.local_port) && peers.contains(&second.local_port));
}

#[tokio::test]
async fn what_is_sent_before_the_guest_is_up_is_read_when_it_is() {
    let (dialer, guest) = sleeping_guest();
    let mut early = dialer.connect(PORT).await.unwrap();
    early.stream.write_all(b"early").await.unwrap();
    assert!(timeout(Duration::from_millis(20), dialer.answered()).await.is_err());

    let listener = Listener::over(guest).await.unwrap();
    timeout(PATIENCE, dialer.answered()).await.unwrap().unwrap();
    let mut late = listener.bind(PORT).await.unwrap();
    let mut accepted = timeout(PATIENCE, late.accept()).await.unwrap().unwrap();
    let mut heard = [0; 5];
    accepted.stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"early");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_stops_its_writer_only() {
    let (dialer, _listener, mut incoming) = serial().await;
    let stuck_host = dialer.connect(PORT).await.unwrap();
    let mut stuck_guest = incoming.accept().await.unwrap();
    let chunk = vec![7; 64 * 1024];
    let mut taken = 0;
    while let Ok(result) = timeout(Duration::from_millis(200), stuck_guest.stream.write(&chunk)).await {
        taken += result.unwrap();
        assert!(taken <= 2 * 1024 * 1024, "an unread stream must not be buffered without end");
    }
    // Others go on.
    converse(&dialer, &mut incoming).await;
    // And nothing of the stuck one is lost.
    let mut rest = stuck_host.stream;
    let reader = tokio::spawn(async move {
        let mut sum = 0;
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = rest.read(&mut buffer).await {
            sum += n;
        }
        sum
    });
    stuck_guest.stream.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, reader).await.unwrap().unwrap(), taken);
}

#[tokio::test]
async fn a_reader_that_goes_away_fails_the_writer() {
    let (dialer, _listener, mut incoming) = serial().await;
    let host = dialer.connect(PORT).await.unwrap();
    let mut guest = incoming.accept().await.unwrap();
    drop(host);
    let chunk = vec![7; 64 * 1024];
    let failed = async { while guest.stream.write_all(&chunk).await.is_ok() {} };
    timeout(PATIENCE, failed).await.unwrap();
}

#[tokio::test]
async fn a_reader_that_goes_away_fails_the_writer_even_after_its_own_end() {
    let (dialer, _listener, mut incoming) = serial().await;
    let mut host = dialer.connect(PORT).await.unwrap();
    let mut guest = incoming.accept().await.unwrap();
    host.stream.shutdown().await.unwrap();
    drop(host);
    let chunk = vec![7; 64 * 1024];
    let failed = async { while guest.stream.write_all(&chunk).await.is_ok() {} };
    timeout(PATIENCE, failed).await.unwrap();
}

#[tokio::test]
async fn what_was_written_arrives_although_the_stream_was_dropped() {
    let (dialer, _listener, mut incoming) = serial().await;
    let mut host = dialer.connect(PORT).await.unwrap();
    host.stream.write_all(b"last words").await.unwrap();
    drop(host);
    let mut heard = String::new();
    incoming.accept().await.unwrap().stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "last words");
}

#[tokio::test]
async fn streams_that_have_ended_leave_room_for_others() {
    let (dialer, _listener, mut incoming) = serial().await;
    for _ in 0..2000 {
        let host = dialer.connect(PORT).await.unwrap();
        let guest = timeout(PATIENCE, incoming.accept()).await.unwrap().unwrap();
        assert_eq!(guest.peer_port, host.local_port);
    }
}

#[tokio::test]
async fn too_many_streams_are_refused_by_name() {
    let (dialer, _guest) = sleeping_guest();
    let mut streams = Vec::new();
    let error = loop {
        match dialer.connect(PORT).await {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Connect { port: PORT, .. }));
    assert!(streams.len() >= 300);
}

#[tokio::test]
async fn bytes_keep_their_order_with_a_slow_reader() {
    let (dialer, _listener, mut incoming) = serial().await;
    let host = dialer.connect(PORT).await.unwrap().stream;
    let guest = incoming.accept().await.unwrap().stream;
    let (host_in, host_out) = tokio::io::split(host);
    let (guest_in, guest_out) = tokio::io::split(guest);
    let bytes = pattern(5 * 1024 * 1024);
    let all = async {
        tokio::join!(write_all(host_out, &bytes), write_all(guest_out, &bytes), sip(host_in), sip(guest_in))
    };
    let ((), (), to_host, to_guest) = timeout(PATIENCE, all).await.unwrap();
    assert!(to_host == bytes && to_guest == bytes);
}

/// Bytes that tell their places.
fn pattern(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

async fn write_all(mut to: impl AsyncWriteExt + Unpin, bytes: &[u8]) {
    to.write_all(bytes).await.unwrap();
    to.shutdown().await.unwrap();
}

/// Reads in odd pieces, and lets others go first after each.
async fn sip(mut from: impl AsyncReadExt + Unpin) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut buffer = vec![0; 7001];
    while let n @ 1.. = from.read(&mut buffer).await.unwrap() {
        heard.extend_from_slice(&buffer[..n]);
        tokio::task::yield_now().await;
    }
    heard
}

#[tokio::test]
async fn the_end_of_the_carrier_ends_everything() {
    let (dialer, listener, mut incoming) = serial().await;
    let mut host = dialer.connect(PORT).await.unwrap();
    drop(listener);
    timeout(PATIENCE, dialer.closed()).await.unwrap();
    assert!(matches!(dialer.connect(PORT).await, Err(Error::Closed)));
    assert_eq!(host.stream.read(&mut [0; 8]).await.unwrap(), 0);
    drop(timeout(PATIENCE, incoming.accept()).await.unwrap());
    assert!(matches!(timeout(PATIENCE, incoming.accept()).await.unwrap(), Err(Error::Closed)));
}

#[tokio::test]
async fn a_guest_that_dies_before_it_greets_is_noticed() {
    let (dialer, guest) = sleeping_guest();
    drop(guest);
    assert!(matches!(timeout(PATIENCE, dialer.answered()).await.unwrap(), Err(Error::Closed)));
}

#[tokio::test]
async fn a_foreign_greeting_ends_the_connection() {
    let (dialer, mut guest) = sleeping_guest();
    guest.write_all(b"Linux version 6.1").await.unwrap();
    timeout(PATIENCE, dialer.closed()).await.unwrap();
}

#[tokio::test]
async fn a_port_is_bound_once_at_a_time() {
    let (_dialer, listener, incoming) = serial().await;
    assert!(matches!(listener.bind(PORT).await, Err(Error::Bind { .. })));
    drop(incoming);
    listener.bind(PORT).await.unwrap();
}

#[tokio::test]
async fn only_vsock_connects_out() {
    let (_dialer, listener, _incoming) = serial().await;
    assert!(matches!(listener.connect_host(1028).await, Err(Error::Unsupported { port: 1028 })));
}

/// 1 GiB one way and a quarter of it the other way at the same time, byte-exact in length.
#[tokio::test]
async fn a_gigabyte_passes_both_ways_at_once() {
    const OUT: usize = 1024 * 1024 * 1024;
    const BACK: usize = OUT / 4;
    let (dialer, _listener, mut incoming) = serial().await;
    let host = dialer.connect(PORT).await.unwrap().stream;
    let guest = incoming.accept().await.unwrap().stream;
    let (host_in, host_out) = tokio::io::split(host);
    let (guest_in, guest_out) = tokio::io::split(guest);
    let all =
        async { tokio::join!(send(guest_out, OUT), send(host_out, BACK), count(host_in), count(guest_in)) };
    let ((), (), out, back) = timeout(Duration::from_secs(120), all).await.unwrap();
    assert_eq!((out, back), (OUT, BACK));
}

async fn send(mut to: impl AsyncWriteExt + Unpin, bytes: usize) {
    let chunk = vec![1; 128 * 1024];
    for _ in 0..bytes / chunk.len() {
        to.write_all(&chunk).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

async fn count(mut from: impl AsyncReadExt + Unpin) -> usize {
    let mut sum = 0;
    let mut buffer = vec![0; 128 * 1024];
    while let n @ 1.. = from.read(&mut buffer).await.unwrap() {
        sum += n;
    }
    sum
}
