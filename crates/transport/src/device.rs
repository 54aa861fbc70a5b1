//! A virtio-serial port of the guest as a multiplexer's carrier.
//!
//! A port gives at most one page per read and takes at most 32 KiB per write, so reads and writes are nearly always
//! partial. tokio's types for pipes and sockets take a partial read for the end of what is there and wait for the
//! next edge of `epoll`, which a port does not raise for what it holds already: such a port stops for ever. Waiting
//! in `epoll` also costs a round through the whole event loop per piece. So two threads do blocking reads and
//! writes, and serve the multiplexer themselves.
//!
//! What a workload has written to a pipe goes from the pipe through one buffer to the port: two copies, large pieces,
//! no other thread. `splice` would spare the copies, but hands the VMM single pages, and QEMU makes a system call, and
//! often wakes the shim, for each of them; docs/performance.md has figures of both. A part of a pipe must not be
//! spliced at all: `port_fops_splice_write` of Linux 6.12 sizes its list of pages by the whole pipe, virtio walks all
//! of the list, and the device breaks.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Builder, Thread};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::frame::{Frame, GREETING, HEADER, Kind};
use crate::header::StreamHeader;
use crate::mux::{Inbound, Mux, MuxStream, PipeTurn, Turn};

/// The most that one read returns, with room for a kernel that gives more than a page.
const READ: usize = 16 * 1024;

/// The frame that carries a pipe's bytes, with its header: a few full writes to the port.
const FRAME: usize = 128 * 1024;

/// Opens the port, waits until the host's side is connected, and greets it.
pub(crate) async fn open_port(device: &Path) -> io::Result<File> {
    let device = device.to_owned();
    tokio::task::spawn_blocking(move || greet(&device)).await?
}

/// Until the host is connected a port reads as ended; a write waits for the host in the kernel.
fn greet(device: &Path) -> io::Result<File> {
    let fd = open(device, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    let mut port = File::from(fd);
    port.write_all(&GREETING)?;
    Ok(port)
}

/// Drives the guest's end with two threads, until the host is gone or the multiplexer is closed. `found` gets each
/// stream that the host opens, and is dropped at the end.
///
/// Closing the multiplexer does not close the port at once: its reading thread may sleep in the kernel until the
/// host sends something. A guest has one port for its whole life.
pub(crate) fn spawn_threads(
    port: File,
    mux: &Arc<Mux>,
    mut found: impl FnMut(MuxStream, StreamHeader) + Send + 'static,
) -> io::Result<()> {
    let reader = port.try_clone()?;
    let (reading, writing) = (Arc::clone(mux), Arc::clone(mux));
    Builder::new().name("port-in".to_owned()).spawn(move || {
        let result = read_all(reader, &reading, &mut found);
        tracing::debug!(?result, "The port gives no more");
        reading.close();
    })?;
    Builder::new().name("port-out".to_owned()).spawn(move || {
        if let Err(error) = write_all(port, &writing) {
            tracing::debug!(%error, "The port takes no more");
            writing.close();
        }
    })?;
    Ok(())
}

/// Reads until the host is gone, or nobody wants it any more. Never waits for anything but bytes.
fn read_all(
    mut port: File,
    mux: &Arc<Mux>,
    found: &mut dyn FnMut(MuxStream, StreamHeader),
) -> io::Result<()> {
    let mut inbound = Inbound::new(Arc::clone(mux));
    let mut buffer = vec![0; READ];
    while !mux.is_closed() {
        match port.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => inbound.feed(&buffer[..n], found).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Writes until there will be no more, or the port fails.
fn write_all(mut port: File, mux: &Mux) -> io::Result<()> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut siphon = Siphon::default();
    while let Some(Turn { bytes, pipe }) = next_turn(mux, &waker) {
        let Some(turn) = pipe else {
            port.write_all(&bytes)?;
            continue;
        };
        let moved = siphon.serve(&mut port, &bytes, &turn)?;
        mux.pipe_served(&turn, moved);
    }
    Ok(())
}

fn next_turn(mux: &Mux, waker: &Waker) -> Option<Turn> {
    loop {
        match mux.poll_turn(&mut Context::from_waker(waker)) {
            Poll::Ready(turn) => return turn,
            Poll::Pending => thread::park(),
        }
    }
}

/// Takes what a turn's pipe holds, and sends it behind `bytes` as one frame.
#[derive(Default)]
struct Siphon {
    /// A frame; exists since the first turn.
    buffer: Vec<u8>,
}

impl Siphon {
    /// Returns how many bytes of the pipe were sent.
    fn serve(&mut self, port: &mut File, bytes: &[u8], turn: &PipeTurn) -> io::Result<u32> {
        if !bytes.is_empty() {
            port.write_all(bytes)?;
        } else if turn.flowing {
            // Who writes the pipe was just given room. On one CPU it fills all of it now, instead of one write at
            // a time with a switch of threads after each.
            thread::yield_now();
        }
        self.buffer.resize(FRAME, 0);
        let end = FRAME.min(HEADER + turn.limit as usize);
        let length = match rustix::io::read(&*turn.pipe, &mut self.buffer[HEADER..end]) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        if length == 0 {
            return Ok(0);
        }
        let sent = u32::try_from(length).unwrap_or(turn.limit);
        let header = Frame { kind: Kind::Data, id: turn.id, length: sent }.encode();
        self.buffer[..HEADER].copy_from_slice(&header);
        port.write_all(&self.buffer[..HEADER + length])?;
        Ok(sent)
    }
}
