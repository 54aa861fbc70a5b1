//! Streams that are joined to TCP connections.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PATIENCE, PORT, serial, unix};
use crate::{Dialer, Incoming, Stream};

/// The guest's end of a stream; the host's end is joined to a connection with this peer.
struct Joined {
    guest: Stream,
    peer: TcpStream,
    join: JoinHandle<std::io::Result<()>>,
}

async fn joined(dialer: &Dialer, incoming: &mut Incoming) -> Joined {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let mut host = dialer.connect(PORT).await.unwrap().stream;
    host.write_all(b"!").await.unwrap();
    let mut guest = incoming.accept().await.unwrap().stream;
    assert_eq!(guest.read_u8().await.unwrap(), b'!');
    Joined { guest, peer, join: tokio::spawn(host.join(socket)) }
}

/// Each direction ends by itself.
async fn halves_end_apart(mut joined: Joined) {
    joined.peer.write_all(b"question").await.unwrap();
    joined.peer.shutdown().await.unwrap();
    let mut heard = String::new();
    joined.guest.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "question");
    joined.guest.write_all(b"answer").await.unwrap();
    joined.guest.shutdown().await.unwrap();
    let mut heard = String::new();
    joined.peer.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "answer");
    timeout(PATIENCE, joined.join).await.unwrap().unwrap().unwrap();
}

/// The guest ends its direction first, and goes on reading.
async fn the_other_half_ends_first(mut joined: Joined) {
    joined.guest.write_all(b"greeting").await.unwrap();
    joined.guest.shutdown().await.unwrap();
    let mut heard = String::new();
    joined.peer.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "greeting");
    joined.peer.write_all(b"late").await.unwrap();
    joined.peer.shutdown().await.unwrap();
    let mut heard = String::new();
    joined.guest.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "late");
    timeout(PATIENCE, joined.join).await.unwrap().unwrap().unwrap();
}

async fn a_dropped_stream_is_a_reset(joined: Joined) {
    let Joined { mut guest, mut peer, join } = joined;
    guest.write_all(b"half of").await.unwrap();
    let mut bytes = [0; 7];
    peer.read_exact(&mut bytes).await.unwrap();
    drop(guest);
    let error = timeout(PATIENCE, peer.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(join.await.unwrap().is_err());
}

#[tokio::test]
async fn both_directions_end_apart_over_virtio_serial() {
    let (dialer, _listener, mut incoming) = serial().await;
    halves_end_apart(joined(&dialer, &mut incoming).await).await;
    the_other_half_ends_first(joined(&dialer, &mut incoming).await).await;
}

#[tokio::test]
async fn both_directions_end_apart_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (dialer, _listener, mut incoming) = unix(&dir).await;
    halves_end_apart(joined(&dialer, &mut incoming).await).await;
    the_other_half_ends_first(joined(&dialer, &mut incoming).await).await;
}

/// Else a reader would take half of something for all of it.
#[tokio::test]
async fn a_stream_that_is_dropped_resets_its_connection() {
    let (dialer, _listener, mut incoming) = serial().await;
    a_dropped_stream_is_a_reset(joined(&dialer, &mut incoming).await).await;
    let dir = tempfile::tempdir().unwrap();
    let (dialer, _listener, mut incoming) = unix(&dir).await;
    a_dropped_stream_is_a_reset(joined(&dialer, &mut incoming).await).await;
}

#[tokio::test]
async fn the_end_of_the_carrier_resets_the_connections() {
    let (dialer, listener, mut incoming) = serial().await;
    let Joined { mut peer, guest, join } = joined(&dialer, &mut incoming).await;
    drop((listener, incoming));
    let error = timeout(PATIENCE, peer.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(join.await.unwrap().is_err());
    drop(guest);
}

#[tokio::test]
async fn a_connection_that_is_given_up_is_reset() {
    let (dialer, _listener, mut incoming) = serial().await;
    let Joined { mut peer, mut guest, join } = joined(&dialer, &mut incoming).await;
    guest.write_all(b"!").await.unwrap();
    assert_eq!(peer.read_u8().await.unwrap(), b'!');
    join.abort();
    let error = timeout(PATIENCE, peer.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(guest.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reset_connection_ends_its_stream() {
    let (dialer, _listener, mut incoming) = serial().await;
    let Joined { peer, mut guest, join } = joined(&dialer, &mut incoming).await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    assert_eq!(timeout(PATIENCE, guest.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert!(join.await.unwrap().is_err());
    assert!(guest.write_all(&[0]).await.is_err());
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let (dialer, _listener, mut incoming) = serial().await;
    let Joined { peer, guest, join } = joined(&dialer, &mut incoming).await;
    let bytes: Vec<u8> = (0u32..5_000_000).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let echo = tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(guest);
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let (mut from, mut to) = peer.into_split();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(PATIENCE, from.read_to_end(&mut received)).await.unwrap().unwrap();
    assert!(received == bytes, "{} of {} bytes came back, or others", received.len(), bytes.len());
    sending.await.unwrap();
    echo.await.unwrap();
    join.await.unwrap().unwrap();
}
