//! Names that arrive from outside, checked once.

use std::fmt;
use std::str::FromStr;

/// The longest name that still is a file name.
const MAX_LENGTH: usize = 255;

/// A name that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "{value:?} is no valid {kind}: use 1 to 255 of the characters A-Z a-z 0-9 _ . + -, starting with a letter or digit"
)]
pub(crate) struct InvalidId {
    kind: &'static str,
    value: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub(crate) struct $name(String);

        impl $name {
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(value: &str) -> Result<Self, InvalidId> {
                if is_valid(value) {
                    Ok(Self(value.to_owned()))
                } else {
                    Err(InvalidId { kind: $kind, value: value.to_owned() })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Names a container; also its cgroup and its folders.
    ContainerId,
    "container id"
);
id!(
    /// Names a process that was added to a container.
    ExecId,
    "exec id"
);

impl ContainerId {
    /// Names the process that holds a sandbox's namespaces; no container can have this name.
    pub(crate) fn of_holder() -> Self {
        Self("@holder".to_owned())
    }
}

fn is_valid(value: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
    value.len() <= MAX_LENGTH
        && value.chars().all(allowed)
        && value.chars().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "_agent", "a b"] {
            assert!(name.parse::<ContainerId>().is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn no_container_has_the_name_of_the_holder() {
        assert!(ContainerId::of_holder().as_str().parse::<ContainerId>().is_err());
    }

    #[test]
    fn usual_names_are_accepted() {
        for name in ["a", "1234abcd", "pod_1.web-2"] {
            assert_eq!(name.parse::<ContainerId>().expect("valid").as_str(), name);
        }
    }
}
