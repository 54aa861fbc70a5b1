//! A line of a log, wherever it comes from.

use std::fmt;
use std::time::SystemTime;

use kata_sandbox::clock::{parse_rfc3339, rfc3339};
use serde_json::Value;

/// Who has written a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Kernel,
    Agent,
    Shim,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Agent => "agent",
            Self::Shim => "shim",
        }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) time: SystemTime,
    pub(crate) source: Source,
    /// Without its time.
    pub(crate) text: String,
}

impl Line {
    /// A line of the shim's, logfmt or JSON. One whose time is not understood is as old as `before`.
    pub(super) fn of_shim(line: &str, before: SystemTime) -> Self {
        let (time, text) = logfmt(line).or_else(|| json(line)).unwrap_or((before, line.to_owned()));
        Self { time, source: Source::Shim, text: kata_sandbox::printable(&text) }
    }

    pub(crate) fn json(&self) -> String {
        let Self { time, source, text } = self;
        serde_json::json!({ "time": rfc3339(*time), "source": source.name(), "text": text }).to_string()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, source, text } = self;
        write!(f, "{} {:<6} {text}", rfc3339(*time), source.name())
    }
}

fn logfmt(line: &str) -> Option<(SystemTime, String)> {
    let (time, text) = line.strip_prefix("time=\"")?.split_once("\" ")?;
    Some((parse_rfc3339(time)?, text.to_owned()))
}

/// In the form of the others.
fn json(line: &str) -> Option<(SystemTime, String)> {
    let Value::Object(mut fields) = serde_json::from_str(line).ok()? else { return None };
    let time = parse_rfc3339(fields.remove("time")?.as_str()?)?;
    let first = ["level", "msg"].map(|name| (name.to_owned(), fields.remove(name)));
    let first = first.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let pair = |(name, value): (String, Value)| match value {
        Value::String(text) if is_plain(&text) => format!("{name}={text}"),
        value => format!("{name}={value}"),
    };
    let pairs: Vec<String> = first.collect::<Vec<_>>().into_iter().chain(fields).map(pair).collect();
    Some((time, pairs.join(" ")))
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::Line;

    #[test]
    fn both_forms_of_the_shims_lines_are_the_same_line() {
        let logfmt =
            "time=\"1970-01-01T00:00:01.000000000Z\" level=info msg=\"two words\" container=web pid=7";
        let json =
            r#"{"container":"web","level":"info","msg":"two words","pid":"7","time":"1970-01-01T00:00:01Z"}"#;
        let line = Line::of_shim(logfmt, UNIX_EPOCH);
        assert_eq!(line, Line::of_shim(json, UNIX_EPOCH));
        assert_eq!(
            line.to_string(),
            "1970-01-01T00:00:01.000000000Z shim   level=info msg=\"two words\" container=web pid=7"
        );
    }

    #[test]
    fn a_line_that_is_not_understood_stays_where_it_was() {
        let before = UNIX_EPOCH + Duration::from_secs(5);
        let line = Line::of_shim("level=warning msg=\"3 lines of the log were lost\"\u{1b}[2J", before);
        assert_eq!(
            (line.time, line.text.as_str()),
            (before, "level=warning msg=\"3 lines of the log were lost\"")
        );
    }
}
