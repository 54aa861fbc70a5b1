//! A virtio-serial port of the guest as an asynchronous byte stream.
//!
//! A port gives at most one page per read and takes at most 32 KiB per write, so reads and writes are nearly always
//! partial. tokio's types for pipes and sockets take a partial read for the end of what is there and wait for the
//! next edge of `epoll`, which a port does not raise for what it holds already: such a port stops for ever. Waiting
//! in `epoll` also costs a round through the whole event loop per piece. So two threads do blocking reads and
//! writes, and channels of a few pieces join them to the asynchronous side.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags, open};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use crate::carrier::GREETING;

/// Pieces read and not asked for yet: 64 KiB of pages.
const PIECES_IN: usize = 16;

/// Pieces written and not taken by the port yet; each is up to a frame of 64 KiB.
const PIECES_OUT: usize = 2;

/// The most that one read returns, with room for a kernel that gives more than a page.
const READ: usize = 32 * 1024;

/// An open `/dev/vport<N>p<M>`.
///
/// Dropping it does not close the port at once: its reading thread may sleep in the kernel until the host sends
/// something. A guest has one for its whole life.
#[derive(Debug)]
pub(crate) struct PortDevice {
    incoming: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// The piece being read out, and how far.
    piece: (Vec<u8>, usize),
    outgoing: PollSender<Vec<u8>>,
}

impl PortDevice {
    /// Opens the port, waits until the host's side is connected, and greets it.
    pub(crate) async fn open(device: &Path) -> io::Result<Self> {
        let device = device.to_owned();
        let port = tokio::task::spawn_blocking(move || greet(&device)).await??;
        let (reader, writer) = (port.try_clone()?, port);
        let (to_us, incoming) = mpsc::channel(PIECES_IN);
        let (outgoing, from_us) = mpsc::channel(PIECES_OUT);
        std::thread::Builder::new().name("port-in".to_owned()).spawn(move || read_all(reader, &to_us))?;
        std::thread::Builder::new().name("port-out".to_owned()).spawn(move || write_all(writer, from_us))?;
        Ok(Self { incoming, piece: (Vec::new(), 0), outgoing: PollSender::new(outgoing) })
    }
}

/// Until the host is connected a port reads as ended; a write waits for the host in the kernel.
fn greet(device: &Path) -> io::Result<File> {
    let fd = open(device, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    let mut port = File::from(fd);
    port.write_all(&GREETING)?;
    Ok(port)
}

/// Reads until the host is gone, or nobody wants it any more.
fn read_all(mut port: File, to_us: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut buffer = vec![0; READ];
    loop {
        let piece = match port.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => Ok(buffer[..n].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = piece.is_err();
        if to_us.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

/// Writes until there will be no more, or the port fails; then the channel's other end finds it closed.
fn write_all(mut port: File, mut from_us: mpsc::Receiver<Vec<u8>>) {
    while let Some(piece) = from_us.blocking_recv() {
        if let Err(error) = port.write_all(&piece) {
            tracing::debug!(%error, "The port takes no more");
            return;
        }
    }
}

impl AsyncRead for PortDevice {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let (piece, read) = &mut this.piece;
            if *read < piece.len() {
                let n = buf.remaining().min(piece.len() - *read);
                buf.put_slice(&piece[*read..*read + n]);
                *read += n;
                continue;
            }
            match this.incoming.poll_recv(cx) {
                Poll::Ready(Some(next)) => this.piece = (next?, 0),
                Poll::Ready(None) => break,
                Poll::Pending if buf.filled().len() == before => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortDevice {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(gone)?;
        self.outgoing.send_item(buf.to_vec()).map_err(gone)?;
        Poll::Ready(Ok(buf.len()))
    }

    /// What is written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A port has no half-close of its own; its streams have.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::FileTypeExt;
    use std::time::Duration;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::{GREETING, PortDevice};

    /// A raw terminal is a character device that reads and writes in pieces, as a port does.
    fn port() -> (File, std::path::PathBuf) {
        let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&host).unwrap();
        unlockpt(&host).unwrap();
        let path = std::path::PathBuf::from(ptsname(&host, Vec::new()).unwrap().into_string().unwrap());
        assert!(path.metadata().unwrap().file_type().is_char_device());
        let mut attributes = tcgetattr(&host).unwrap();
        attributes.make_raw();
        tcsetattr(&host, OptionalActions::Now, &attributes).unwrap();
        (host.into(), path)
    }

    #[tokio::test]
    async fn everything_passes_both_ways_in_pieces() {
        const LEN: usize = 1024 * 1024;
        let (mut host, path) = port();
        let mut port = PortDevice::open(&path).await.unwrap();
        let mut greeting = [0; GREETING.len()];
        host.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, GREETING);
        let bytes: Vec<u8> = (0..=250).cycle().take(LEN).collect();
        let sent = bytes.clone();
        let mut host_out = host.try_clone().unwrap();
        let writer = std::thread::spawn(move || host_out.write_all(&sent).unwrap());
        let mut heard = vec![0; LEN];
        let read = timeout(Duration::from_secs(20), port.read_exact(&mut heard)).await;
        assert_eq!(read.unwrap().unwrap(), LEN);
        assert!(heard == bytes);
        writer.join().unwrap();

        let reader = std::thread::spawn(move || {
            let mut heard = vec![0; LEN];
            host.read_exact(&mut heard).unwrap();
            heard
        });
        port.write_all(&bytes).await.unwrap();
        assert!(tokio::task::spawn_blocking(move || reader.join().unwrap()).await.unwrap() == bytes);
    }
}
