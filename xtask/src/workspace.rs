//! Where things lie: this clone, its build directory, and the cache shared by all clones of a user.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process;
use crate::progress::Progress;

/// The directories every command works with.
pub(crate) struct Workspace {
    /// The clone this binary was built from.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// `$KATA_BUILD_CACHE`, else `$XDG_CACHE_HOME/kata-containers`, else `~/.cache/kata-containers`.
    pub(crate) cache: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

impl Workspace {
    /// Finds the directories and makes the cache.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no workspace")?;
        if !root.join("Cargo.toml").is_file() {
            bail!("{} is gone: run `cargo xtask` in the clone again so that it is rebuilt", root.display());
        }
        let mut cargo = cargo(root);
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata: Metadata = serde_json::from_slice(&process::output(&mut cargo)?)?;
        let cache = cache_directory()?;
        fs::create_dir_all(&cache).with_context(|| format!("Cannot make the cache {}", cache.display()))?;
        Ok(Self { root: root.to_owned(), target: metadata.target_directory, cache })
    }

    /// Cargo, as it was called for us, in this clone.
    pub(crate) fn cargo(&self) -> Command {
        cargo(&self.root)
    }

    /// The prefix into which everything is put for demo, tests and measurements.
    pub(crate) fn stage(&self) -> PathBuf {
        self.target.join("stage")
    }

    /// A log file for a step with many lines of output; the directory exists afterwards.
    pub(crate) fn log(&self, name: &str) -> Result<PathBuf> {
        let directory = self.cache.join("log");
        fs::create_dir_all(&directory)?;
        Ok(directory.join(format!("{name}.log")))
    }

    /// Holds the cache's lock for `what` until the result is dropped, so that two clones build it once.
    pub(crate) fn lock(&self, what: &str, progress: &Progress) -> Result<File> {
        let path = self.cache.join(format!(".{what}.lock"));
        let file = File::create(&path).with_context(|| format!("Cannot make {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(e).context("Cannot lock the cache"),
        }
        progress.line(what, "waiting for another cargo xtask that makes it");
        file.lock()?;
        Ok(file)
    }
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    // What Cargo told this package about itself must not reach the builds of others.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n == "CARGO_MANIFEST_DIR") {
            command.env_remove(name);
        }
    }
    command
}

fn cache_directory() -> Result<PathBuf> {
    if let Some(own) = std::env::var_os("KATA_BUILD_CACHE") {
        return Ok(std::path::absolute(own)?);
    }
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(xdg) if Path::new(&xdg).is_absolute() => PathBuf::from(xdg),
        _ => std::env::home_dir().context("No home directory: set KATA_BUILD_CACHE")?.join(".cache"),
    };
    Ok(base.join("kata-containers"))
}
