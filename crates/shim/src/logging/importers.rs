//! The rules of the snippets for Fluentd and Vector, on lines as they are written.

use std::time::{Duration, UNIX_EPOCH};

use kata_config::LogFormat;
use regex::Regex;
use tracing::Level;

use super::format;
use super::logfmt::Fields;

const FLUENTD: &str = include_str!("../../../../deploy/fluentd/kata.conf");
const VECTOR: &str = include_str!("../../../../deploy/vector/kata.toml");

/// One plain line and one with all that is hard to read.
fn lines(form: LogFormat) -> Vec<String> {
    let at = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    [("Launching", "web"), ("say \"hi\" = \\ back\nslash", "a=b c\"d")]
        .into_iter()
        .map(|(message, container)| {
            let mut fields = Fields::default();
            fields.push("message", message);
            fields.push("container", container);
            fields.push("empty", "");
            format::line(form, at, Level::WARN, &fields).trim_end().to_owned()
        })
        .collect()
}

/// The rule between slashes. Ruby's syntax is that of this engine as far as it is used.
fn fluentd() -> Regex {
    let rule = FLUENTD.lines().find_map(|line| line.trim().strip_prefix("expression /")).unwrap();
    Regex::new(rule.strip_suffix('/').unwrap()).unwrap()
}

#[test]
fn fluentds_rule_takes_real_lines_apart() {
    let rule = fluentd();
    let all = lines(LogFormat::Logfmt);
    let plain = rule.captures(&all[0]).unwrap();
    assert_eq!((&plain["time"], &plain["level"]), ("2023-11-14T22:13:20.000000005Z", "warning"));
    assert_eq!((&plain["word"], &plain["fields"]), ("Launching", " container=web empty=\"\""));
    let hard = rule.captures(&all[1]).unwrap();
    assert_eq!(&hard["msg"], "say \\\"hi\\\" = \\\\ back\\nslash");
    assert_eq!(&hard["fields"], " container=\"a=b c\\\"d\" empty=\"\"");
    // What is of the other form goes on to the rule for that.
    assert!(lines(LogFormat::Json).iter().all(|line| !rule.is_match(line)));
    let json = FLUENTD.split("<filter kata>").filter(|filter| filter.contains("@type json")).count();
    let passed_on = FLUENTD.matches("emit_invalid_record_to_error false").count();
    assert_eq!((json, passed_on, FLUENTD.matches("reserve_data true").count()), (1, 2, 2));
}

/// The snippet tries JSON first, which a line of logfmt must not be, and each line of JSON must.
#[test]
fn vectors_rule_tells_the_two_forms_apart() {
    assert!(VECTOR.contains("parse_json(.message) ?? parse_logfmt!(.message)"));
    for line in lines(LogFormat::Logfmt) {
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_err(), "{line}");
    }
    for line in lines(LogFormat::Json) {
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        assert!(["time", "level", "msg", "container"].iter().all(|name| fields[*name].is_string()), "{line}");
    }
}
