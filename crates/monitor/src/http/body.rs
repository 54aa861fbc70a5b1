//! The bodies of answers: whole ones, and such as are made while they are sent.

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

/// An answer's body.
pub(crate) enum Answer {
    /// Made piece by piece, as fast as it is taken.
    Pieces(Box<dyn Iterator<Item = Bytes> + Send>),
    /// As it happens, until the other side goes.
    Events(mpsc::Receiver<Bytes>),
}

impl Answer {
    /// Known as a whole.
    pub(crate) fn whole(text: impl Into<Bytes>) -> Self {
        Self::Pieces(Box::new(std::iter::once(text.into())))
    }

    /// The same, compressed; events are not, as each shall come at once.
    pub(crate) fn compressed(self) -> Self {
        match self {
            Self::Pieces(pieces) => Self::Pieces(Box::new(Gzip::new(pieces))),
            events @ Self::Events(_) => events,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Pieces(pieces) => Poll::Ready(pieces.next()),
            Self::Events(events) => events.poll_recv(context),
        };
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Compresses pieces as they are asked for.
struct Gzip {
    pieces: Box<dyn Iterator<Item = Bytes> + Send>,
    /// `None` at the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Gzip {
    fn new(pieces: Box<dyn Iterator<Item = Bytes> + Send>) -> Self {
        Self { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl Iterator for Gzip {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.pieces.next() {
                Some(piece) => {
                    encoder.write_all(&piece).expect("memory takes everything");
                    let made = std::mem::take(encoder.get_mut());
                    if !made.is_empty() {
                        return Some(made.into());
                    }
                }
                None => {
                    let made = self.encoder.take()?.finish().expect("memory takes everything");
                    return Some(made.into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use hyper::body::Bytes;

    use super::Gzip;

    #[test]
    fn what_is_compressed_piece_by_piece_is_whole() {
        let pieces: Vec<Bytes> = (0..2000).map(|number| Bytes::from(format!("line {number}\n"))).collect();
        let text = pieces.concat();
        let made: Vec<u8> =
            Gzip::new(Box::new(pieces.into_iter())).flat_map(|piece| piece.to_vec()).collect();
        assert!(made.len() < text.len() / 3);
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&made[..]).read_to_end(&mut read).unwrap();
        assert_eq!(read, text);
    }
}
