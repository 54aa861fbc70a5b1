//! Rust files of the workspace, read and parsed once for all checks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::spanned::Spanned;

/// One parsed file.
pub(crate) struct Source {
    /// Relative to the workspace.
    pub(crate) path: PathBuf,
    /// As it stands.
    pub(crate) text: String,
    /// Parsed.
    pub(crate) file: syn::File,
}

impl Source {
    /// Every `.rs` file under `root`, sorted; what Git ignores or Cargo builds is not looked at.
    pub(crate) fn read_all(root: &Path) -> Result<Vec<Self>> {
        let mut paths = Vec::new();
        collect(root, &mut paths)?;
        paths.sort();
        let parsed = paths.into_iter().map(|path| {
            let text = fs::read_to_string(&path)?;
            let relative = path.strip_prefix(root)?.to_owned();
            Self::parse(relative, text)
        });
        parsed.collect()
    }

    /// Parses one file.
    pub(crate) fn parse(path: PathBuf, text: String) -> Result<Self> {
        let file = syn::parse_file(&text).with_context(|| format!("{} is no Rust", path.display()))?;
        Ok(Self { path, text, file })
    }

    /// Whether the whole file is a test, by where it lies or what it is called.
    pub(crate) fn is_test(&self) -> bool {
        let mut parts = self.path.iter().map(|part| part.to_string_lossy());
        parts.any(|part| {
            part == "tests" || part == "tests.rs" || part == "testing.rs" || part.ends_with("_tests.rs")
        })
    }
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.');
        if entry.file_type()?.is_dir() {
            // A nested target directory is another workspace's or a fuzzer's.
            if !hidden && name != "target" {
                collect(&path, paths)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// Whether the item is there for tests only.
pub(crate) fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        if path.segments.last().is_some_and(|segment| segment.ident == "test") {
            return true;
        }
        let condition = attribute.meta.require_list().map(|list| list.tokens.to_string());
        path.is_ident("cfg") && condition.is_ok_and(|condition| condition == "test")
    })
}

/// First and last line of anything parsed.
pub(crate) fn lines(of: &impl Spanned) -> (usize, usize) {
    let span = of.span();
    (span.start().line, span.end().line)
}
