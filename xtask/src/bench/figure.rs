//! Figures, their bars, and how they are shown.

use std::fmt;

use serde_json::{Map, json};

/// What a figure must not cross.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    /// Good is small.
    AtMost(f64),
    /// Good is large.
    AtLeast(f64),
    /// Shown to explain the others.
    None,
}

struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    bar: Bar,
}

impl Figure {
    fn ok(&self) -> bool {
        match self.bar {
            Bar::AtMost(most) => self.value <= most,
            Bar::AtLeast(least) => self.value >= least,
            Bar::None => true,
        }
    }
}

/// All figures of a run, in the order they were measured.
#[derive(Default)]
pub(crate) struct Figures {
    all: Vec<Figure>,
}

impl Figures {
    /// Adds a figure; ratios and counts have no unit.
    pub(crate) fn add(&mut self, name: &'static str, value: f64, unit: &'static str, bar: Bar) {
        self.all.push(Figure { name, value, unit, bar });
    }

    /// Names of the figures that miss their bar.
    pub(crate) fn missed(&self) -> Vec<&'static str> {
        self.all.iter().filter(|figure| !figure.ok()).map(|figure| figure.name).collect()
    }

    /// One object: name → `{value, unit, bar, ok}`; the bar is `null` where there is none.
    pub(crate) fn json(&self) -> String {
        let shown = |figure: &Figure| {
            let bar = match figure.bar {
                Bar::AtMost(bar) | Bar::AtLeast(bar) => Some(bar),
                Bar::None => None,
            };
            let value = json!({ "value": figure.value, "unit": figure.unit, "bar": bar, "ok": figure.ok() });
            (figure.name.to_owned(), value)
        };
        let object: Map<_, _> = self.all.iter().map(shown).collect();
        format!("{:#}\n", serde_json::Value::Object(object))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22} {:>10} {:<6} {:>10}", "figure", "value", "unit", "bar")?;
        for figure in &self.all {
            let (bar, verdict) = match figure.bar {
                Bar::AtMost(bar) => (format!("<= {bar}"), if figure.ok() { "ok" } else { "MISSED" }),
                Bar::AtLeast(bar) => (format!(">= {bar}"), if figure.ok() { "ok" } else { "MISSED" }),
                Bar::None => (String::new(), ""),
            };
            writeln!(
                f,
                "{:<22} {:>10.3} {:<6} {bar:>10}  {verdict}",
                figure.name, figure.value, figure.unit
            )?;
        }
        Ok(())
    }
}

/// The middle of the values, of which there is at least one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    f64::midpoint(values[low], values[high])
}

/// Bytes as mebibytes.
pub(crate) fn mib(bytes: u64) -> f64 {
    const KIB: u64 = 1024;
    // Whole kibibytes fit exactly into both types.
    f64::from(u32::try_from(bytes / KIB).unwrap_or(u32::MAX)) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn json_has_value_unit_bar_and_verdict() {
        let mut figures = Figures::default();
        figures.add("slow", 2.0, "s", Bar::AtMost(1.5));
        figures.add("info", 7.0, "", Bar::None);
        let json: serde_json::Value = serde_json::from_str(&figures.json()).unwrap();
        assert_eq!(json["slow"], json!({ "value": 2.0, "unit": "s", "bar": 1.5, "ok": false }));
        assert_eq!(json["info"], json!({ "value": 7.0, "unit": "", "bar": null, "ok": true }));
        assert_eq!(figures.missed(), ["slow"]);
    }
}
