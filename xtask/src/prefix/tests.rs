//! What is put can be removed, and nothing else is.

use std::fs;
use std::path::Path;

use super::{CONFIGURATION, Content, Item, Prefix};

fn items(configuration: &str) -> Vec<Item> {
    let text = |text: &str| Content::Text(text.to_owned());
    vec![
        Item { path: "bin/tool", mode: 0o755, content: text("tool") },
        Item { path: CONFIGURATION, mode: 0o644, content: text(configuration) },
    ]
}

fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(tree(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn removing_restores_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("bin")).unwrap();
    fs::write(directory.path().join("bin/other"), "other").unwrap();
    let before = tree(directory.path());

    let prefix = Prefix::new(directory.path()).unwrap();
    assert_eq!(prefix.put(&items("a = 1")).unwrap().done.len(), 2);
    assert_eq!(prefix.put(&items("a = 1")).unwrap().done.len(), 0);
    assert_eq!(prefix.remove().unwrap().done.len(), 2);
    assert_eq!(tree(directory.path()), before);
}

#[test]
fn a_prefix_that_was_not_there_is_gone_again() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = Prefix::new(&directory.path().join("a/b")).unwrap();
    prefix.put(&items("a = 1")).unwrap();
    prefix.remove().unwrap();
    assert!(!prefix.root().exists());
}

#[test]
fn a_link_is_put_once_and_removed_like_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = Prefix::new(directory.path()).unwrap();
    let items = || vec![Item { path: "bin/alias", mode: 0o777, content: Content::Link("tool") }];
    assert_eq!(prefix.put(&items()).unwrap().done.len(), 1);
    assert_eq!(fs::read_link(prefix.bin().join("alias")).unwrap(), Path::new("tool"));
    assert_eq!(prefix.put(&items()).unwrap().done.len(), 0);
    assert_eq!(prefix.remove().unwrap().done.len(), 1);
    assert!(!prefix.bin().join("alias").is_symlink());
}

#[test]
fn a_changed_configuration_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = Prefix::new(directory.path()).unwrap();
    prefix.put(&items("a = 1")).unwrap();
    assert!(prefix.put(&items("a = 2")).unwrap().kept.is_empty(), "ours may be replaced by ours");

    fs::write(prefix.configuration(), "a = 3").unwrap();
    assert_eq!(prefix.put(&items("a = 4")).unwrap().kept, [prefix.configuration()]);
    assert_eq!(prefix.remove().unwrap().kept, [prefix.configuration()]);
    assert_eq!(
        prefix.put(&items("a = 5")).unwrap().kept,
        [prefix.configuration()],
        "also by a new installation"
    );
    assert_eq!(fs::read_to_string(prefix.configuration()).unwrap(), "a = 3");
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("bin")).unwrap();
    fs::write(directory.path().join("bin/tool"), "tool of another").unwrap();
    let prefix = Prefix::new(directory.path()).unwrap();
    assert!(prefix.put(&items("a = 1")).is_err());
    assert_eq!(fs::read_to_string(directory.path().join("bin/tool")).unwrap(), "tool of another");
}
