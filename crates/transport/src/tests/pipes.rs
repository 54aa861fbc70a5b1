//! Pipes of a workload that are sent through streams.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::thread::{self, JoinHandle};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::port::{on_socket, on_terminal};
use super::{PATIENCE, PORT, converse, pattern, serial, sip};
use crate::{Dialer, Incoming, Listener, Stream};

/// A workload's pipe: its end, and ours.
fn pipe() -> (File, Receiver) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setfl(&read, OFlags::NONBLOCK).unwrap();
    (File::from(write), Receiver::from_owned_fd(read).unwrap())
}

/// Waits for a workload's end, while the carrier goes on: what it moves at that moment holds the pipe.
async fn joined<T: Send + 'static>(workload: JoinHandle<T>) -> T {
    let ended = tokio::task::spawn_blocking(|| workload.join().unwrap());
    timeout(PATIENCE, ended).await.unwrap().unwrap()
}

/// What a workload writes in pieces of all sizes arrives as it is, and its end too.
async fn arrives(from: Stream, to: Stream) {
    let bytes = pattern(8 * 1024 * 1024 + 77);
    let (mut workload, pipe) = pipe();
    let written = bytes.clone();
    let workload = thread::spawn(move || {
        let mut rest = &written[..];
        for size in [1, 5, 4096, 100, 65_536, 300_000, 33, 1_000_000].into_iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(size));
            workload.write_all(now).unwrap();
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    });
    let mut from = from;
    let sending = async {
        from.send_pipe(&pipe).await.unwrap();
        from.shutdown().await.unwrap();
    };
    let ((), heard) = timeout(PATIENCE, async { tokio::join!(sending, sip(to)) }).await.unwrap();
    assert!(heard == bytes);
    joined(workload).await;
}

async fn arrives_from(carrier: (Dialer, Listener, Incoming)) {
    let (dialer, _listener, mut incoming) = carrier;
    let host = dialer.connect(PORT).await.unwrap().stream;
    arrives(incoming.accept().await.unwrap().stream, host).await;
}

#[tokio::test]
async fn a_pipe_is_sent_through_a_port() {
    arrives_from(on_socket().await).await;
}

#[tokio::test]
async fn a_pipe_is_sent_through_a_port_that_takes_pieces() {
    arrives_from(on_terminal().await).await;
}

#[tokio::test]
async fn a_pipe_is_copied_through_any_other_carrier() {
    arrives_from(serial().await).await;
}

#[tokio::test]
async fn a_pipe_is_moved_through_a_socket() {
    let (one, other) = tokio::net::UnixStream::pair().unwrap();
    arrives(one.into(), other.into()).await;
}

#[tokio::test]
async fn little_comes_at_once() {
    let (dialer, _listener, mut incoming) = on_socket().await;
    let mut host = dialer.connect(PORT).await.unwrap().stream;
    let mut guest = incoming.accept().await.unwrap().stream;
    let (mut workload, pipe) = pipe();
    let sending = tokio::spawn(async move { guest.send_pipe(&pipe).await });
    for word in [&b"one"[..], b"two", &pattern(4096), b"three"] {
        workload.write_all(word).unwrap();
        let mut heard = vec![0; word.len()];
        timeout(PATIENCE, host.read_exact(&mut heard)).await.unwrap().unwrap();
        assert!(heard == word);
    }
    drop(workload);
    timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_host_that_hangs_up_ends_a_pipe_that_is_silent() {
    let (dialer, _listener, mut incoming) = on_socket().await;
    let host = dialer.connect(PORT).await.unwrap();
    let mut guest = incoming.accept().await.unwrap().stream;
    let (_workload, pipe) = pipe();
    let sending = tokio::spawn(async move { guest.send_pipe(&pipe).await });
    tokio::task::yield_now().await;
    drop(host);
    let error = timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_host_that_hangs_up_breaks_the_pipe_of_a_workload_that_writes() {
    let (dialer, _listener, mut incoming) = on_socket().await;
    let mut host = dialer.connect(PORT).await.unwrap().stream;
    let mut guest = incoming.accept().await.unwrap().stream;
    let (mut workload, pipe) = pipe();
    let writer = thread::spawn(move || {
        let zeros = vec![0; 64 * 1024];
        loop {
            if let Err(error) = workload.write_all(&zeros) {
                return error;
            }
        }
    });
    let sending = tokio::spawn(async move { guest.send_pipe(&pipe).await });
    host.read_exact(&mut vec![0; 3_000_000]).await.unwrap();
    drop(host);
    assert!(timeout(PATIENCE, sending).await.unwrap().unwrap().is_err());
    assert_eq!(joined(writer).await.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_at_the_other_end_stops_no_other_stream() {
    let (dialer, _listener, mut incoming) = on_socket().await;
    let host = dialer.connect(PORT).await.unwrap().stream;
    let mut guest = incoming.accept().await.unwrap().stream;
    let (mut workload, pipe) = pipe();
    let bytes = pattern(3 * 1024 * 1024);
    let written = bytes.clone();
    let writer = thread::spawn(move || workload.write_all(&written).unwrap());
    let sending = tokio::spawn(async move {
        guest.send_pipe(&pipe).await.unwrap();
        guest.shutdown().await.unwrap();
    });
    converse(&dialer, &mut incoming).await;
    assert!(!writer.is_finished(), "an unread pipe must not be buffered without end");
    assert!(timeout(PATIENCE, sip(host)).await.unwrap() == bytes);
    timeout(PATIENCE, sending).await.unwrap().unwrap();
}

#[tokio::test]
async fn other_streams_have_their_turns_while_a_pipe_flows() {
    let (dialer, _listener, mut incoming) = on_socket().await;
    let mut host = dialer.connect(PORT).await.unwrap().stream;
    let mut guest = incoming.accept().await.unwrap().stream;
    let (mut workload, pipe) = pipe();
    let writer = thread::spawn(move || while workload.write_all(&[0; 64 * 1024]).is_ok() {});
    let sending = tokio::spawn(async move { guest.send_pipe(&pipe).await });
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 128 * 1024];
        while host.read(&mut buffer).await.unwrap() > 0 {}
    });
    for _ in 0..50 {
        timeout(PATIENCE, converse(&dialer, &mut incoming)).await.unwrap();
    }
    assert!(!writer.is_finished());
    reading.abort();
    assert!(timeout(PATIENCE, sending).await.unwrap().unwrap().is_err());
    joined(writer).await;
}
