//! What a program says on standard error, as far as anybody wants to read it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// The last words are kept.
const MOST: usize = 8 * 1024;

/// Keeps them.
#[derive(Debug, Default)]
pub(super) struct Words(Vec<u8>);

impl Words {
    /// All that is kept, harmless to a terminal.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        text.trim_end().chars().filter(|c| !c.is_control() || *c == '\n').collect()
    }

    /// The last line.
    pub(super) fn last_line(&self) -> String {
        self.text().lines().next_back().unwrap_or_default().to_owned()
    }
}

impl AsyncWrite for Words {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.extend_from_slice(bytes);
        let over = self.0.len().saturating_sub(MOST);
        self.0.drain(..over);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
