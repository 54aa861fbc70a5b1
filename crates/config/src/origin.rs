//! Where each effective value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::value::Value;

/// Where a value came from.
///
/// The order is that of precedence, then of lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The base file.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the value, from 1.
        line: usize,
    },
    /// A file in `config.d/`.
    DropIn {
        /// The file.
        path: PathBuf,
        /// The line of the value, from 1.
        line: usize,
    },
    /// An annotation of the sandbox.
    Annotation {
        /// The annotation's full name.
        name: String,
    },
    /// Computed here.
    Derived {
        /// From what, and how.
        from: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } | Self::DropIn { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Annotation { name } => write!(f, "annotation {name}"),
            Self::Derived { from } => write!(f, "derived: {from}"),
        }
    }
}

/// One effective value and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The value in effect.
    pub value: Value,
    /// Who gave it.
    pub origin: Origin,
}

/// Every honoured key, by its full name (`hypervisor.qemu.path`), with its [`Setting`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Sources(pub(crate) BTreeMap<String, Setting>);

impl Sources {
    /// All settings, ordered by full name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    /// The setting of one key, by its full name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Setting> {
        self.0.get(key)
    }
}
