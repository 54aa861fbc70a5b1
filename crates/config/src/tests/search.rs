//! Which file is read.

use std::fs;
use std::path::PathBuf;

use super::Tree;
use crate::{Error, LoadRequest};

const BASE: &str = "[hypervisor.qemu]\ndefault_memory = 111\n";

#[test]
fn explicit_beats_environment_beats_default_places() {
    let (a, b, c) = (Tree::new(BASE), Tree::new(BASE), Tree::new(BASE));
    let mut request = LoadRequest {
        explicit: Some(a.path()),
        env_conf_file: Some(b.path()),
        search: vec![PathBuf::from("/nonexistent/configuration.toml"), c.path()],
        ..LoadRequest::default()
    };
    assert_eq!(crate::load(&request).unwrap().path, a.path());
    request.explicit = None;
    assert_eq!(crate::load(&request).unwrap().path, b.path());
    request.env_conf_file = Some(PathBuf::new());
    assert_eq!(crate::load(&request).unwrap().path, c.path());
}

#[test]
fn a_named_file_that_is_missing_is_an_error_and_nothing_else_is_tried() {
    let tree = Tree::new(BASE);
    let request = LoadRequest {
        env_conf_file: Some(PathBuf::from("/nonexistent/k.toml")),
        search: vec![tree.path()],
        ..LoadRequest::default()
    };
    let error = crate::load(&request).unwrap_err();
    insta::assert_snapshot!(error, @"Cannot read the configuration file /nonexistent/k.toml (chosen by KATA_CONF_FILE); check that it exists and is readable");
}

#[test]
fn no_file_anywhere_lists_the_places() {
    let search = vec![PathBuf::from("/nonexistent/a.toml"), PathBuf::from("/nonexistent/b.toml")];
    let error = crate::load(&LoadRequest { search, ..LoadRequest::default() }).unwrap_err();
    insta::assert_snapshot!(error, @"No configuration file found (looked for /nonexistent/a.toml, /nonexistent/b.toml); install one there, or name one with --config, the runtime option ConfigPath or KATA_CONF_FILE");
}

#[test]
fn an_annotation_chooses_among_the_administrators_files() {
    for name in ["io.katacontainers.config_path", "io.katacontainers.config.config_path"] {
        let tree = Tree::new(BASE);
        let other = tree.write("configuration-other.toml", "[hypervisor.qemu]\ndefault_memory = 222\n");
        let config = tree.annotated(&[(name, other.to_str().unwrap())]).unwrap();
        assert_eq!(config.hypervisor.default_memory_mib, 222, "{name}");
    }
}

#[test]
fn an_annotation_cannot_bring_its_own_file() {
    let tree = Tree::new(BASE);
    let foreign = Tree::new(BASE);
    let through_dots = format!("{}/../{}/configuration.toml", tree.dir.path().display(), {
        foreign.dir.path().file_name().unwrap().to_str().unwrap()
    });
    let link = tree.dir.path().join("link.toml");
    std::os::unix::fs::symlink(foreign.path(), &link).unwrap();
    for path in [foreign.path(), through_dots.into(), link] {
        let result = tree.annotated(&[("io.katacontainers.config_path", path.to_str().unwrap())]);
        assert!(matches!(result, Err(Error::OutsideConfigDirs { .. })), "{path:?}");
    }
}

#[test]
fn an_unreadable_drop_in_directory_is_an_error() {
    let tree = Tree::new(BASE);
    fs::write(tree.dir.path().join("config.d"), "a file").unwrap();
    assert!(matches!(tree.load(), Err(Error::Unreadable { .. })));
}
