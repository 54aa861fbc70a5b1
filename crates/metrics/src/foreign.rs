//! Another program's text: a guest's, which is not trusted, or one in more words than were asked for. Only what is well-formed,
//! not too much, and theirs to tell is taken; the rest is left out without a word, as there is nobody to tell.

use std::collections::HashSet;

use crate::exposition::BRIEF_SERIES;
use crate::families::{GUEST, GUEST_FAMILIES, agent};
use crate::family::{Family, Kind, Told};
use crate::selection::Selection;

/// The agent's names begin so.
const AGENT: &str = "kata_agent_";

/// Labels that collectors add: not the guest's to tell.
const COLLECTORS: [&str; 4] = ["sandbox_id", "cri_uid", "cri_name", "cri_namespace"];

/// The most that a guest may say unasked, and when everything is asked for.
const BRIEF_BYTES: usize = 6 << 10;
const ALL_BYTES: usize = 256 << 10;

/// The most of a help text, and of a figure's labels.
const HELP_BYTES: usize = 200;
const LABELS_BYTES: usize = 512;

/// The families of `text` that a guest's agent may tell and `selection` wants, in normal form.
#[must_use]
pub fn admit(text: &str, selection: &Selection) -> String {
    let asked = [AGENT, GUEST].iter().any(|theirs| selection.asks_for(theirs));
    let limit = if asked { ALL_BYTES } else { BRIEF_BYTES };
    let mut admitted = Admitted { selection, limit, seen: HashSet::new(), text: String::new() };
    let mut help = None;
    let mut current: Option<Current<'_>> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            admitted.close(current.take());
            current = admitted.open(rest, help.take());
        } else if let Some(current) = &mut current {
            current.take(line);
        }
    }
    admitted.close(current);
    admitted.text
}

struct Admitted<'s> {
    selection: &'s Selection,
    limit: usize,
    seen: HashSet<String>,
    text: String,
}

/// A family that is being read.
struct Current<'t> {
    name: &'t str,
    is_histogram: bool,
    told: Told,
    series: HashSet<&'t str>,
    most: usize,
    text: String,
}

impl Admitted<'_> {
    /// A family begins with `name kind`.
    fn open<'t>(&mut self, rest: &'t str, help: Option<(&'t str, &'t str)>) -> Option<Current<'t>> {
        let (name, kind) = rest.split_once(' ')?;
        let is_theirs = [AGENT, GUEST].iter().any(|theirs| name.starts_with(theirs));
        let is_kind = ["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind);
        if !is_theirs || !is_kind || !is_name(name) {
            return None;
        }
        let known = known(name);
        // Collectors have one kind for a family of all pods: what is known is not for one guest to tell.
        let kind = known.map_or(kind, |family| family.kind.word());
        let told = self.told(name, known);
        if told == Told::WhenAsked || !self.seen.insert(name.to_owned()) {
            return None;
        }
        let help = help.filter(|(of, words)| *of == name && is_text(words)).map_or("", |(_, words)| words);
        let end = help.char_indices().nth(HELP_BYTES).map_or(help.len(), |(end, _)| end);
        let help = if help.is_empty() { "Told by the guest." } else { &help[..end] };
        let most = if self.selection.names(name) { usize::MAX } else { BRIEF_SERIES };
        let text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let is_histogram = [Kind::Histogram.word(), "summary"].contains(&kind);
        Some(Current { name, is_histogram, told, series: HashSet::new(), most, text })
    }

    /// What is wanted of a family.
    fn told(&self, name: &str, known: Option<&Family>) -> Told {
        match known {
            Some(family) => self.selection.told(family),
            None if self.selection.asks_for(name) => Told::Always,
            None => Told::WhenAsked,
        }
    }

    fn close(&mut self, current: Option<Current<'_>>) {
        if let Some(current) = current
            && !current.series.is_empty()
            && self.text.len() + current.text.len() <= self.limit
        {
            self.text.push_str(&current.text);
        }
    }
}

/// The agent's family or the guest's that has this name.
fn known(name: &str) -> Option<&'static Family> {
    let mut known = agent().iter().map(|(_, family)| family).chain(&GUEST_FAMILIES);
    known.find(|family| family.name == name)
}

impl<'t> Current<'t> {
    /// A line with a figure, if it is one of this family.
    fn take(&mut self, line: &'t str) {
        let Some((series, value)) = line.trim_end().rsplit_once(' ') else { return };
        let series = series.trim_end();
        let Some(rest) = series.strip_prefix(self.name) else { return };
        let suffixes: &[&str] = if self.is_histogram { &["_bucket", "_sum", "_count"] } else { &[] };
        let labels = suffixes.iter().find_map(|suffix| rest.strip_prefix(suffix)).unwrap_or(rest);
        let Some(labels) = read_labels(labels) else { return };
        let item = labels.iter().find(|(name, _)| *name == "item").map(|(_, value)| *value);
        let wanted = item.is_none_or(|item| self.told.has(item));
        if wanted && is_number(value) && self.series.len() < self.most && self.series.insert(series) {
            self.text.push_str(series);
            self.text.push(' ');
            self.text.push_str(value);
            self.text.push('\n');
        }
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 128 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_text(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// As Go reads them, but nothing odd. Digits that make more than a number can be are an error there, not infinity.
fn is_number(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let is_finite = || value.parse().is_ok_and(f64::is_finite);
    ["+Inf", "-Inf", "NaN"].contains(&value) || (value.bytes().all(plain) && is_finite())
}

/// `{name="value",…}`, or nothing; `None` if it is neither.
fn read_labels(text: &str) -> Option<Vec<(&str, &str)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    if text.len() > LABELS_BYTES || !is_text(text) {
        return None;
    }
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut labels: Vec<(&str, &str)> = Vec::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"")?;
        let end = end_of_value(after)?;
        let is_new = is_name(name) && !name.is_empty() && labels.iter().all(|(there, _)| *there != name);
        let is_others = name.starts_with("__") || COLLECTORS.contains(&name);
        if !is_new || is_others || name.as_bytes()[0].is_ascii_digit() {
            return None;
        }
        labels.push((name, &after[..end]));
        rest = &after[end + 1..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?;
        }
    }
    Some(labels)
}

/// Where the quotation mark is that ends a value; `None` if there is none or it has a wrong escape.
fn end_of_value(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(index),
            b'\\' if !matches!(bytes.next(), Some((_, b'\\' | b'"' | b'n'))) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> String {
        admit(text, &Selection::all())
    }

    #[test]
    fn what_is_well_formed_is_taken_as_it_is() {
        let text = "# HELP kata_guest_load Load.\n# TYPE kata_guest_load gauge\nkata_guest_load{item=\"load1\"} 0.25\n# HELP kata_agent_odd It's \\\\ odd.\n# TYPE kata_agent_odd counter\nkata_agent_odd{a=\"x\\\"},y\",b=\"\"} 1e3\nkata_agent_odd NaN\n";
        assert_eq!(all(text), text);
    }

    #[test]
    fn a_guest_cannot_speak_for_the_host() {
        let text = "# TYPE kata_shim_fds gauge\nkata_shim_fds 7\n# TYPE up gauge\nup 1\n";
        assert_eq!(all(text), "");
        let smuggled =
            "# TYPE kata_guest_load gauge\nkata_guest_load 1\nkata_shim_fds 7\nkata_guest_load_x 2\n";
        assert_eq!(all(smuggled).lines().last(), Some("kata_guest_load 1"));
    }

    #[test]
    fn what_is_no_figure_is_left_out() {
        for wrong in [
            "kata_guest_load{item=\"a} 1",
            "kata_guest_load{item=\"a\\x\"} 1",
            "kata_guest_load{item=\"a\",item=\"b\"} 1",
            "kata_guest_load{item=\"a\" item2=\"b\"} 1",
            "kata_guest_load{1=\"a\"} 1",
            "kata_guest_load{__name__=\"up\"} 1",
            "kata_guest_load{sandbox_id=\"another\"} 1",
            "kata_guest_load{item=\"a\"} one",
            "kata_guest_load{item=\"a\"} infinity",
            // Rust reads infinity; Go refuses it, and Prometheus the scrape of the whole node with it.
            "kata_guest_load{item=\"a\"} 1e999",
            "kata_guest_load{item=\"a\"} -1e999",
            "kata_guest_load{item=\"a\"} 1 1700000000000",
            "kata_guest_load",
            "nonsense",
        ] {
            let text = format!("# TYPE kata_guest_load gauge\n{wrong}\n");
            assert_eq!(all(&text), "", "{wrong}");
        }
    }

    /// The monitor has one kind for a family of all pods: a guest that called its load a counter took the figures of others
    /// away.
    #[test]
    fn the_kind_of_a_known_family_is_not_the_guests_to_tell() {
        for kind in ["counter", "histogram", "untyped"] {
            let text = format!("# TYPE kata_guest_load {kind}\nkata_guest_load{{item=\"load1\"}} 1\n");
            let taken = all(&text);
            assert!(
                taken.contains("# TYPE kata_guest_load gauge\nkata_guest_load{item=\"load1\"} 1\n"),
                "{taken}"
            );
        }
        let counter = all(
            "# TYPE kata_agent_process_cpu_seconds_total gauge\nkata_agent_process_cpu_seconds_total 1\n",
        );
        assert!(counter.contains("# TYPE kata_agent_process_cpu_seconds_total counter\n"), "{counter}");
    }

    #[test]
    fn nothing_is_told_twice() {
        let family = "# TYPE kata_guest_load gauge\nkata_guest_load 1\nkata_guest_load 2\n";
        let taken = all(&format!("{family}{family}"));
        assert_eq!(taken.matches("# TYPE").count(), 1, "{taken}");
        assert_eq!(taken.matches("\nkata_guest_load ").count(), 1, "{taken}");
    }

    #[test]
    fn unasked_only_known_items_are_taken_and_no_flood() {
        let mut text = "# TYPE kata_guest_netdev_stat gauge\n".to_owned();
        for number in 0..10_000 {
            text += &format!("kata_guest_netdev_stat{{interface=\"e{number}\",item=\"recv_bytes\"}} 1\n");
            text += &format!("kata_guest_netdev_stat{{interface=\"e{number}\",item=\"recv_fifo\"}} 1\n");
        }
        text += "# TYPE kata_agent_new gauge\nkata_agent_new 1\n";
        let taken = admit(&text, &Selection::brief());
        assert_eq!(taken.matches("recv_bytes").count(), BRIEF_SERIES);
        assert!(!taken.contains("recv_fifo") && !taken.contains("kata_agent_new"), "{taken}");
        assert!(all(&text).len() <= ALL_BYTES);
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_each_line_is_of_its_families(text in "(# TYPE kata_guest_load gauge\n)?(kata_guest_load(\\{[a-z_]{0,4}=?\"?[^\n]{0,8}\"?\\})? ?[0-9.a-zN+]{0,4}\n|[^\n]{0,20}\n){0,8}") {
            let taken = all(&text);
            prop_assert_eq!(all(&taken), taken.clone());
            for line in taken.lines() {
                prop_assert!(line.starts_with("# HELP kata_guest_load ") || line.starts_with("# TYPE kata_guest_load ") || line.starts_with("kata_guest_load"));
            }
        }
    }
}
