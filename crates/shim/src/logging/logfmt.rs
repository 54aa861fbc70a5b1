//! One event as a line of `key=value`, the way containerd's own shims write it.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

use kata_sandbox::clock::rfc3339;
use tracing::Level;
use tracing::field::{Field, Visit};

/// What stands behind a value that was cut.
const CUT: &str = " …(cut)";

/// The fields of an event or a span, in order.
#[derive(Debug, Default)]
pub(super) struct Fields {
    message: String,
    pairs: Vec<(String, String)>,
}

impl Fields {
    /// Adds a field; `message` is kept apart.
    pub(super) fn push(&mut self, name: &str, value: impl Into<String>) {
        match name {
            "message" => self.message = value.into(),
            _ => self.pairs.push((name.to_owned(), value.into())),
        }
    }

    /// Adds a field unless there is one of that name.
    pub(super) fn add_missing(&mut self, name: &str, value: &str) {
        if self.pairs.iter().all(|(found, _)| found != name) {
            self.push(name, value);
        }
    }

    /// Adds another's fields.
    pub(super) fn extend(&mut self, other: &Self) {
        self.pairs.extend(other.pairs.iter().cloned());
    }

    /// Cuts the longest value by about so many bytes, and by half of it at most; false: none is long.
    pub(super) fn shorten(&mut self, bytes: usize) -> bool {
        let values = self.pairs.iter_mut().map(|(_, value)| value).chain([&mut self.message]);
        let Some(longest) = values.max_by_key(|value| value.len()) else { return false };
        let length = longest.len().saturating_sub(bytes).max(longest.len() / 2);
        let is_long = length > CUT.len();
        if is_long {
            longest.truncate(longest.floor_char_boundary(length - CUT.len()));
            longest.push_str(CUT);
        }
        is_long
    }

    /// The text of an event.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// All but the message.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field.name(), value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.push(field.name(), crate::chain::text(value));
    }
}

/// The line, with its end.
pub(super) fn line(time: SystemTime, level: Level, fields: &Fields) -> String {
    let mut line = format!("time=\"{}\" level={} msg=", rfc3339(time), name(level));
    quote(&mut line, &fields.message);
    for (key, value) in fields.iter() {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        quote(&mut line, value);
    }
    line.push('\n');
    line
}

/// logrus' names.
pub(super) fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn quote(line: &mut String, value: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() => {
                write!(line, "\\u{:04x}", u32::from(c)).expect("writing to a string cannot fail");
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tracing::Level;

    use super::{Fields, line};

    #[test]
    fn values_are_quoted_when_they_must_be() {
        let mut fields = Fields::default();
        fields.push("message", "say \"hi\"\n");
        fields.push("path", "/run/kata:1");
        fields.push("empty", "");
        fields.push("odd", "a=b\u{1b}");
        let expected = "time=\"1970-01-01T00:00:00.000000000Z\" level=error msg=\"say \\\"hi\\\"\\n\" \
                        path=/run/kata:1 empty=\"\" odd=\"a=b\\u001b\"\n";
        assert_eq!(line(UNIX_EPOCH, Level::ERROR, &fields), expected);
    }
}
