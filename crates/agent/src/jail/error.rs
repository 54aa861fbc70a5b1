//! Why the jail could not do what its plan says.

use std::io;
use std::path::{Path, PathBuf};

use crate::hooks::HookError;

/// The reason, for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum JailError {
    /// A step failed.
    #[error("Cannot {0}")]
    Step(String, #[source] io::Error),
    /// The root file system is not there.
    #[error("The container's root file system {} is not there in the guest; was it shared?", path.display())]
    Root { path: PathBuf, source: io::Error },
    /// Another process has the reason, and tells it.
    #[error("The process was given up")]
    GivenUp,
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The specification asks for what cannot be.
    #[error("{0}")]
    Refused(String),
}

/// Result of a step.
pub(super) type Result<T> = std::result::Result<T, JailError>;

/// Names the step that failed.
pub(super) trait Named<T> {
    /// "Cannot `what`: …".
    fn step(self, what: &str) -> Result<T>;
    /// "Cannot `what` `path`: …".
    fn at(self, what: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Named<T> for std::result::Result<T, E> {
    fn step(self, what: &str) -> Result<T> {
        self.map_err(|source| JailError::Step(what.to_owned(), source.into()))
    }

    fn at(self, what: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| JailError::Step(format!("{what} {}", path.as_ref().display()), source.into()))
    }
}
