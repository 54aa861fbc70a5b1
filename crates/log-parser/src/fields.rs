//! One line as names and values: logfmt, a JSON object, or an entry of the journal as `journalctl -o json` writes it.

use serde_json::{Map, Value};

use crate::logfmt::{self, LogfmtError};
use crate::time;

/// Names and values, in order.
pub(crate) type Fields = Vec<(String, String)>;

/// A line that is neither logfmt nor JSON.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FieldsError {
    /// It does not begin like JSON.
    #[error("no logfmt: {0}")]
    Logfmt(#[from] LogfmtError),
    /// It begins like JSON.
    #[error("no JSON object: {0}")]
    Json(#[from] serde_json::Error),
}

/// The fields of a line.
pub(crate) fn read(line: &str) -> Result<Fields, FieldsError> {
    if !line.trim_start().starts_with('{') {
        return Ok(logfmt::parse(line)?);
    }
    let object: Map<String, Value> = serde_json::from_str(line)?;
    Ok(journal(&object).unwrap_or_else(|| {
        let mut fields = Fields::new();
        flatten(&object, "", &mut fields);
        fields
    }))
}

/// Objects in the object become names with dots; `fields` does not count as a part, as it is the tracing library's.
fn flatten(object: &Map<String, Value>, prefix: &str, fields: &mut Fields) {
    for (name, value) in object {
        let name = format!("{prefix}{name}");
        match value {
            Value::Null => {}
            Value::Object(inner) if name == "fields" => flatten(inner, "", fields),
            Value::Object(inner) => flatten(inner, &format!("{name}."), fields),
            other => fields.push((name, text(other))),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An entry of the journal. Its message may be a whole line of logfmt, which then says all; else the time and the priority
/// are the journal's, and `KATA_*` are fields.
fn journal(object: &Map<String, Value>) -> Option<Fields> {
    let message = text(object.get("MESSAGE")?);
    let microseconds: i128 = object.get("__REALTIME_TIMESTAMP")?.as_str()?.parse().ok()?;
    if let Ok(fields) = logfmt::parse(&message)
        && fields.iter().any(|(name, _)| name == "time")
    {
        return Some(fields);
    }
    let priority = object.get("PRIORITY").and_then(Value::as_str).unwrap_or_default();
    let mut fields = vec![
        ("time".to_owned(), time::format(microseconds.checked_mul(1000)?)),
        ("level".to_owned(), level(priority).to_owned()),
        ("msg".to_owned(), message),
    ];
    for (name, value) in [("name", "SYSLOG_IDENTIFIER"), ("pid", "_PID")] {
        fields.extend(object.get(value).map(|value| (name.to_owned(), text(value))));
    }
    for (name, value) in object {
        if let Some(name) = name.strip_prefix("KATA_") {
            fields.push((name.to_ascii_lowercase(), text(value)));
        }
    }
    Some(fields)
}

/// syslog's numbers.
fn level(priority: &str) -> &'static str {
    match priority {
        "0" | "1" | "2" => "critical",
        "3" => "error",
        "4" => "warning",
        "7" => "debug",
        _ => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    fn shown(line: &str) -> Vec<String> {
        read(line).expect(line).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn objects_in_json_become_names_with_dots() {
        let line = r#"{"ts": "x", "pid": 7, "a": {"b": true, "c": [1]}, "none": null}"#;
        assert_eq!(shown(line), ["a.b=true", "a.c=[1]", "pid=7", "ts=x"]);
    }

    #[test]
    fn a_record_of_the_tracing_library_is_flat() {
        let line =
            r#"{"timestamp": "x", "level": "INFO", "fields": {"message": "m", "path": "/p"}, "target": "t"}"#;
        assert_eq!(shown(line), ["message=m", "path=/p", "level=INFO", "target=t", "timestamp=x"]);
    }

    #[test]
    fn the_journals_fields_are_taken_when_the_message_is_words() {
        let line = r#"{"MESSAGE": "pod started", "__REALTIME_TIMESTAMP": "1500000", "PRIORITY": "4", "KATA_SANDBOX": "s", "_PID": "7", "_UID": "0"}"#;
        let expected =
            ["time=1970-01-01T00:00:01.500000000Z", "level=warning", "msg=pod started", "pid=7", "sandbox=s"];
        assert_eq!(shown(line), expected);
    }

    #[test]
    fn a_line_of_logfmt_in_the_journal_says_all() {
        let line = r#"{"MESSAGE": "time=\"t\" level=info msg=m", "__REALTIME_TIMESTAMP": "1500000", "PRIORITY": "4"}"#;
        assert_eq!(shown(line), ["time=t", "level=info", "msg=m"]);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert_eq!(read("panic!").unwrap_err().to_string(), "no logfmt: `panic!` is no key=value pair");
        assert!(read("{\"a\"").unwrap_err().to_string().starts_with("no JSON object: EOF"));
    }
}
