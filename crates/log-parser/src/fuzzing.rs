//! For the fuzz targets.

use crate::files;
use crate::format;

/// What is read from any bytes and written as text is read the same.
///
/// # Panics
/// If it is not.
pub fn lines(bytes: &[u8]) {
    let log = files::lines(bytes, "log", true).expect("memory can be read");
    for (at, record) in log.records {
        let text = format::text(&record);
        let again = files::lines(text.as_bytes(), "log", true).expect("memory can be read");
        assert!(again.problems.is_empty(), "{text}: {:?}", again.problems);
        let (at_again, again) = again.records.first().expect("a record has a message");
        assert!(record.time.is_empty() || at == *at_again, "{text}");
        assert_eq!(
            (&record.time, &record.level, &record.msg),
            (&again.time, &again.level, &again.msg),
            "{text}"
        );
        // Names that logfmt cannot hold have changed once, and change no more.
        let text = format::text(again);
        let third = files::lines(text.as_bytes(), "log", true).expect("memory can be read");
        assert_eq!(third.records.first().map(|(_, third)| third), Some(again), "{text}");
    }
}
