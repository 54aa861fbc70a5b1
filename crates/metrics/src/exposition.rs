//! The text: families with their figures, in format 0.0.4.

use std::fmt::{Display, Write};

use crate::family::{Family, Told};
use crate::histogram::{BOUNDS_MS, Histogram};
use crate::numbers::first;
use crate::selection::Selection;

/// Who does not ask for a family gets no more figures of it than these, however many devices there are.
pub const BRIEF_SERIES: usize = 48;

/// A text that grows, family by family.
#[derive(Debug)]
pub struct Exposition {
    selection: Selection,
    text: String,
}

impl Exposition {
    /// An empty one for what `selection` wants.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self { selection, text: String::new() }
    }

    /// What is wanted.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    /// Begins a family, if it is wanted. One without figures leaves no trace. Each family comes once.
    pub fn family(&mut self, family: &'static Family) -> Option<Samples<'_>> {
        let told = self.selection.told(family);
        let left = if self.selection.names(family.name) { usize::MAX } else { BRIEF_SERIES };
        (told != Told::WhenAsked).then_some(Samples {
            text: &mut self.text,
            family,
            told,
            left,
            begun: false,
        })
    }

    /// A family of one figure, which is looked for only if it is wanted.
    pub fn one<V: Display>(&mut self, family: &'static Family, value: impl FnOnce() -> Option<V>) {
        if let Some(mut samples) = self.family(family)
            && let Some(value) = value()
        {
            samples.add(&[], value);
        }
    }

    /// A family of histograms, one for each action that has been seen.
    pub fn histograms<'n, 'h>(
        &mut self,
        family: &'static Family,
        all: impl Iterator<Item = (&'n str, &'h Histogram)>,
    ) {
        let Some(mut samples) = self.family(family) else { return };
        for (action, histogram) in all {
            samples.histogram(action, histogram);
        }
    }
}

/// A family's figures, as they are written.
#[derive(Debug)]
pub struct Samples<'t> {
    text: &'t mut String,
    family: &'static Family,
    told: Told,
    left: usize,
    begun: bool,
}

impl Samples<'_> {
    /// Whether an item is wanted.
    #[must_use]
    pub fn wants(&self, item: &str) -> bool {
        self.told.has(item)
    }

    /// Whether all there is is wanted, not only items.
    #[must_use]
    pub fn wants_all(&self) -> bool {
        self.told == Told::Always
    }

    /// A figure by the name of its item, if that is wanted.
    pub fn item(&mut self, item: &str, value: impl Display) {
        if self.wants(item) {
            self.add(&[("item", item)], value);
        }
    }

    /// The figures of one device, or CPU: the wanted ones of these columns, whose names stand between blanks in `items`.
    pub(crate) fn columns(&mut self, label: &str, device: &str, items: &str, columns: &str) {
        for (item, column) in items.split(' ').zip(columns.split_ascii_whitespace()) {
            if self.wants(item)
                && let Some(number) = first(column)
            {
                self.add(&[(label, device), ("item", item)], number);
            }
        }
    }

    /// A figure with labels.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, &value);
    }

    fn histogram(&mut self, action: &str, histogram: &Histogram) {
        let (counts, sum) = histogram.read();
        let mut sum_of_counts = 0_u64;
        for (index, count) in counts.iter().enumerate() {
            sum_of_counts += u64::from(*count);
            let bound = BOUNDS_MS.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.line("_bucket", &[("action", action), ("le", &bound)], &sum_of_counts);
        }
        let micros = u64::try_from(sum.as_micros()).unwrap_or(u64::MAX);
        self.line("_sum", &[("action", action)], &format_args!("{}.{:03}", micros / 1000, micros % 1000));
        self.line("_count", &[("action", action)], &sum_of_counts);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: &dyn Display) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let Family { name, kind, help, .. } = self.family;
        if !self.begun {
            self.begun = true;
            let kind = kind.word();
            // Writing to a string cannot fail.
            let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        self.text.push_str(name);
        self.text.push_str(suffix);
        for (index, (label, word)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(word, self.text);
            self.text.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

/// As label values are written.
fn escape(word: &str, text: &mut String) {
    for character in word.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LOAD: Family = Family::gauge("kata_guest_load", "Load.", Told::Items("load1"));
    static LOADS: Family = LOAD;
    static RARE: Family = Family::counter("kata_shim_rare", "Rare.", Told::WhenAsked);
    static TIMES: Family = Family::histogram("kata_shim_times", "Times.", Told::WhenAsked);

    #[test]
    fn a_family_has_its_head_once_and_only_the_wanted_items() {
        let mut text = Exposition::new(Selection::brief());
        let mut samples = text.family(&LOADS).unwrap();
        samples.item("load1", 0.25);
        samples.item("load5", 1);
        assert!(text.family(&RARE).is_none());
        let wanted = "# HELP kata_guest_load Load.\n# TYPE kata_guest_load gauge\nkata_guest_load{item=\"load1\"} 0.25\n";
        assert_eq!(text.finish(), wanted);
    }

    #[test]
    fn a_family_without_figures_leaves_no_trace() {
        let mut text = Exposition::new(Selection::all());
        text.one(&RARE, || None::<u64>);
        assert!(text.family(&LOADS).is_some());
        assert_eq!(text.finish(), "");
    }

    #[test]
    fn names_of_devices_are_escaped() {
        let mut text = Exposition::new(Selection::all());
        text.family(&RARE).unwrap().add(&[("interface", "a\"b\\c\n"), ("item", "x")], 1);
        assert!(text.finish().ends_with("kata_shim_rare{interface=\"a\\\"b\\\\c\\n\",item=\"x\"} 1\n"));
    }

    #[test]
    fn who_does_not_ask_gets_a_bounded_number_of_figures() {
        for (selection, count) in [(Selection::brief(), BRIEF_SERIES), (Selection::all(), 1000)] {
            let mut text = Exposition::new(selection);
            let mut samples = text.family(&LOADS).unwrap();
            (0..1000).for_each(|_| samples.item("load1", 1));
            assert_eq!(text.finish().lines().filter(|line| !line.starts_with('#')).count(), count);
        }
    }

    #[test]
    fn a_histogram_counts_what_is_as_long_or_shorter() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(1500));
        histogram.record(Duration::from_secs(3600));
        let mut text = Exposition::new(Selection::all());
        text.histograms(&TIMES, [("create", &histogram)].into_iter());
        let text = text.finish();
        for line in [
            "kata_shim_times_bucket{action=\"create\",le=\"1\"} 0",
            "kata_shim_times_bucket{action=\"create\",le=\"2\"} 1",
            "kata_shim_times_bucket{action=\"create\",le=\"8192\"} 1",
            "kata_shim_times_bucket{action=\"create\",le=\"+Inf\"} 2",
            "kata_shim_times_sum{action=\"create\"} 3600001.500",
            "kata_shim_times_count{action=\"create\"} 2",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
    }
}
