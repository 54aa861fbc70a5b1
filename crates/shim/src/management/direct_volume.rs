//! Direct-assigned volumes, as upstream's `kata-runtime` and CSI drivers ask for them. Paths are those of volumes on the
//! host.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::call::{Answer, Call};
use crate::backend::{Failure, Kind};

/// A volume's new size. Upstream has written the keys, and the number, in several ways.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    #[serde(
        rename = "VolumePath",
        alias = "volumePath",
        alias = "volume_path",
        alias = "volume-path",
        alias = "volume_guest_path"
    )]
    volume: PathBuf,
    #[serde(rename = "Size", alias = "size")]
    size: Size,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Number(u64),
    Text(String),
}

/// `GET` or `POST /direct-volume/stats?path=<volume>`, or `GET /direct-volume/stats/<volume>`, percent-encoded.
pub(super) async fn stats(call: Call) -> Result<Answer, Failure> {
    let volume = if call.name.is_empty() { path_of(&call.query) } else { Some(call.name) };
    let Some(volume) = volume.filter(|volume| volume.starts_with('/')) else {
        return Err(refused("Which volume? Add ?path= with its absolute path, percent-encoded"));
    };
    Answer::json(&call.sandbox.volume_stats(PathBuf::from(volume)).await?)
}

/// `POST /direct-volume/resize`
pub(super) async fn resize(call: Call) -> Result<Answer, Failure> {
    let form = r#"{"VolumePath": "/…", "Size": 8589934592}"#;
    let wrong = |error: &dyn std::fmt::Display| refused(format!("The body is not {form}: {error}"));
    let resize: Resize = serde_json::from_slice(&call.body).map_err(|error| wrong(&error))?;
    let bytes = match resize.size {
        Size::Number(bytes) => bytes,
        Size::Text(text) => text.parse().map_err(|error| wrong(&error))?,
    };
    call.sandbox.resize_volume(resize.volume, bytes).await?;
    Ok(Answer::empty())
}

fn refused(text: impl Into<String>) -> Failure {
    Failure::new(Kind::InvalidArgument, text)
}

/// The value of `path`, as forms are encoded.
fn path_of(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("path="))?;
    let spaced = value.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|path| path.into_owned())
}
