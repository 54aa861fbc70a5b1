//! Joining a client of the host with a stream of the guest.

use std::future::pending;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};

/// Copies both ways until the guest has said its last words. Who has ended takes no more, and what it said before still
/// counts: `copy_bidirectional` would break off. When the client is gone, the guest learns it by the end of the stream,
/// and ends it in turn.
///
/// # Errors
/// Those of the way out.
pub async fn exchange(
    client: impl AsyncRead + AsyncWrite,
    guest: impl AsyncRead + AsyncWrite,
) -> io::Result<()> {
    let ((mut from_client, mut to_client), (mut from_guest, mut to_guest)) = (split(client), split(guest));
    let inward = async {
        let copied = copy(&mut from_client, &mut to_guest).await;
        if let Err(error) = copied.and(to_guest.shutdown().await) {
            tracing::trace!(error = &error as &dyn std::error::Error, "a client in the guest takes no more");
        }
        pending().await
    };
    let outward = async {
        copy(&mut from_guest, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        ended = outward => ended,
        never = inward => never,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::exchange;

    /// A client, a guest, and what is between them.
    fn console() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<std::io::Result<()>>) {
        let ((client, ours), (guest, theirs)) = (duplex(64), duplex(64));
        (client, guest, tokio::spawn(exchange(ours, theirs)))
    }

    /// The exit status of a shell that did not read all of its input was lost.
    #[tokio::test]
    async fn last_words_reach_a_client_that_still_sends() {
        let (client, mut guest, carried) = console();
        let (mut heard, mut said) = tokio::io::split(client);
        guest.write_all(b"last words").await.unwrap();
        guest.shutdown().await.unwrap();
        drop(guest);
        let sending = tokio::spawn(async move { while said.write_all(&[0; 32]).await.is_ok() {} });
        let mut words = String::new();
        heard.read_to_string(&mut words).await.unwrap();
        assert_eq!(words, "last words");
        carried.await.unwrap().unwrap();
        drop(heard);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_learns_that_its_client_has_gone() {
        let (client, mut guest, carried) = console();
        drop(client);
        assert_eq!(guest.read(&mut [0; 8]).await.unwrap(), 0);
        drop(guest);
        carried.await.unwrap().unwrap();
    }
}
