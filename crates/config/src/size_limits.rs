//! Limits of sizes for things with names: one for all, and some for single ones.

use std::collections::BTreeMap;

/// The least limit in bytes: a file system with less has no room for files.
const LEAST: u64 = 4 << 20;

/// Suffixes of quantities, as Kubernetes has them.
const UNITS: [(&str, u64); 9] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("", 1),
];

/// Limits in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SizeLimits {
    /// For everything without a limit of its own.
    pub default: Option<u64>,
    /// By name.
    pub named: BTreeMap<String, u64>,
}

impl SizeLimits {
    /// Reads `SIZE` and `NAME=SIZE`. An error continues a sentence that begins with the key.
    pub(crate) fn parse(items: &[String]) -> Result<Self, String> {
        let mut limits = Self::default();
        for item in items {
            let (name, size) = match item.split_once('=') {
                Some((name, size)) => (Some(name.trim()), size.trim()),
                None => (None, item.trim()),
            };
            let bytes = bytes(size).filter(|bytes| (LEAST..=i64::MAX.unsigned_abs()).contains(bytes));
            let (Some(bytes), false) = (bytes, name == Some("")) else {
                return Err(format!("must have sizes of at least 4Mi, as 1Gi or NAME=500Mi, not {item:?}"));
            };
            let before = match name {
                Some(name) => limits.named.insert(name.to_owned(), bytes),
                None => limits.default.replace(bytes),
            };
            if before.is_some() {
                return Err(format!("has two limits for the same, the second one {item:?}"));
            }
        }
        Ok(limits)
    }

    /// These limits with those of `items` in the place of higher ones, as [`SizeLimits::parse`] reads them. An error
    /// continues a sentence.
    pub(crate) fn lowered(self, items: &[String]) -> Result<Vec<String>, String> {
        let given = Self::parse(items)?;
        let named = given.named.iter().map(|(name, size)| (Some(name.as_str()), *size));
        for (name, size) in named.chain(given.default.map(|size| (None, size))) {
            if let Some(most) = self.of(name).filter(|most| size > *most) {
                let of = name.map(|name| format!(" for {name:?}")).unwrap_or_default();
                return Err(format!("must not be more than the configuration's limit of {most} bytes{of}"));
            }
        }
        let default = given.default.or(self.default);
        let mut named = self.named;
        named.extend(given.named);
        let named = named.into_iter().map(|(name, size)| format!("{name}={size}"));
        Ok(default.map(|size| size.to_string()).into_iter().chain(named).collect())
    }

    /// The limit of what has this name, if any.
    #[must_use]
    pub fn of(&self, name: Option<&str>) -> Option<u64> {
        name.and_then(|name| self.named.get(name).copied()).or(self.default)
    }
}

fn bytes(text: &str) -> Option<u64> {
    let (suffix, unit) = UNITS.into_iter().find(|(suffix, _)| text.ends_with(suffix))?;
    let digits = text.strip_suffix(suffix)?;
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::SizeLimits;

    fn parse(items: &[&str]) -> Result<SizeLimits, String> {
        SizeLimits::parse(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_name_has_its_own_limit_or_that_of_all() {
        let limits = parse(&["1Gi", "cache=500M", "tmp=8388608"]).unwrap();
        assert_eq!(limits.of(Some("cache")), Some(500_000_000));
        assert_eq!(limits.of(Some("tmp")), Some(8 << 20));
        assert_eq!((limits.of(Some("other")), limits.of(None)), (Some(1 << 30), Some(1 << 30)));
        let one = parse(&["cache=1Gi"]).unwrap();
        assert_eq!((one.of(Some("other")), one.of(None)), (None, None));
    }

    #[test]
    fn what_is_no_size_is_refused_by_its_words() {
        for item in
            ["", "1", "1Mi", "=1Gi", "cache=", "1.5Gi", "-1Gi", "+8Mi", "8EiB", "99999999Ti", "16777215Ti"]
        {
            let refused = parse(&[item]).unwrap_err();
            assert!(refused.contains(&format!("{item:?}")), "{item}: {refused}");
        }
        assert!(parse(&["1Gi", "2Gi"]).unwrap_err().contains("2Gi"));
        assert!(parse(&["a=1Gi", "a=2Gi"]).unwrap_err().contains("a=2Gi"));
    }
}
