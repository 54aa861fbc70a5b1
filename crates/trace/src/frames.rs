//! What a guest's agent sends: messages of OTLP, each with its length before it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest message that is taken from a guest, in bytes.
pub const MAX_FRAME: usize = 1 << 16;

/// The next message; `None` if there will be no other.
///
/// # Errors
/// The connection breaks, or the message is longer than [`MAX_FRAME`].
pub async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u64().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME);
    let Some(length) = length else {
        return Err(io::Error::other("The guest's agent sent a message of more than 64 KiB"));
    };
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::{MAX_FRAME, next_frame};
    use crate::frame;

    #[tokio::test]
    async fn frames_are_read_until_the_stream_ends() {
        let bytes = [frame(b"one"), frame(b""), frame(b"three")].concat();
        let mut stream = &bytes[..];
        let mut read = Vec::new();
        while let Some(message) = next_frame(&mut stream).await.unwrap() {
            read.push(message);
        }
        assert_eq!(read, [&b"one"[..], b"", b"three"]);
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_before_it_is_read() {
        let length = (MAX_FRAME as u64 + 1).to_be_bytes();
        assert!(next_frame(&mut &length[..]).await.is_err());
    }
}
