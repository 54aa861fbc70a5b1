//! Times as logs write them (RFC 3339), as nanoseconds since 1970.

/// Nanoseconds since 1970 of, for example, `2026-11-22T07:36:11.5+01:00`. A space may stand in place of the `T`.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let (date, time) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes()[10], b'T' | b't' | b' ') {
        return None;
    }
    let day = days(date)?;
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let (clock, fraction) = time.split_once('.').map_or((time, None), |(clock, rest)| (clock, Some(rest)));
    let seconds = i128::from(day) * 86_400 + i128::from(clock_seconds(clock)?) - i128::from(offset(zone)?);
    Some(seconds * 1_000_000_000 + i128::from(fraction.map_or(Some(0), nanoseconds)?))
}

/// The same the other way, in UTC with nanoseconds.
pub(crate) fn format(nanoseconds: i128) -> String {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// Digits and nothing else.
fn number(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// A number with so many digits, in these bounds.
fn part(text: Option<&str>, digits: usize, (least, most): (i64, i64)) -> Option<i64> {
    let text = text.filter(|text| text.len() == digits)?;
    number(text).filter(|number| (least..=most).contains(number))
}

/// Days since 1970 of a date. The year begins in March, so that February's end is the year's.
fn days(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let year = part(parts.next(), 4, (0, 9999))?;
    let month = part(parts.next(), 2, (1, 12))?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    };
    let day = part(parts.next(), 2, (1, length))?;
    if parts.next().is_some() {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// `07:36:11`; a leap second is taken.
fn clock_seconds(clock: &str) -> Option<i64> {
    let mut parts = clock.split(':');
    let hours = part(parts.next(), 2, (0, 23))?;
    let minutes = part(parts.next(), 2, (0, 59))?;
    let seconds = part(parts.next(), 2, (0, 60))?;
    parts.next().is_none().then_some(hours * 3600 + minutes * 60 + seconds)
}

/// What is finer than a nanosecond is dropped.
fn nanoseconds(digits: &str) -> Option<i64> {
    number(digits.get(..digits.len().min(9))?)?;
    let all = digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| number(&format!("{:0<9}", digits.get(..digits.len().min(9))?))).flatten()
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes() {
        b"Z" | b"z" => return Some(0),
        [b'+', ..] => 1,
        _ => -1,
    };
    let mut parts = zone.get(1..)?.split(':');
    let hours = part(parts.next(), 2, (0, 23))?;
    let minutes = part(parts.next(), 2, (0, 59))?;
    parts.next().is_none().then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{format, parse};

    #[test]
    fn times_are_right_at_the_corners_of_the_calendar() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2024-12-31T23:59:59Z", 1_735_689_599),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("1969-12-31T23:59:59Z", -1),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text), Some(seconds * 1_000_000_000), "{text}");
        }
    }

    #[test]
    fn zones_and_fractions_count() {
        let base = parse("2026-11-22T07:36:11Z").expect("a time");
        assert_eq!(parse("2026-11-22T08:36:11+01:00"), Some(base));
        assert_eq!(parse("2026-11-22 02:06:11-05:30"), Some(base));
        assert_eq!(parse("2026-11-22T07:36:11.5Z"), Some(base + 500_000_000));
        assert_eq!(parse("2026-11-22T07:36:11.0000000019Z"), Some(base + 1));
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T07:36:11",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T07:36Z",
            "2026-11-22T07:36:11.Z",
            "2026-11-22T07:36:11.xZ",
            "2026-11-22T07:36:11+1:00",
            "2026-11-22T07:36:11+01",
            "+026-11-22T07:36:11Z",
            "2026-11-22T07:36:11Zz",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read_the_same(time in -62_000_000_000_000_000_000i128..250_000_000_000_000_000_000) {
            prop_assert_eq!(parse(&format(time)), Some(time));
        }

        #[test]
        fn later_is_more(a in 0u32..86_400, b in 0u32..86_400) {
            let at = |s: u32| parse(&format!("2026-03-01T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60));
            prop_assert_eq!(at(a).cmp(&at(b)), a.cmp(&b));
        }
    }
}
