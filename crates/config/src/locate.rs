//! Which file is the base file, and which drop-ins go with it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::ConfigError as Error;
use crate::request::LoadRequest;

/// The annotations that name a configuration file: the official one, then the seed documents' spelling.
pub(crate) const PATH_ANNOTATIONS: [&str; 2] =
    ["io.katacontainers.config_path", "io.katacontainers.config.config_path"];

/// The base file and who chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) path: PathBuf,
    pub(crate) chosen_by: String,
}

/// Finds the base file: annotation, explicit choice, environment, then the first default place that exists.
pub(crate) fn base(request: &LoadRequest) -> Result<Base, Error> {
    if let Some((name, value)) =
        PATH_ANNOTATIONS.iter().find_map(|name| request.annotations.get_key_value(*name))
    {
        return from_annotation(request, name, Path::new(value));
    }
    let chosen = [
        (&request.explicit, "the command line or the runtime option ConfigPath"),
        (&request.env_conf_file, "KATA_CONF_FILE"),
    ];
    for (path, who) in chosen {
        if let Some(path) = path.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            return Ok(Base { path, chosen_by: who.to_owned() });
        }
    }
    // A place that cannot be looked at counts as there: the read then says why.
    let first = request.search.iter().find(|path| path.try_exists().unwrap_or(true));
    let path = first.ok_or_else(|| Error::NotFound { searched: request.search.clone() })?;
    Ok(Base { path: path.clone(), chosen_by: "the default places".to_owned() })
}

/// A pod may choose among the administrator's files, not bring its own: a file decides which host programs run.
fn from_annotation(request: &LoadRequest, name: &str, path: &Path) -> Result<Base, Error> {
    let chosen_by = format!("the annotation {name}");
    let real = path.canonicalize().map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        chosen_by: chosen_by.clone(),
        source,
    })?;
    let files = request.explicit.iter().chain(&request.env_conf_file).chain(&request.search);
    let allowed: Vec<PathBuf> = files
        .filter_map(|file| Some(file.parent()?.canonicalize().unwrap_or(file.parent()?.to_owned())))
        .collect();
    if !allowed.iter().any(|dir| dir.is_absolute() && real.starts_with(dir)) {
        return Err(Error::OutsideConfigDirs { annotation: name.to_owned(), path: path.to_owned(), allowed });
    }
    Ok(Base { path: real, chosen_by })
}

/// The `*.toml` files of `config.d/` next to the base file, in alphabetical order. Hidden files are left out.
pub(crate) fn drop_ins(base: &Path) -> Result<Vec<PathBuf>, Error> {
    let dir = base.parent().unwrap_or(Path::new("/")).join("config.d");
    let unreadable = |source| Error::Unreadable {
        path: dir.clone(),
        chosen_by: "being next to the base file".to_owned(),
        source,
    };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension() == Some(OsStr::new("toml")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
