//! Whole loads from temporary trees.

mod annotations;
mod errors;
mod layers;
mod memory;
mod search;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Config, Error, LoadRequest};

/// A directory with a base file and drop-ins, removed at the end of the test.
struct Tree {
    dir: TempDir,
}

impl Tree {
    fn new(base: &str) -> Self {
        let tree = Self { dir: TempDir::new().unwrap() };
        tree.write("configuration.toml", base);
        tree
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn with(self, name: &str, text: &str) -> Self {
        self.write(name, text);
        self
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("configuration.toml")
    }

    fn request(&self) -> LoadRequest {
        LoadRequest {
            explicit: Some(self.path()),
            search: Vec::new(),
            host_cpus: 4,
            host_memory_mib: 16_384,
            ..LoadRequest::default()
        }
    }

    fn load(&self) -> Result<Config, Error> {
        crate::load(&self.request())
    }

    fn annotated(&self, annotations: &[(&str, &str)]) -> Result<Config, Error> {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        crate::load(&LoadRequest { annotations: annotations.collect(), ..self.request() })
    }

    /// An error's text with the temporary directory taken out.
    fn text(&self, result: Result<Config, Error>) -> String {
        let error = result.expect_err("the configuration is wrong");
        error.to_string().replace(&shown(self.dir.path()), "/etc/kata-containers")
    }
}

fn shown(path: &Path) -> String {
    path.canonicalize().unwrap().display().to_string()
}

fn origin(config: &Config, key: &str) -> String {
    config.sources.get(key).unwrap().origin.to_string()
}
