//! Messages on a stream.

use std::io;

use kata_protocol::console::{HEADER, Kind, header, read_header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::ConsoleError;

/// Messages that wait to be sent; then whoever has more waits.
const QUEUE: usize = 2;

/// Where messages to the client go. Dropped, all are sent, and the stream ends.
pub(super) type Tell = mpsc::Sender<(Kind, Vec<u8>)>;

/// The next message.
pub(super) async fn hear(from: &mut (impl AsyncRead + Unpin)) -> Result<(Kind, Vec<u8>), ConsoleError> {
    let mut head = [0; HEADER];
    from.read_exact(&mut head).await?;
    let (kind, length) = read_header(head)?;
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// A task that sends messages, until all are sent or the client is gone.
pub(super) fn teller<T>(to: T) -> (Tell, tokio::task::JoinHandle<io::Result<()>>)
where
    T: AsyncWrite + Unpin + Send + 'static,
{
    let (tell, told) = mpsc::channel(QUEUE);
    (tell, tokio::spawn(send(to, told)))
}

async fn send(mut to: impl AsyncWrite + Unpin, mut told: mpsc::Receiver<(Kind, Vec<u8>)>) -> io::Result<()> {
    while let Some((kind, body)) = told.recv().await {
        to.write_all(&header(kind, body.len())).await?;
        to.write_all(&body).await?;
        to.flush().await?;
    }
    to.shutdown().await
}
