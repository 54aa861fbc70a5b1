//! One event as a line: logfmt, or a JSON object.

use std::time::SystemTime;

use kata_config::LogFormat;
use kata_sandbox::clock::rfc3339;
use serde_json::{Map, Value};
use tracing::Level;

use super::logfmt::{self, Fields};

/// The line, with its end.
pub(super) fn line(format: LogFormat, time: SystemTime, level: Level, fields: &Fields) -> String {
    match format {
        LogFormat::Logfmt => logfmt::line(time, level, fields),
        LogFormat::Json => json(time, level, fields),
    }
}

/// The same in `most` bytes: its longest values are cut, so that the line stays whole.
pub(super) fn short(
    format: LogFormat,
    time: SystemTime,
    level: Level,
    fields: &mut Fields,
    most: usize,
) -> String {
    loop {
        let line = line(format, time, level, fields);
        if line.len() <= most || !fields.shorten(line.len() - most) {
            return line;
        }
    }
}

/// Every value is a string, as in logfmt. Of two fields of one name, the inner one counts.
fn json(time: SystemTime, level: Level, fields: &Fields) -> String {
    let first = [("time", rfc3339(time)), ("level", logfmt::name(level).to_owned())];
    let mut object: Map<String, Value> = Map::new();
    for (name, value) in fields.iter() {
        object.insert(name.to_owned(), value.into());
    }
    object.insert("msg".to_owned(), fields.message().into());
    object.extend(first.map(|(name, value)| (name.to_owned(), value.into())));
    format!("{}\n", Value::Object(object))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use kata_config::LogFormat;
    use tracing::Level;

    use super::{Fields, line, short};

    /// A JSON line was cut in its middle, and was none any more.
    #[test]
    fn what_is_too_long_is_cut_within_its_values() {
        for (text, least) in [("é\"", 1000), ("\u{1}", 300), ("x", 2000)] {
            let mut fields = Fields::default();
            fields.push("message", text.repeat(5000));
            fields.push("error", text.repeat(2500));
            fields.push("container", "web");
            let json = short(LogFormat::Json, UNIX_EPOCH, Level::WARN, &mut fields, 4096);
            assert!((2000..=4096).contains(&json.len()), "{}", json.len());
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert!(value["msg"].as_str().unwrap().ends_with(" …(cut)") && value["container"] == "web");
            let kept = ["msg", "error"].map(|name| value[name].as_str().unwrap().len());
            assert!(kept.iter().sum::<usize>() >= least, "{kept:?}");
            let logfmt = short(LogFormat::Logfmt, UNIX_EPOCH, Level::WARN, &mut fields, 4096);
            assert!(logfmt.len() <= 4096 && logfmt.ends_with(" container=web\n"), "{logfmt}");
        }
    }

    #[test]
    fn json_has_the_same_fields_as_logfmt() {
        let mut fields = Fields::default();
        fields.push("message", "say \"hi\"\n");
        fields.push("container", "web");
        assert_eq!(
            line(LogFormat::Json, UNIX_EPOCH, Level::WARN, &fields),
            "{\"container\":\"web\",\"level\":\"warning\",\"msg\":\"say \\\"hi\\\"\\n\",\
             \"time\":\"1970-01-01T00:00:00.000000000Z\"}\n"
        );
    }
}
