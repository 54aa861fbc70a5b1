//! A guest that does not keep to the protocol, and one that only looks like it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{PATIENCE, PORT, sleeping_guest};
use crate::frame::{Frame, GREETING, HEADER, Kind, TO_HOST};
use crate::{Connection, Dialer};

/// A host with one stream, number 1, and what a guest could write.
async fn stream() -> (Dialer, UnixStream, Connection) {
    let (dialer, mut guest) = sleeping_guest();
    guest.write_all(&GREETING).await.unwrap();
    let connection = dialer.connect(PORT).await.unwrap();
    guest.read_exact(&mut [0; HEADER + 8]).await.unwrap();
    (dialer, guest, connection)
}

fn frame(kind: Kind, id: u32, length: u32) -> [u8; HEADER] {
    Frame { kind, id, length }.encode()
}

/// The connection ends because of `frames`, and its streams with it.
async fn ends_it(frames: &[[u8; HEADER]]) {
    let (dialer, mut guest, mut connection) = stream().await;
    guest.write_all(&frames.concat()).await.unwrap();
    timeout(PATIENCE, dialer.closed()).await.unwrap();
    assert_eq!(connection.stream.read(&mut [0]).await.unwrap(), 0);
    assert!(connection.stream.write(&[0]).await.is_err());
}

#[tokio::test]
async fn an_unknown_kind_ends_the_connection() {
    let mut unknown = frame(Kind::Fin, 1, 0);
    unknown[0] = 9;
    ends_it(&[unknown]).await;
}

#[tokio::test]
async fn a_header_with_something_where_nothing_should_be_ends_the_connection() {
    let mut odd = frame(Kind::Fin, 1, 0);
    odd[2] = 1;
    ends_it(&[odd]).await;
}

#[tokio::test]
async fn data_beyond_the_credit_ends_the_connection() {
    ends_it(&[frame(Kind::Data, 1, TO_HOST + 1)]).await;
    ends_it(&[frame(Kind::Data, 1, u32::MAX)]).await;
}

#[tokio::test]
async fn data_beyond_the_credit_in_many_frames_ends_the_connection() {
    let (dialer, mut guest, _connection) = stream().await;
    let body = vec![0; 64 * 1024];
    let flood = async {
        loop {
            guest.write_all(&frame(Kind::Data, 1, 64 * 1024)).await?;
            guest.write_all(&body).await?;
        }
    };
    let result: std::io::Result<()> = timeout(PATIENCE, flood).await.unwrap();
    assert!(result.is_err());
    dialer.closed().await;
}

#[tokio::test]
async fn frames_for_streams_that_never_were_end_the_connection() {
    for id in [0, 2, u32::MAX] {
        for (kind, length) in [(Kind::Data, 1), (Kind::Credit, 1), (Kind::Fin, 0), (Kind::Reset, 0)] {
            ends_it(&[frame(kind, id, length)]).await;
        }
    }
}

#[tokio::test]
async fn a_guest_that_opens_a_stream_ends_the_connection() {
    for id in [1, 2] {
        ends_it(&[frame(Kind::Open, id, 8), [0; HEADER]]).await;
    }
}

#[tokio::test]
async fn credit_that_was_never_taken_ends_the_connection() {
    ends_it(&[frame(Kind::Credit, 1, 1)]).await;
    ends_it(&[frame(Kind::Credit, 1, u32::MAX)]).await;
}

#[tokio::test]
async fn a_stream_that_goes_on_after_its_end_ends_the_connection() {
    ends_it(&[frame(Kind::Fin, 1, 0), frame(Kind::Fin, 1, 0)]).await;
    ends_it(&[frame(Kind::Fin, 1, 0), frame(Kind::Data, 1, 1)]).await;
    ends_it(&[frame(Kind::Reset, 1, 0), frame(Kind::Credit, 1, 1)]).await;
}

#[tokio::test]
async fn frames_for_a_stream_that_was_just_dropped_are_ignored() {
    let (dialer, mut guest, connection) = stream().await;
    drop(connection);
    let mut reset = [0; HEADER];
    guest.read_exact(&mut reset).await.unwrap();
    assert_eq!(reset, frame(Kind::Reset, 1, 0));
    for frame in [frame(Kind::Data, 1, 3), frame(Kind::Credit, 1, 5), frame(Kind::Fin, 1, 0)] {
        guest.write_all(&frame).await.unwrap();
        if frame[0] == Kind::Data as u8 {
            guest.write_all(b"abc").await.unwrap();
        }
    }
    assert!(timeout(Duration::from_millis(50), dialer.closed()).await.is_err());
    dialer.connect(PORT).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_tiny_frames_holds_little_memory_and_loses_nothing() {
    let (_dialer, mut guest, mut connection) = stream().await;
    let flood: Vec<u8> = (0..20_000).flat_map(|_| [&frame(Kind::Data, 1, 1)[..], b"x"].concat()).collect();
    guest.write_all(&flood).await.unwrap();
    let mut heard = vec![0; 20_000];
    timeout(PATIENCE, connection.stream.read_exact(&mut heard)).await.unwrap().unwrap();
    assert!(heard.iter().all(|byte| *byte == b'x'));
}
