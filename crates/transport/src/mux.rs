//! yamux over one carrier: the task that drives it, and the handle that asks it for streams.

use std::task::{Context, Poll};

use futures::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use yamux::{Config, Mode};

use crate::carrier::{Carrier, MAX_BODY};

/// Streams at once in one direction: three per process, so a hundred processes at the same time.
const MAX_STREAMS: usize = 384;

/// What all receive windows of a connection together may grow beyond the 256 KiB that each begins with.
const EXTRA_WINDOW: usize = 8 * 1024 * 1024;

/// A wish for an outgoing stream; it is dropped unanswered when the carrier is gone.
pub(crate) type Wish = oneshot::Sender<yamux::Stream>;

/// Drives the host's end until the carrier closes. Answers each of `wishes` with a new stream.
pub(crate) async fn drive_host<T>(carrier: Carrier<T>, mut wishes: mpsc::Receiver<Wish>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = yamux::Connection::new(carrier, config(), Mode::Client);
    let mut wish = None;
    poll_fn(|cx| {
        if poll_wishes(&mut connection, &mut wishes, &mut wish, cx).is_ready() {
            return Poll::Ready(());
        }
        // The guest opens no streams; one that it opened all the same is dropped, which resets it.
        while let Poll::Ready(inbound) = connection.poll_next_inbound(cx) {
            match inbound {
                Some(Ok(stream)) => drop(stream),
                Some(Err(error)) => {
                    tracing::debug!(%error, "The connection to the guest has ended");
                    return Poll::Ready(());
                }
                None => return Poll::Ready(()),
            }
        }
        Poll::Pending
    })
    .await;
}

/// Serves wishes until there are none (pending) or the connection has ended (ready).
fn poll_wishes<T: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut yamux::Connection<Carrier<T>>,
    wishes: &mut mpsc::Receiver<Wish>,
    wish: &mut Option<Wish>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if wish.is_none() {
            match wishes.poll_recv(cx) {
                Poll::Ready(Some(next)) => *wish = Some(next),
                // All dialers are gone; streams may live on.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        match connection.poll_new_outbound(cx) {
            Poll::Ready(Ok(stream)) => {
                // Who wished may have given up meanwhile; the stream is then reset.
                drop(wish.take().map(|to| to.send(stream)));
            }
            Poll::Ready(Err(yamux::ConnectionError::TooManyStreams)) => *wish = None,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Drives the guest's end until the carrier closes; `found` gets each stream that the host opens.
pub(crate) async fn drive_guest<T>(carrier: Carrier<T>, mut found: impl FnMut(yamux::Stream))
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = yamux::Connection::new(carrier, config(), Mode::Server);
    while let Some(inbound) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
        match inbound {
            Ok(stream) => found(stream),
            Err(error) => {
                tracing::debug!(%error, "The connection to the host has ended");
                return;
            }
        }
    }
}

fn config() -> Config {
    let mut config = Config::default();
    let base = MAX_STREAMS * yamux::DEFAULT_CREDIT as usize;
    // In this order: each setter checks the window against the number of streams.
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(base + EXTRA_WINDOW));
    config.set_split_send_size(MAX_BODY);
    config
}
