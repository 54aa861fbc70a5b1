//! How long answers may take to leave. Who asks and does not read would keep a connection's place, and all the figures that
//! wait for it, for ever.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use super::body::Answer;

/// An answer has left by then; an event, so long after it has come.
const LEFT: Duration = Duration::from_secs(60);

/// When what a connection writes must have left.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace(Arc<Mutex<Option<Instant>>>);

impl Pace {
    /// Something is to be written from now on.
    pub(super) fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + LEFT);
    }

    fn end(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same body, which begins its connection's pace anew with each event.
pub(super) fn paced(body: Answer, pace: Pace) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
    let has_events = matches!(body, Answer::Events(_));
    body.map_frame(move |frame| {
        if has_events {
            pace.begin();
        }
        frame
    })
}

/// A connection that breaks when what it writes has not left in time.
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    clock: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    /// Nothing is to be written yet.
    pub(super) fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace, clock: Box::pin(sleep_until(Instant::now())) }
    }

    /// What has come of a writing, or that it comes too late.
    fn in_time<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Some(end) = self.pace.end() else { return polled };
        if self.clock.deadline() != end {
            self.clock.as_mut().reset(end);
        }
        match self.clock.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => polled,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.in_time(context, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(context, bytes);
        this.in_time(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Nothing waits to be written on an idle connection, however long ago its answer has left.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(context);
        if polled.is_ready() { polled } else { this.in_time(context, polled) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(context);
        if polled.is_ready() { polled } else { this.in_time(context, polled) }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::sync::mpsc;
    use tokio::time::{Duration, Instant, advance};

    use super::{Answer, LEFT, Pace, Paced, paced};

    /// 64 clients that asked for everything and read nothing held all places for ever.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_ends_the_connection() {
        let (_client, server) = duplex(1024);
        let pace = Pace::default();
        let mut server = Paced::new(server, pace.clone());
        let begun = Instant::now();
        pace.begin();
        let error = server.write_all(&[0; 4096]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, LEFT.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn reading_a_little_now_and_then_does_not_prolong_it() {
        let (mut client, server) = duplex(64);
        let pace = Pace::default();
        let mut server = Paced::new(server, pace.clone());
        tokio::spawn(async move {
            while client.read_u8().await.is_ok() {
                advance(Duration::from_secs(5)).await;
            }
        });
        let begun = Instant::now();
        pace.begin();
        assert!(server.write_all(&[0; 4096]).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), LEFT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_used_again() {
        let (mut client, server) = duplex(64);
        let pace = Pace::default();
        let mut server = Paced::new(server, pace.clone());
        for _ in 0..2 {
            pace.begin();
            server.write_all(b"answer").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
            advance(LEFT * 2).await;
            server.flush().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_may_come_for_as_long_as_they_like() {
        let (sender, events) = mpsc::channel(1);
        let pace = Pace::default();
        pace.begin();
        let first = pace.end();
        advance(LEFT / 2).await;
        sender.send("event\n".into()).await.unwrap();
        let mut body = paced(Answer::Events(events), pace.clone());
        assert!(body.frame().await.is_some());
        assert!(pace.end() > first);
    }
}
