//! `metrics`, against a sandbox that is no more than a socket.

use std::fs;
use std::os::unix::net::UnixListener;

use crate::network::sandbox;
use crate::tree::Tree;

/// The first line of the request that these words make.
fn asked(words: &[&str]) -> String {
    let tree = Tree::complete();
    let asked = sandbox(&tree, "200 OK", "kata_shim_fds 7\n");
    let printed = tree.run(&[&["metrics", "abc"], words].concat());
    assert_eq!((printed.code, printed.stdout.as_str()), (0, "kata_shim_fds 7\n"), "{}", printed.stderr);
    asked.join().unwrap().lines().next().unwrap().to_owned()
}

#[test]
fn the_text_is_printed_as_it_is() {
    assert_eq!(asked(&[]), "GET /metrics HTTP/1.1");
}

#[test]
fn more_is_told_to_who_asks() {
    assert_eq!(asked(&["--all"]), "GET /metrics?families=all HTTP/1.1");
    let some = asked(&["--families", "kata_guest,kata_shim", "--families=kata_agent"]);
    assert_eq!(some, "GET /metrics?families=kata%5Fguest%2Ckata%5Fshim%2Ckata%5Fagent HTTP/1.1");
}

#[test]
fn a_refusal_is_the_sandboxs_own_words() {
    let tree = Tree::complete();
    let asked = sandbox(&tree, "400 Bad Request", "`go_` selects no family\n");
    let printed = tree.run(&["metrics", "abc", "--families", "go_"]);
    asked.join().unwrap();
    assert_eq!((printed.code, printed.stderr.as_str()), (1, "kata-runtime: `go_` selects no family\n"));
}

#[test]
fn dead_and_unknown_sandboxes_are_told_apart() {
    let tree = Tree::complete();
    fs::create_dir_all(tree.path("state/abc123")).unwrap();
    // Nobody listens any more.
    drop(UnixListener::bind(tree.path("state/abc123/shim-monitor.sock")).unwrap());
    let dead = tree.run(&["metrics", "abc"]);
    assert!(dead.code == 1 && dead.stderr.contains("abc123 does not run (any more)"), "{}", dead.stderr);
    let unknown = tree.run(&["metrics", "xyz"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("No sandbox in"), "{}", unknown.stderr);
}
