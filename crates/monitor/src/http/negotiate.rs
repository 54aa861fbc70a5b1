//! What a client says it understands.

use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderName};

/// Whether it wants answers compressed by gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    is_listed(headers, &ACCEPT_ENCODING, "gzip")
}

/// Whether it is a browser, which names HTML first of all.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    is_listed(headers, &ACCEPT, "text/html")
}

/// Whether it wants events as a browser's `EventSource` does.
pub(super) fn wants_server_sent(headers: &HeaderMap) -> bool {
    is_listed(headers, &ACCEPT, "text/event-stream")
}

/// Whether a field's list has this word, and does not rule it out (`q=0`).
fn is_listed(headers: &HeaderMap, field: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(field).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(word));
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        named && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};

    use super::takes_gzip;

    #[test]
    fn gzip_is_taken_if_it_is_listed_and_not_ruled_out() {
        let says = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(says("gzip") && says("br, GZIP;q=0.5") && says("deflate,gzip;q=1.0"));
        assert!(!says("gzip;q=0") && !says("br") && !says("x-gzip") && !takes_gzip(&HeaderMap::new()));
    }
}
