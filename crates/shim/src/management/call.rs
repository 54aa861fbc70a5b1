//! A request to an endpoint, and what it answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc;

use super::Managed;
use crate::backend::{Failure, Kind};

/// A request to an endpoint.
pub(super) struct Call {
    pub(super) sandbox: Arc<dyn Managed>,
    /// What stands in the path where the table has `*`.
    pub(super) name: String,
    /// What stands behind a question mark, as it is.
    pub(super) query: String,
    pub(super) body: Bytes,
}

/// What an endpoint answers if it succeeds.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) media: &'static str,
    pub(super) body: Content,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it; `None` when it is sent.
    Whole(Option<Bytes>),
    /// What comes, as it comes.
    Stream(mpsc::Receiver<Bytes>),
}

impl Content {
    /// Of these bytes.
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        Self::Whole(Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::Stream(parts) => parts.poll_recv(context),
        };
        part.map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl Answer {
    pub(super) fn text(text: impl Into<Vec<u8>>) -> Self {
        Self { media: "text/plain; charset=utf-8", body: Content::whole(text.into()) }
    }

    /// A line of JSON for each event, until the other side goes.
    pub(super) fn stream(lines: mpsc::Receiver<Bytes>) -> Self {
        Self { media: "application/x-ndjson", body: Content::Stream(lines) }
    }

    pub(super) fn json(value: &impl Serialize) -> Result<Self, Failure> {
        let body = serde_json::to_vec(value).map_err(|error| Failure::of(Kind::Unknown, &error))?;
        Ok(Self { media: "application/json", body: Content::whole(body) })
    }

    pub(super) fn empty() -> Self {
        Self::text("")
    }
}
