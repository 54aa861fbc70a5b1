//! What a family of figures is.

/// How a family's figures behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until what it is about begins anew.
    Counter,
    /// Goes up and down. Upstream calls counters of the kernel so, too, and the type is part of the interface.
    Gauge,
    /// Counts durations by their size.
    Histogram,
}

impl Kind {
    /// As it stands in the text.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What is told of a family to who does not ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Everything.
    Always,
    /// These items, between blanks: one text has one address to be relocated, where a list has many.
    Items(&'static str),
    /// Nothing.
    WhenAsked,
}

impl Told {
    /// Whether an item is told.
    pub(crate) fn has(self, item: &str) -> bool {
        match self {
            Self::Always => true,
            Self::Items(items) => items.split(' ').any(|there| there == item),
            Self::WhenAsked => false,
        }
    }
}

/// A family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its full name.
    pub name: &'static str,
    /// How its figures behave.
    pub kind: Kind,
    /// What it is, with its unit, in a few words.
    pub help: &'static str,
    /// What is told of it unasked.
    pub told: Told,
}

impl Family {
    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, told: Told) -> Self {
        Self { name, kind: Kind::Gauge, help, told }
    }

    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, told: Told) -> Self {
        Self { name, kind: Kind::Counter, help, told }
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str, told: Told) -> Self {
        Self { name, kind: Kind::Histogram, help, told }
    }
}
