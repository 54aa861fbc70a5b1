//! The guest's end on a port: two threads, and stand-ins for the device.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{PATIENCE, PORT, converse, count, pattern, send, sip, write_all};
use crate::frame::GREETING;
use crate::{Dialer, Incoming, Listener};

/// A guest whose port is a socket.
pub(super) async fn on_socket() -> (Dialer, Listener, Incoming) {
    let (host, guest) = UnixStream::pair().unwrap();
    let mut port = File::from(OwnedFd::from(guest));
    port.write_all(&GREETING).unwrap();
    let dialer = Dialer::serial(OwnedFd::from(host)).unwrap();
    let listener = Listener::on_port(port).unwrap();
    let incoming = listener.bind(PORT).await.unwrap();
    (dialer, listener, incoming)
}

/// A raw terminal is a character device that reads and writes in pieces, as a port does.
fn terminal() -> (File, PathBuf) {
    let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&host).unwrap();
    unlockpt(&host).unwrap();
    let path = PathBuf::from(ptsname(&host, Vec::new()).unwrap().into_string().unwrap());
    assert!(path.metadata().unwrap().file_type().is_char_device());
    let mut attributes = tcgetattr(&host).unwrap();
    attributes.make_raw();
    tcsetattr(&host, OptionalActions::Now, &attributes).unwrap();
    (host.into(), path)
}

/// A guest whose port is a terminal; two threads do what the VMM does.
pub(super) async fn on_terminal() -> (Dialer, Listener, Incoming) {
    let (port, path) = terminal();
    let (host, vmm) = UnixStream::pair().unwrap();
    let dialer = Dialer::serial(OwnedFd::from(host)).unwrap();
    relay(port.try_clone().unwrap(), vmm.try_clone().unwrap());
    relay(vmm, port);
    let listener = timeout(PATIENCE, Listener::serial(&path)).await.unwrap().unwrap();
    let incoming = listener.bind(PORT).await.unwrap();
    (dialer, listener, incoming)
}

fn relay(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    });
}

#[tokio::test]
async fn a_port_carries_streams_both_ways() {
    let (dialer, _listener, mut incoming) = on_terminal().await;
    timeout(PATIENCE, dialer.answered()).await.unwrap().unwrap();
    converse(&dialer, &mut incoming).await;
    converse(&dialer, &mut incoming).await;
}

#[tokio::test]
async fn everything_passes_a_port_both_ways_in_pieces() {
    let (dialer, _listener, mut incoming) = on_terminal().await;
    let (host_in, host_out) = tokio::io::split(dialer.connect(PORT).await.unwrap().stream);
    let (guest_in, guest_out) = tokio::io::split(incoming.accept().await.unwrap().stream);
    let bytes = pattern(1024 * 1024);
    let all = async {
        tokio::join!(write_all(host_out, &bytes), write_all(guest_out, &bytes), sip(host_in), sip(guest_in))
    };
    let ((), (), to_host, to_guest) = timeout(PATIENCE, all).await.unwrap();
    assert!(to_host == bytes && to_guest == bytes);
}

#[tokio::test]
async fn a_port_that_is_full_both_ways_goes_on() {
    const EACH: usize = 64 * 1024 * 1024;
    let (dialer, _listener, mut incoming) = on_socket().await;
    let (host_in, host_out) = tokio::io::split(dialer.connect(PORT).await.unwrap().stream);
    let (guest_in, guest_out) = tokio::io::split(incoming.accept().await.unwrap().stream);
    let all =
        async { tokio::join!(send(guest_out, EACH), send(host_out, EACH), count(host_in), count(guest_in)) };
    let ((), (), out, back) = timeout(PATIENCE, all).await.unwrap();
    assert_eq!((out, back), (EACH, EACH));
}

#[tokio::test]
async fn a_host_that_goes_away_ends_the_streams_of_a_port() {
    let (host, guest) = UnixStream::pair().unwrap();
    let listener = Listener::on_port(File::from(OwnedFd::from(guest))).unwrap();
    let mut incoming = listener.bind(PORT).await.unwrap();
    drop(host);
    assert!(timeout(PATIENCE, incoming.accept()).await.unwrap().is_err());
}

#[tokio::test]
async fn what_is_written_last_leaves_the_port_although_the_listener_is_dropped() {
    let (dialer, listener, mut incoming) = on_socket().await;
    let mut host = dialer.connect(PORT).await.unwrap().stream;
    let mut guest = incoming.accept().await.unwrap().stream;
    guest.write_all(b"bye").await.unwrap();
    drop((listener, incoming));
    let mut heard = [0; 3];
    timeout(PATIENCE, host.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"bye");
}
