//! Lengths of time as upstream's tool takes them: nanoseconds, or a number and its unit.

use std::time::Duration;

/// Units and their nanoseconds; those that end in another come first.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("", 1),
];

/// The text is no length of time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no length of time; write a whole number and ns, us, ms, s, m or h, for example 10s")]
pub(crate) struct DurationError(String);

/// `10s`, `250ms`, `99`.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let parsed = UNITS.iter().find_map(|(unit, nanoseconds)| {
        let number = text.strip_suffix(unit)?;
        let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| number.parse::<u64>().ok()?.checked_mul(*nanoseconds)).flatten()
    });
    parsed.map(Duration::from_nanos).ok_or_else(|| DurationError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse;

    #[test]
    fn a_number_has_a_unit_or_is_nanoseconds() {
        let cases = [
            ("0", Duration::ZERO),
            ("99", Duration::from_nanos(99)),
            ("99ns", Duration::from_nanos(99)),
            ("30us", Duration::from_micros(30)),
            ("2ms", Duration::from_millis(2)),
            ("5s", Duration::from_secs(5)),
            ("7m", Duration::from_secs(420)),
            ("1h", Duration::from_secs(3600)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "s", "-1s", "1.5s", "1 s", "1d", "+1s", "99999999999999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
