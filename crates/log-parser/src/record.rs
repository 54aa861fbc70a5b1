//! A line as a record: time, level and message found under the names that loggers give them.

use std::collections::BTreeMap;
use std::str::Utf8Error;

use serde::{Deserialize, Serialize};

use crate::fields::{self, Fields, FieldsError};
use crate::time;

/// Names of a time, best first.
const TIME: [&str; 4] = ["time", "ts", "timestamp", "@timestamp"];
/// Names of a level.
const LEVEL: [&str; 3] = ["level", "lvl", "severity"];
/// Names of a message.
const MESSAGE: [&str; 2] = ["msg", "message"];

/// Levels as they are written, and as they are told here.
const LEVELS: [(&str, &[&str]); 8] = [
    ("trace", &["trce"]),
    ("debug", &["debg"]),
    ("info", &["information", "notice"]),
    ("warning", &["warn"]),
    ("error", &["eror", "err"]),
    ("critical", &["crit"]),
    ("fatal", &["emerg"]),
    ("panic", &[]),
];

/// All records in order.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Log {
    /// By time.
    pub(crate) entries: Vec<Record>,
}

/// One line of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its place among all, from 1.
    pub(crate) count: u64,
    /// The file it is from.
    pub(crate) file: String,
    /// Its place there, from 1.
    pub(crate) line: u64,
    /// As it was written.
    pub(crate) time: String,
    /// Nanoseconds since the record before.
    pub(crate) time_delta: u64,
    /// In one spelling.
    pub(crate) level: String,
    /// What happened.
    pub(crate) msg: String,
    /// The program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// Its part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// The container it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    /// The sandbox it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
    /// Everything else.
    #[serde(default)]
    pub(crate) data: BTreeMap<String, String>,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// Bytes that are no text.
    #[error("no UTF-8 text")]
    Text(#[from] Utf8Error),
    /// Neither form.
    #[error(transparent)]
    Fields(#[from] FieldsError),
    /// Something that every line has.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A time that is none.
    #[error("`{0}` is no time like 2026-11-22T07:36:11.5Z")]
    Time(String),
    /// A level that is none.
    #[error("`{0}` is no level like info or warning")]
    Level(String),
}

impl Record {
    /// Reads a line; also when it happened, in nanoseconds since 1970. With `may_lack` a field may be missing.
    pub(crate) fn read(line: &[u8], may_lack: bool) -> Result<(Self, Option<i128>), Problem> {
        let mut fields = fields::read(std::str::from_utf8(line)?)?;
        let mut required = |names: &[&'static str]| match take(&mut fields, names) {
            None if !may_lack => Err(Problem::Missing(names[0])),
            found => Ok(found.unwrap_or_default()),
        };
        let (time, level, msg) = (required(&TIME)?, required(&LEVEL)?, required(&MESSAGE)?);
        let at = match time.as_str() {
            "" if may_lack => None,
            text => Some(time::parse(text).ok_or_else(|| Problem::Time(text.to_owned()))?),
        };
        let level = match level.as_str() {
            "" if may_lack => level,
            _ => one_spelling(&level).ok_or(Problem::Level(level))?.to_owned(),
        };
        let pid = take_if(&mut fields, "pid", |pid| pid.parse::<u32>().is_ok_and(|n| n.to_string() == pid));
        let record = Self {
            time,
            level,
            msg,
            name: take(&mut fields, &["name"]),
            pid: pid.and_then(|pid| pid.parse().ok()),
            source: take(&mut fields, &["source"]),
            container: take(&mut fields, &["container"]),
            sandbox: take(&mut fields, &["sandbox"]),
            data: distinct(fields),
            ..Self::default()
        };
        Ok((record, at))
    }
}

/// Takes the first field that has one of the names, the best name first.
fn take(fields: &mut Fields, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| take_if(fields, name, |_| true))
}

fn take_if(fields: &mut Fields, name: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    let index = fields.iter().position(|(other, value)| other == name && fits(value))?;
    Some(fields.remove(index).1)
}

/// A name that stands twice gets a number, so that nothing is lost.
fn distinct(fields: Fields) -> BTreeMap<String, String> {
    let mut data = BTreeMap::new();
    for (name, value) in fields {
        let numbered = (2u32..).map(|number| format!("{name}_{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !data.contains_key(name));
        data.insert(free.unwrap_or(name), value);
    }
    data
}

fn one_spelling(level: &str) -> Option<&'static str> {
    let level = level.to_ascii_lowercase();
    LEVELS
        .iter()
        .find(|(name, others)| *name == level || others.contains(&level.as_str()))
        .map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::Record;

    fn read(line: &str) -> Record {
        Record::read(line.as_bytes(), false).expect(line).0
    }

    fn problem(line: &[u8]) -> String {
        Record::read(line, false).expect_err("is wrong").to_string()
    }

    #[test]
    fn a_line_of_the_shim_is_read() {
        let record = read(
            "time=\"2026-11-22T07:36:11.000000001Z\" level=warning msg=\"say \\\"hi\\\"\" rpc=Create container=web pid=7 sandbox=pod1\n"
                .trim_end(),
        );
        assert_eq!((record.level.as_str(), record.msg.as_str()), ("warning", "say \"hi\""));
        assert_eq!(
            (record.container.as_deref(), record.sandbox.as_deref(), record.pid),
            (Some("web"), Some("pod1"), Some(7))
        );
        assert_eq!(record.data["rpc"], "Create");
    }

    #[test]
    fn a_line_of_containerd_is_read() {
        let record = read(
            r#"time="2026-11-22T07:36:11.123456789Z" level=info msg="loading plugin \"io.containerd.content.v1.content\"..." type=io.containerd.content.v1"#,
        );
        assert_eq!(record.msg, "loading plugin \"io.containerd.content.v1.content\"...");
        assert_eq!(record.data["type"], "io.containerd.content.v1");
    }

    #[test]
    fn a_line_of_upstreams_agent_is_read() {
        let record = read(
            r#"{"msg":"announce","level":"INFO","ts":"2020-09-15T14:56:23.095113803+08:00","pid":"1","name":"kata-agent","source":"agent","subsystem":"root"}"#,
        );
        assert_eq!(
            (record.level.as_str(), record.name.as_deref(), record.pid),
            ("info", Some("kata-agent"), Some(1))
        );
        assert_eq!((record.source.as_deref(), record.data["subsystem"].as_str()), (Some("agent"), "root"));
    }

    #[test]
    fn nothing_of_a_line_is_lost() {
        let record =
            read("time=2026-11-22T07:36:11Z level=info msg=m a=1 a=2 a=3 ts=x pid=none sandbox=s sandbox=t");
        let data: Vec<_> = record.data.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(data, ["a=1", "a_2=2", "a_3=3", "pid=none", "sandbox=t", "ts=x"]);
        assert_eq!(record.sandbox.as_deref(), Some("s"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(problem(b"level=info msg=m"), "the field `time` is missing");
        assert_eq!(problem(b"time=2026-11-22T07:36:11Z msg=m"), "the field `level` is missing");
        assert_eq!(problem(b"time=2026-11-22T07:36:11Z level=info"), "the field `msg` is missing");
        assert_eq!(problem(b"time=noon level=info msg=m"), "`noon` is no time like 2026-11-22T07:36:11.5Z");
        assert_eq!(
            problem(b"time=2026-11-22T07:36:11Z level=loud msg=m"),
            "`loud` is no level like info or warning"
        );
        assert_eq!(problem(b"msg=\xff"), "no UTF-8 text");
    }

    #[test]
    fn fields_may_be_missing_where_that_is_allowed() {
        let (record, at) = Record::read(b"a=1", true).expect("may lack");
        assert_eq!(
            (record.time.as_str(), record.level.as_str(), record.msg.as_str(), at),
            ("", "", "", None)
        );
        assert!(Record::read(b"time=noon", true).is_err());
    }
}
