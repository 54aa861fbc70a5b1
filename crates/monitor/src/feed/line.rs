//! One event as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::discovery::Sandbox;

/// An event.
#[derive(Debug)]
pub(super) struct Line {
    /// Its name.
    pub(super) event: String,
    /// An object with all about it.
    pub(super) json: String,
}

impl Line {
    /// Something that happened to a sandbox, now.
    pub(super) fn of(event: &str, sandbox: &Sandbox) -> Self {
        Self::with(event, sandbox, Map::new())
    }

    /// What a shim has told of its sandbox; `None` if that is no event.
    pub(super) fn told(text: &str, sandbox: &Sandbox) -> Option<Self> {
        let Value::Object(mut about) = serde_json::from_str(text).ok()? else { return None };
        let event = about.remove("event")?;
        Some(Self::with(event.as_str()?, sandbox, about))
    }

    /// Events that a slow listener did not get.
    pub(super) fn missed(count: u64) -> Self {
        let about = json!({ "time": written(SystemTime::now()), "event": "missed", "count": count });
        Self { event: "missed".to_owned(), json: about.to_string() }
    }

    /// The monitor's words about the sandbox hold, whatever its shim says.
    fn with(event: &str, sandbox: &Sandbox, mut about: Map<String, Value>) -> Self {
        // No name of an event has a line's end: it stands in a line of its own.
        let event: String = event.chars().filter(|c| !c.is_control()).collect();
        about.entry("time").or_insert_with(|| written(SystemTime::now()).into());
        about.insert("event".to_owned(), event.clone().into());
        about.insert("sandbox_id".to_owned(), (*sandbox.id).into());
        for name in ["cri_uid", "cri_name", "cri_namespace"] {
            about.remove(name);
        }
        if let Some(pod) = &sandbox.pod {
            about.insert("cri_uid".to_owned(), pod.uid.clone().into());
            about.insert("cri_name".to_owned(), pod.name.clone().into());
            about.insert("cri_namespace".to_owned(), pod.namespace.clone().into());
        }
        Self { event, json: Value::Object(about).to_string() }
    }
}

/// As in RFC 3339, in UTC.
pub(crate) fn written(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Year, month and day of a day since 1970.
fn date(mut day: u64) -> (u64, u64, u64) {
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::written;

    #[test]
    fn a_time_is_written_as_in_rfc_3339() {
        let at = |seconds, ms: u32| written(UNIX_EPOCH + Duration::new(seconds, ms * 1_000_000));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399, 7), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_868_799, 0), "2000-02-29T23:59:59.000Z");
        assert_eq!(at(1_798_761_599, 999), "2026-12-31T23:59:59.999Z");
    }
}
