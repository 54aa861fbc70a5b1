//! A multiplexer over an asynchronous byte stream: one task reads, one writes.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::frame::{Breach, GREETING};
use crate::header::StreamHeader;
use crate::mux::{Inbound, Mux, MuxStream};

/// The buffer for headers and small frames, which each connection has.
const BUFFER: usize = 8 * 1024;

/// Larger bodies are read in chunks of this size straight to where their reader finds them; the chunks exist only
/// as long as they hold bytes.
const CHUNK: usize = 64 * 1024;

/// How far the carrier has got, as seen by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The guest has not opened its end yet.
    Waiting,
    /// The guest's greeting has arrived.
    Open,
}

/// Drives the host's end with two tasks, until the carrier closes. `phase` is dropped then.
pub(crate) fn spawn_host(socket: UnixStream, mux: &Arc<Mux>, phase: watch::Sender<Phase>) {
    let (input, output) = socket.into_split();
    let writer = tokio::spawn(write_host(output, Arc::clone(mux))).abort_handle();
    let mux = Arc::clone(mux);
    tokio::spawn(async move {
        read_host(input, &mux, &phase).await;
        mux.close();
        // A guest that was given up need not be waited for.
        writer.abort();
    });
}

async fn read_host(mut input: OwnedReadHalf, mux: &Arc<Mux>, phase: &watch::Sender<Phase>) {
    let result = async {
        hear_greeting(&mut input).await?;
        phase.send_replace(Phase::Open);
        receive(&mut input, mux, &mut |_, _| ()).await
    }
    .await;
    match result {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "The connection to the guest was ended: it does not keep to the protocol");
        }
        result => tracing::debug!(?result, "The connection to the guest has ended"),
    }
}

async fn write_host(mut output: OwnedWriteHalf, mux: Arc<Mux>) {
    if let Err(error) = transmit(&mut output, &mux).await {
        tracing::debug!(%error, "The guest takes no more");
        mux.close();
    }
}

/// Ends the tasks that drive a connection.
#[derive(Debug)]
pub(crate) struct Tasks([AbortHandle; 2]);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Drives the guest's end with two tasks. The greeting has been sent already. `found` gets each stream that the
/// host opens, and is dropped when the carrier closes.
pub(crate) fn spawn_guest<T>(
    stream: T,
    mux: &Arc<Mux>,
    mut found: impl FnMut(MuxStream, StreamHeader) + Send + 'static,
) -> Tasks
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut input, mut output) = tokio::io::split(stream);
    let (reading, writing) = (Arc::clone(mux), Arc::clone(mux));
    let reader = tokio::spawn(async move {
        let result = receive(&mut input, &reading, &mut found).await;
        tracing::debug!(?result, "The connection to the host has ended");
        reading.close();
    });
    let writer = tokio::spawn(async move {
        if transmit(&mut output, &writing).await.is_err() {
            writing.close();
        }
    });
    Tasks([reader.abort_handle(), writer.abort_handle()])
}

/// Takes the greeting out of the incoming bytes; the first byte that differs ends it.
async fn hear_greeting(input: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut heard = [0; GREETING.len()];
    let mut seen = 0;
    while seen < heard.len() {
        match input.read(&mut heard[seen..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => seen += n,
        }
        if heard[..seen] != GREETING[..seen] {
            return Err(breach(Breach::Greeting));
        }
    }
    Ok(())
}

fn breach(breach: Breach) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, breach)
}

/// Reads until the carrier ends. Never waits for anything but bytes.
async fn receive(
    input: &mut (impl AsyncRead + Unpin),
    mux: &Arc<Mux>,
    found: &mut (dyn FnMut(MuxStream, StreamHeader) + Send),
) -> io::Result<()> {
    let mut inbound = Inbound::new(Arc::clone(mux));
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = inbound.body_left().min(CHUNK);
        if length > BUFFER {
            let mut chunk = Vec::with_capacity(length);
            while chunk.len() < length {
                let left = (length - chunk.len()) as u64;
                if (&mut *input).take(left).read_buf(&mut chunk).await? == 0 {
                    return Ok(());
                }
            }
            inbound.land(chunk);
            continue;
        }
        match input.read(&mut buffer).await? {
            0 => return Ok(()),
            n => inbound.feed(&buffer[..n], found).map_err(breach)?,
        }
    }
}

/// Writes until the connection is closed and nothing is left to be written.
async fn transmit(output: &mut (impl AsyncWrite + Unpin), mux: &Mux) -> io::Result<()> {
    while let Some(turn) = std::future::poll_fn(|cx| mux.poll_turn(cx)).await {
        output.write_all(&turn.bytes).await?;
        output.flush().await?;
    }
    Ok(())
}
