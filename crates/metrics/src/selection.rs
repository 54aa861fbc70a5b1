//! Which families a scraper wants.

use crate::family::{Family, Told};

/// How all names begin.
const ALL: &str = "kata_";

/// The word for what is told unasked.
const BRIEF: &str = "brief";

/// The word for all families.
const EVERYTHING: &str = "all";

/// More words than that are no question.
const MAX_WORDS: usize = 64;

/// What cannot be selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The word.
    pub word: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { word } = self;
        write!(
            f,
            "`{word}` selects no family; say `{EVERYTHING}`, or beginnings of names such as `kata_guest`"
        )
    }
}

impl std::error::Error for Refused {}

/// Which families, and how much of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Beginnings of names; none: what is told unasked.
    beginnings: Vec<String>,
    /// What is told unasked, beside these.
    and_brief: bool,
}

impl Selection {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { beginnings: vec![ALL.to_owned()], and_brief: false }
    }

    /// What is told unasked.
    #[must_use]
    pub fn brief() -> Self {
        Self::default()
    }

    /// Families whose names begin with one of these words, whole; `all` is all of them. No word, or `brief`: what is told
    /// unasked, alone or with those.
    ///
    /// # Errors
    /// A word that no name can begin with.
    pub fn of<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self, Refused> {
        let mut beginnings = Vec::new();
        let mut with_brief = false;
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            if word == BRIEF {
                with_brief = true;
                continue;
            }
            let beginning = if word == EVERYTHING { ALL } else { word };
            if !beginning.starts_with(ALL) || beginnings.len() == MAX_WORDS {
                return Err(Refused { word: word.to_owned() });
            }
            beginnings.push(beginning.to_owned());
        }
        let and_brief = with_brief && !beginnings.is_empty();
        Ok(Self { beginnings, and_brief })
    }

    /// Words that [`of`](Self::of) makes it of; at least one.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let brief = self.tells_unasked().then(|| BRIEF.to_owned());
        brief.into_iter().chain(self.beginnings.iter().cloned()).collect()
    }

    /// Whether what is told unasked is wanted, alone or beside something else.
    #[must_use]
    pub fn tells_unasked(&self) -> bool {
        self.beginnings.is_empty() || self.and_brief
    }

    /// Whether it asks for families whose names begin so; never, if nothing was asked for.
    #[must_use]
    pub fn asks_for(&self, beginning: &str) -> bool {
        self.beginnings.iter().any(|word| beginning.starts_with(word.as_str()) || word.starts_with(beginning))
    }

    /// Whether it asks for all of the family of this name.
    pub(crate) fn names(&self, family: &str) -> bool {
        self.beginnings.iter().any(|word| family.starts_with(word.as_str()))
    }

    /// What it wants of a family.
    pub(crate) fn told(&self, family: &Family) -> Told {
        match self.names(family.name) {
            true => Told::Always,
            false if self.tells_unasked() => family.told,
            false => Told::WhenAsked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Family = Family::gauge("kata_guest_load", "", Told::Items("load1"));

    #[test]
    fn without_words_each_family_tells_what_it_tells_unasked() {
        assert_eq!(Selection::of([""]).unwrap().told(&SOME), Told::Items("load1"));
        assert!(!Selection::brief().asks_for("kata_container_"));
        assert_eq!(Selection::of(["brief"]).unwrap(), Selection::brief());
    }

    #[test]
    fn a_family_that_a_word_begins_is_told_whole_and_others_are_not() {
        let selection = Selection::of(["kata_shim_fds", "kata_guest"]).unwrap();
        assert_eq!(selection.told(&SOME), Told::Always);
        assert_eq!(selection.told(&Family::gauge("kata_agent_total_vm", "", Told::Always)), Told::WhenAsked);
        assert!(selection.asks_for("kata_shim_") && selection.asks_for("kata_guest_load"));
        assert!(!selection.asks_for("kata_container_"));
    }

    /// A dashboard needs a family that is not told unasked, and the rest as it is: `brief,NAME` was the same as `NAME`.
    #[test]
    fn a_family_can_be_asked_for_beside_what_is_told_unasked() {
        let selection = Selection::of(["brief", "kata_shim_rpc"]).unwrap();
        let rpc = Family::histogram("kata_shim_rpc_durations", "", Told::WhenAsked);
        let other = Family::gauge("kata_shim_netdev", "", Told::WhenAsked);
        let told = [&SOME, &rpc, &other].map(|family| selection.told(family));
        assert_eq!(told, [Told::Items("load1"), Told::Always, Told::WhenAsked]);
        assert_eq!(selection.words(), ["brief", "kata_shim_rpc"]);
        assert_eq!(Selection::of(selection.words().iter().map(String::as_str)).unwrap(), selection);
        assert!(selection.asks_for("kata_shim_rpc") && !selection.asks_for("kata_guest_"));
    }

    #[test]
    fn all_is_everything() {
        let all = Selection::of(["all"]).unwrap();
        assert_eq!((all.told(&SOME), &all), (Told::Always, &Selection::all()));
        assert!(all.asks_for("kata_container_"));
    }

    #[test]
    fn a_word_that_begins_no_name_is_refused() {
        let refused = Selection::of(["kata_guest", "go_"]).unwrap_err();
        assert!(refused.to_string().contains("`go_` selects no family"), "{refused}");
    }
}
