//! Numbers and words in the kernel's files.

/// Ticks per second of the kernel's clock for processes.
pub(crate) fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// Hundredths of a second as seconds.
pub(crate) fn seconds(ticks: u64) -> String {
    let hundredths = ticks.saturating_mul(100) / ticks_per_second();
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// The first number in a text.
pub(crate) fn first(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// `Name:   number …` per line.
pub(crate) fn colons(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        Some((name.trim(), first(rest)?))
    })
}
