//! What the fuzz targets in `fuzz/` call. Behind the feature `fuzzing`, and no interface for anybody else.

use super::{Version, diagnosis, version};

/// The cause of QEMU's end and what to do about it, from its standard error.
#[must_use]
pub fn diagnosis(stderr: &str) -> (Option<String>, Option<String>) {
    (diagnosis::cause(stderr), diagnosis::advice(stderr))
}

/// The version in the output of `--version`.
#[must_use]
pub fn version(output: &str) -> Option<Version> {
    version::parse(output)
}
