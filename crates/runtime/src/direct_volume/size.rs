//! Sizes as Kubernetes writes quantities: `1073741824`, `1Gi`, `1.5G`.

use std::str::FromStr;

/// A number of bytes, more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

/// It is no size.
#[derive(Debug, thiserror::Error)]
#[error("give whole bytes, or a number with k, M, G, T, P or Ki, Mi, Gi, Ti, Pi, such as 8Gi")]
pub(super) struct NoSize;

const UNITS: [(&str, u64); 11] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

impl FromStr for Bytes {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<Self, NoSize> {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .expect("every text ends with nothing");
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || fraction.len() > 9 {
            return Err(NoSize);
        }
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| NoSize)?);
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| NoSize)?;
        // As Kubernetes does, a part of a byte becomes a whole one.
        let bytes = digits.checked_mul(unit.into()).ok_or(NoSize)?.div_ceil(scale);
        u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).map(Self).ok_or(NoSize)
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn sizes_are_quantities_of_kubernetes() {
        for (text, bytes) in [
            ("123123", 123_123),
            ("8Gi", 8 << 30),
            ("1.5Gi", 3 << 29),
            ("2k", 2000),
            ("10M", 10_000_000),
            ("0.1", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "+1",
            "Gi",
            "1 Gi",
            "8GB",
            "1e3",
            "1.2.3",
            ".5G",
            "18446744073709551616",
            "99999P",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
