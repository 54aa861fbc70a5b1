//! A span that has ended.

use std::borrow::Cow;

use crate::{Context, SpanId};

/// On which side of a request a span stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither.
    Internal,
    /// It answers one.
    Server,
}

/// A stretch of time in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its place.
    pub context: Context,
    /// The span that it is part of.
    pub parent: Option<SpanId>,
    /// What happened.
    pub name: Cow<'static, str>,
    /// On which side.
    pub kind: Kind,
    /// Its beginning, in nanoseconds since 1970.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// What it was about.
    pub attributes: Vec<(Cow<'static, str>, String)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}
