//! A request to an endpoint, and what it answers.

use std::sync::Arc;

use hyper::body::Bytes;
use serde::Serialize;

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
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(text: impl Into<Vec<u8>>) -> Self {
        Self { media: "text/plain; charset=utf-8", body: text.into() }
    }

    pub(super) fn json(value: &impl Serialize) -> Result<Self, Failure> {
        let body = serde_json::to_vec(value).map_err(|error| Failure::of(Kind::Unknown, &error))?;
        Ok(Self { media: "application/json", body })
    }

    pub(super) fn empty() -> Self {
        Self::text("")
    }
}
