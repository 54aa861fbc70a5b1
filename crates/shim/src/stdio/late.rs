//! Streams that the sandbox is given before they are open.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::{Input, Output};

/// Where the real stream goes when it is open. Dropped empty, the late stream is at its end.
pub(crate) struct Slot<T>(oneshot::Sender<T>);

impl<T> Slot<T> {
    /// Puts the stream in.
    pub(crate) fn fill(self, stream: T) {
        // Nobody waits for it if the process is gone by now.
        let _ = self.0.send(stream);
    }
}

enum Late<T> {
    Waiting(oneshot::Receiver<T>),
    Here(T),
    Never,
}

impl<T> Late<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<&mut T>> {
        if let Self::Waiting(slot) = self {
            *self = ready!(Pin::new(slot).poll(context)).map_or(Self::Never, Self::Here);
        }
        match self {
            Self::Here(stream) => Poll::Ready(Some(stream)),
            _ => Poll::Ready(None),
        }
    }
}

/// An input that is filled in later.
pub(crate) fn late_input() -> (Slot<Input>, Input) {
    let (slot, stream) = oneshot::channel();
    (Slot(slot), Box::new(LateInput(Late::Waiting(stream))))
}

/// An output that is filled in later.
pub(crate) fn late_output() -> (Slot<Output>, Output) {
    let (slot, stream) = oneshot::channel();
    (Slot(slot), Box::new(LateOutput(Late::Waiting(stream))))
}

struct LateInput(Late<Input>);

impl AsyncRead for LateInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(self.0.poll(context)) {
            Some(stream) => Pin::new(stream).poll_read(context, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

struct LateOutput(Late<Output>);

impl AsyncWrite for LateOutput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.0.poll(context)) {
            Some(stream) => Pin::new(stream).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.0.poll(context)) {
            Some(stream) => Pin::new(stream).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.0.poll(context)) {
            Some(stream) => Pin::new(stream).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{late_input, late_output};

    #[tokio::test]
    async fn bytes_wait_for_the_stream() {
        let (slot, mut input) = late_input();
        let reading = tokio::spawn(async move {
            let mut text = String::new();
            input.read_to_string(&mut text).await.unwrap();
            text
        });
        slot.fill(Box::new(&b"late"[..]));
        assert_eq!(reading.await.unwrap(), "late");

        let (slot, mut output) = late_output();
        let writing = tokio::spawn(async move { output.write_all(b"out").await.unwrap() });
        let (mut reader, writer) = tokio::io::simplex(16);
        slot.fill(Box::new(writer));
        writing.await.unwrap();
        let mut bytes = [0; 3];
        reader.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"out");
    }

    #[tokio::test]
    async fn a_stream_that_never_comes_is_at_its_end() {
        let (slot, mut input) = late_input();
        drop(slot);
        assert_eq!(input.read(&mut [0; 4]).await.unwrap(), 0);
        let (slot, mut output) = late_output();
        drop(slot);
        assert!(output.write(b"x").await.is_err());
    }
}
