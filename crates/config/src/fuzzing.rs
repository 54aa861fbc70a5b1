//! What the fuzz targets in `fuzz/` call. Behind the feature `fuzzing`, and no interface for anybody else.

use std::path::PathBuf;

use crate::file::{Role, parse};
use crate::{Config, Error, LoadRequest};

/// As [`load`](crate::load), with the texts of a base file and a drop-in instead of files.
///
/// # Errors
/// As `load`.
pub fn load_texts(base: &str, drop_in: &str, request: &LoadRequest) -> Result<Config, Error> {
    let place = PathBuf::from("/etc/configuration.toml");
    let layers = vec![parse(base, &place, Role::Base), parse(drop_in, &place, Role::DropIn)];
    crate::merge(place, layers, request)
}
