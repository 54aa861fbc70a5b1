//! Names of sandboxes, containers and processes: checked once, at the edge.

use std::fmt;
use std::str::FromStr;

/// The longest name; it becomes part of paths and of a process's arguments.
const MAX_LEN: usize = 128;

/// A name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "The {kind} id {id:?} must begin with a letter or digit and hold at most {MAX_LEN} letters, digits, \
     '.', '_' and '-'"
)]
pub struct IdError {
    kind: &'static str,
    id: String,
}

fn is_valid(id: &str) -> bool {
    id.len() <= MAX_LEN
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

macro_rules! id {
    ($name:ident, $kind:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(id: &str) -> Result<Self, IdError> {
                if is_valid(id) {
                    Ok(Self(id.to_owned()))
                } else {
                    Err(IdError { kind: $kind, id: id.chars().take(MAX_LEN).collect() })
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

id!(SandboxId, "sandbox", "The name of a sandbox (a pod); unique on the host.");
id!(ContainerId, "container", "The name of a container; unique in its sandbox.");
id!(ExecId, "exec", "The name of a process that was added to a container; unique in it.");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ContainerId, SandboxId};

    #[test]
    fn what_could_leave_a_directory_is_no_id() {
        for bad in ["", ".", "..", "a/b", "/", "-a", "_a", ".a", "a b", "a\n", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad:?}");
        }
        for good in ["a", "0", "a..b", "k8s.io_x-1", &"x".repeat(128)] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_one_plain_path_component(id in ".{1,20}") {
            if let Ok(id) = id.parse::<SandboxId>() {
                let path = std::path::Path::new("/run").join(id.as_str());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/run")));
            }
        }
    }
}
