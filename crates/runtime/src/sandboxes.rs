//! Lists the sandboxes of this host, and finds one by a beginning of its id.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// No one sandbox is meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    /// The state directory cannot be listed.
    #[error("Cannot list the sandboxes in {}; are you root, and is --root right?", root.display())]
    Root {
        /// The directory of the sandboxes' state.
        root: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No sandbox has such an id.
    #[error(
        "No sandbox in {} has an id that begins with `{id}`; it is there as long as it runs ({there})",
        root.display()
    )]
    Unknown {
        /// The directory of the sandboxes' state.
        root: PathBuf,
        /// What was asked for.
        id: String,
        /// The sandboxes that are there, as a phrase.
        there: String,
    },
    /// Several have.
    #[error("`{id}` is the beginning of several ids: {}; give more of it", all.join(", "))]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// Those that begin with it.
        all: Vec<String>,
    },
}

/// The sandbox whose id is, or alone begins with, `id`.
pub(crate) fn full_id(root: &Path, id: &str) -> Result<String, FindError> {
    let ids = all(root)?;
    if ids.iter().any(|there| there == id) {
        return Ok(id.to_owned());
    }
    let mut matching: Vec<String> = ids.iter().filter(|there| there.starts_with(id)).cloned().collect();
    match (matching.pop(), matching.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            matching.push(last);
            Err(FindError::Ambiguous { id: id.to_owned(), all: matching })
        }
        (None, _) => {
            let there = if ids.is_empty() {
                "there is none now".to_owned()
            } else {
                format!("now: {}", ids.join(", "))
            };
            Err(FindError::Unknown { root: root.to_owned(), id: id.to_owned(), there })
        }
    }
}

/// All sandboxes, dead ones too, by name.
pub(crate) fn all(root: &Path) -> Result<Vec<String>, FindError> {
    let mut ids = list(root).map_err(|source| FindError::Root { root: root.to_owned(), source })?;
    ids.sort();
    Ok(ids)
}

/// The names of the directories in `root`; none if it does not exist yet.
fn list(root: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
            names.push(name);
        }
    }
    Ok(names)
}
