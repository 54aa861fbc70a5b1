//! Reading of destinations, for fuzz targets.

use std::path::PathBuf;

use super::uri::{self, Program, Target};

/// The file that a destination of an output names, if it names one and is understood.
#[must_use]
pub fn destination(uri: &str) -> Option<PathBuf> {
    match uri::parse(uri).ok()? {
        Target::None => None,
        Target::Path(path) | Target::File(path) | Target::Logger(Program { path, .. }) => Some(path),
    }
}
