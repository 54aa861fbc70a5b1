//! An error with its causes, as one line for whoever has to read it.

use std::error::Error;

/// The error and its sources, joined by `: `.
#[must_use]
pub(crate) fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("Cannot start")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_whole_chain_is_told_once() {
        assert_eq!(super::text(&Outer(io::Error::other("no kernel"))), "Cannot start: no kernel");
    }
}
