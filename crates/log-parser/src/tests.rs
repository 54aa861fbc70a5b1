//! What one form writes, its reader reads the same.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quick_xml::events::Event;
use quick_xml::reader::Reader;

use crate::files;
use crate::format::{self, OutputFormat};
use crate::record::{Log, Record};
use crate::run::sorted;

fn written(log: &Log, format: OutputFormat) -> String {
    let mut bytes = Vec::new();
    format::write(log, format, &mut bytes).expect("memory can be written");
    String::from_utf8(bytes).expect("is text")
}

/// Any text, with the characters that formats stumble over.
fn any_text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        "",
        " ",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "\u{1b}[31m",
        "\"",
        "'",
        "\\",
        "\\u0041",
        "<&>]]>",
        "a: b",
        "- x",
        "# y",
        "true",
        "null",
        "~",
        "1",
        "1e3",
        "0x10",
        "=",
        ",",
        "\u{85}",
        "\u{feff}",
        "\u{ffff}",
        "\u{2028}",
        "😀",
    ]);
    prop_oneof![any::<String>(), prop::collection::vec(odd, 0..5).prop_map(|parts| parts.concat())]
}

fn any_record() -> impl Strategy<Value = Record> {
    let text = any_text;
    let option = || prop::option::of(any_text());
    let data = prop::collection::btree_map(any_text(), any_text(), 0..4);
    let first = (any::<u32>(), text(), any::<u32>(), text(), any::<u32>(), text(), text());
    (first, option(), prop::option::of(any::<u32>()), option(), option(), option(), data).prop_map(
        |((count, file, line, time, delta, level, msg), name, pid, source, container, sandbox, data)| {
            Record {
                count: count.into(),
                file,
                line: line.into(),
                time,
                time_delta: delta.into(),
                level,
                msg,
                name,
                pid,
                source,
                container,
                sandbox,
                data,
            }
        },
    )
}

fn any_log() -> impl Strategy<Value = Log> {
    prop::collection::vec(any_record(), 0..4).prop_map(|entries| Log { entries })
}

/// A table has no difference between an empty text and none.
fn without_empty(log: &Log) -> Log {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let entries = log.entries.iter().map(|record| Record {
        name: filled(&record.name),
        source: filled(&record.source),
        container: filled(&record.container),
        sandbox: filled(&record.sandbox),
        ..record.clone()
    });
    Log { entries: entries.collect() }
}

fn read_csv(text: &str) -> Log {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let entry = |row: BTreeMap<String, String>| {
        let option = |name: &str| Some(row[name].clone()).filter(|text| !text.is_empty());
        Record {
            count: row["count"].parse().expect("a number"),
            file: row["file"].clone(),
            line: row["line"].parse().expect("a number"),
            time: row["time"].clone(),
            time_delta: row["time_delta"].parse().expect("a number"),
            level: row["level"].clone(),
            msg: row["msg"].clone(),
            name: option("name"),
            pid: option("pid").map(|pid| pid.parse().expect("a number")),
            source: option("source"),
            container: option("container"),
            sandbox: option("sandbox"),
            data: serde_json::from_str(&row["data"]).expect("is JSON"),
        }
    };
    Log { entries: reader.deserialize().map(|row| entry(row.expect("a row"))).collect() }
}

/// The texts of the leaves of an XML document, in order, with their names.
fn leaves(text: &str) -> Vec<(String, String)> {
    let mut reader = Reader::from_str(text);
    let mut leaves = Vec::new();
    loop {
        match reader.read_event().expect("is XML") {
            Event::Start(start)
                if !["log", "entry", "field"].map(str::as_bytes).contains(&start.name().as_ref()) =>
            {
                let name = String::from_utf8(start.name().as_ref().to_vec()).expect("is text");
                let is_escaped = start.try_get_attribute("escaped").expect("is well-formed").is_some();
                let raw = reader.read_text(start.name()).expect("ends");
                let text = quick_xml::escape::unescape(&raw).expect("is escaped well").into_owned();
                let json =
                    || format!("\"{}\"", text.replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t"));
                let text = if is_escaped {
                    serde_json::from_str(&json()).expect("is escaped as JSON")
                } else {
                    text
                };
                leaves.push((name, text));
            }
            Event::Eof => return leaves,
            _ => {}
        }
    }
}

fn expected_leaves(log: &Log) -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    for record in &log.entries {
        let mut push =
            |name: &str, value: Option<String>| leaves.extend(value.map(|value| (name.to_owned(), value)));
        push("count", Some(record.count.to_string()));
        push("file", Some(record.file.clone()));
        push("line", Some(record.line.to_string()));
        push("time", Some(record.time.clone()));
        push("time_delta", Some(record.time_delta.to_string()));
        push("level", Some(record.level.clone()));
        push("msg", Some(record.msg.clone()));
        push("name", record.name.clone());
        push("pid", record.pid.map(|pid| pid.to_string()));
        push("source", record.source.clone());
        push("container", record.container.clone());
        push("sandbox", record.sandbox.clone());
        for (key, value) in &record.data {
            push("key", Some(key.clone()));
            push("value", Some(value.clone()));
        }
    }
    leaves
}

proptest! {
    #[test]
    fn json_is_read_the_same(log in any_log()) {
        prop_assert_eq!(serde_json::from_str::<Log>(&written(&log, OutputFormat::Json)).expect("is JSON"), log);
    }

    #[test]
    fn ron_is_read_the_same(log in any_log()) {
        prop_assert_eq!(ron::from_str::<Log>(&written(&log, OutputFormat::Ron)).expect("is RON"), log);
    }

    #[test]
    fn toml_is_read_the_same(log in any_log()) {
        prop_assert_eq!(toml::from_str::<Log>(&written(&log, OutputFormat::Toml)).expect("is TOML"), log);
    }

    #[test]
    fn yaml_is_read_the_same(log in any_log()) {
        prop_assert_eq!(yaml_serde::from_str::<Log>(&written(&log, OutputFormat::Yaml)).expect("is YAML"), log);
    }

    #[test]
    fn csv_is_read_the_same(log in any_log()) {
        prop_assert_eq!(read_csv(&written(&log, OutputFormat::Csv)), without_empty(&log));
    }

    #[test]
    fn xml_is_read_the_same(log in any_log()) {
        prop_assert_eq!(leaves(&written(&log, OutputFormat::Xml)), expected_leaves(&log));
    }

    #[test]
    fn text_is_read_the_same(
        msg in any_text(), source in prop::option::of(any_text()), pid in prop::option::of(any::<u32>()),
        data in prop::collection::btree_map("[a-z]{1,3}-[a-z]{1,3}", any_text(), 0..4),
    ) {
        let record = Record {
            count: 1, file: "log".into(), line: 1, time: "2026-11-22T07:36:11Z".into(), level: "info".into(),
            msg, source, pid, data, ..Record::default()
        };
        let log = Log { entries: vec![record] };
        let text = written(&log, OutputFormat::Text);
        let again = files::lines(text.as_bytes(), "log", false).expect("memory can be read");
        prop_assert!(again.problems.is_empty(), "{}", text);
        prop_assert_eq!(sorted(vec![again]), log);
    }
}

/// Lines like those of logs, and a little wrong.
fn any_line() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "time=2026-11-22T07:36:11Z ",
        "time= ",
        "ts=x ",
        "level=info ",
        "level=\"\" ",
        "msg=\"a \\\" b\" ",
        "msg=",
        "pid=7 ",
        "pid=x ",
        "name=a ",
        "a=1 ",
        "a_2=\"\\u001b\" ",
        "\"",
        "=",
        "\\",
        "{",
        "}",
        ":",
        ",",
        "\"time\":\"2026-11-22 07:36:11Z\"",
        "\"a b\":{\"c\":[1]}",
        "\"a=b\":1",
        "\"\":null",
        "\"fields\":{\"message\":\"m\"}",
        "\"MESSAGE\":\"m\"",
        "\"__REALTIME_TIMESTAMP\":\"15\"",
        "\r",
        "😀",
    ]);
    let parts = prop::collection::vec(part, 0..9);
    prop_oneof![
        parts.clone().prop_map(|parts| parts.concat()),
        parts.prop_map(|parts| format!("{{{}}}", parts.join(","))),
    ]
}

proptest! {
    #[test]
    fn what_is_read_of_any_line_is_written_so_that_it_is_read_the_same(line in any_line()) {
        crate::fuzzing::lines(line.as_bytes());
    }
}

#[test]
fn lines_of_all_files_are_sorted_by_time_and_keep_their_order_at_the_same_time() {
    let first =
        "time=2026-11-22T08:00:01+01:00 level=info msg=b\ntime=2026-11-22T07:00:03Z level=info msg=d\n";
    let second = "time=2026-11-22T07:00:00.5Z level=info msg=a\n\ntime=2026-11-22T07:00:03Z level=info msg=e";
    let read =
        |text: &str, name: &str| files::lines(text.as_bytes(), name, false).expect("memory can be read");
    let log = sorted(vec![read(first, "first"), read(second, "second")]);
    let shown: Vec<_> = log
        .entries
        .iter()
        .map(|r| format!("{} {}:{} {} {}", r.count, r.file, r.line, r.msg, r.time_delta))
        .collect();
    assert_eq!(
        shown,
        ["1 second:1 a 0", "2 first:1 b 500000000", "3 first:2 d 2000000000", "4 second:3 e 0"]
    );
}

#[test]
fn a_line_without_a_time_stays_behind_the_one_before_it() {
    let text = "time=2026-11-22T07:00:02Z msg=a\nmsg=b\ntime=2026-11-22T07:00:01Z msg=c\n";
    let log = sorted(vec![files::lines(text.as_bytes(), "log", true).expect("memory can be read")]);
    let shown: Vec<_> = log.entries.iter().map(|record| record.msg.as_str()).collect();
    assert_eq!(shown, ["c", "a", "b"]);
}
