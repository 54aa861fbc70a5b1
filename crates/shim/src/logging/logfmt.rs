//! One event as a line of `key=value`, the way containerd's own shims write it.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Level;
use tracing::field::{Field, Visit};

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
fn name(level: Level) -> &'static str {
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

/// UTC with nanoseconds.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second, nanos) = (second / 3600, second / 60 % 60, second % 60, since.subsec_nanos());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Days since 1970 as a date: the Gregorian calendar repeats every 400 years, that is 146,097 days, and is
/// regular when the year begins in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use tracing::Level;

    use super::{Fields, line, rfc3339};

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

    #[test]
    fn dates_are_right_at_the_corners_of_the_calendar() {
        let cases = [
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (951_868_799, "2000-02-29T23:59:59.000000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
