//! What can be wrong with a configuration.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::origin::Origin;

/// Why no configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No file at any of the default places.
    #[error(
        "No configuration file found (looked for {}); install one there, or name one with --config, the runtime option ConfigPath or KATA_CONF_FILE",
        list(.searched)
    )]
    NotFound {
        /// The places, in the order they were tried.
        searched: Vec<PathBuf>,
    },
    /// A file could not be read.
    #[error("Cannot read the configuration file {} (chosen by {chosen_by}); check that it exists and is readable", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who named it.
        chosen_by: String,
        /// The system's reason.
        source: io::Error,
    },
    /// An annotation named a file outside the places that the administrator controls.
    #[error(
        "The annotation {annotation} names {}, which is outside the configuration directories ({}); put the file there",
        path.display(), list(.allowed)
    )]
    OutsideConfigDirs {
        /// The annotation's full name.
        annotation: String,
        /// The file it names.
        path: PathBuf,
        /// The directories it may be in.
        allowed: Vec<PathBuf>,
    },
    /// Values are wrong; all problems are listed at once.
    #[error("{}", problems(.0))]
    Invalid(Vec<Problem>),
}

/// One thing to correct in a file or an annotation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where the wrong value stands.
    pub place: Origin,
    /// What is wrong and what to do, as a sentence.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

fn problems(all: &[Problem]) -> String {
    match all {
        [one] => one.to_string(),
        many => {
            let lines: Vec<String> = many.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("{} problems in the configuration:{}", many.len(), lines.concat())
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
