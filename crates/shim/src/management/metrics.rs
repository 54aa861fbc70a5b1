//! Figures of the sandbox as Prometheus text.

use kata_metrics::Selection;
use percent_encoding::percent_decode_str;

use super::call::{Answer, Call, Content};
use crate::backend::{Failure, Kind};

/// The text format's media type.
const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /metrics`, `GET /metrics?families=all`, `GET /metrics?families=kata_guest,kata_container`
pub(super) async fn get(call: Call) -> Result<Answer, Failure> {
    let text = call.sandbox.metrics(selection(&call.query)?).await?;
    Ok(Answer { media: MEDIA, body: Content::whole(text.into_bytes()) })
}

fn selection(query: &str) -> Result<Selection, Failure> {
    let refused = |text: String| Failure::new(Kind::InvalidArgument, text);
    let mut words = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some(value) = pair.strip_prefix("families=") else {
            return Err(refused(format!("`{pair}` is not understood; only `families=` may stand here")));
        };
        words.push(percent_decode_str(value).decode_utf8_lossy());
    }
    let words = words.iter().flat_map(|word| word.split(','));
    Selection::of(words).map_err(|error| refused(error.to_string()))
}
