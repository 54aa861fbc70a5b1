//! Prometheus' text format, version 0.0.4: the texts of many shims become one, each line with the labels of its sandbox.

mod merge;
mod sample;
mod text;

pub(crate) use merge::{Merge, Told};
pub(crate) use sample::Labels;
pub(crate) use text::Text;

/// The format, as collectors ask for it.
pub(crate) const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";
