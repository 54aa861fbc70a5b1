//! The checks find what they are for.

use std::path::PathBuf;

use super::arrows::{Package, wrong_arrows};
use super::hosts::hosts_in;
use super::source::Source;
use super::{documents, headers, modules, sizes};

fn source(path: &str, text: &str) -> Source {
    Source::parse(PathBuf::from(path), text.to_owned()).unwrap()
}

fn function(lines: usize) -> String {
    format!("//! x\nfn f() {{\n{}}}\n", "    f();\n".repeat(lines - 2))
}

#[test]
fn a_function_over_the_bar_is_named_with_its_line() {
    let findings = sizes::check(&[source("a/src/lib.rs", &function(81))]);
    assert_eq!(findings[0], "a/src/lib.rs:2 f has 81 lines, more than 80");
    assert!(sizes::check(&[source("a/src/lib.rs", &function(30))]).is_empty());
}

#[test]
fn tests_are_not_measured() {
    let inside = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", function(900).replace("//! x\n", ""));
    assert!(sizes::check(&[source("a/src/lib.rs", &inside)]).is_empty());
    assert!(sizes::check(&[source("a/src/b/tests.rs", &function(900))]).is_empty());
    assert!(sizes::check(&[source("tests/e2e/src/lib.rs", &function(900))]).is_empty());
}

#[test]
fn long_files_and_long_lists_of_parameters_are_named() {
    let findings = sizes::check(&[source("a/src/lib.rs", &"//! x\n".repeat(701))]);
    assert_eq!(findings[0], "a/src/lib.rs has 701 lines, more than 700");
    let six = "impl A { fn f(&self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8) {} }";
    assert_eq!(sizes::check(&[source("b.rs", six)]), ["b.rs:1 f takes 6 parameters, more than 5"]);
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    assert_eq!(sizes::percentile(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 90), 9);
    assert_eq!(sizes::percentile(&[5], 99), 5);
    assert_eq!(sizes::percentile(&[], 99), 0);
}

#[test]
fn files_outside_every_module_are_orphans() {
    let sources = [
        source("a/build.rs", ""),
        source("a/src/lib.rs", "mod b; mod c { mod d; } #[path = \"odd/e.rs\"] mod e;"),
        source("a/src/b/mod.rs", "mod f;"),
        source("a/src/b/f.rs", ""),
        source("a/src/c/d.rs", ""),
        source("a/src/odd/e.rs", ""),
        source("a/src/lost.rs", "mod b;"),
        source("a/tests/big/main.rs", "mod part;"),
        source("a/tests/big/part.rs", ""),
        source("a/tests/whole.rs", "mod part;"),
        source("a/tests/part/mod.rs", ""),
    ];
    assert_eq!(modules::orphans(&sources), ["a/src/lost.rs belongs to no module"]);
}

#[test]
fn a_file_without_a_header_is_named() {
    assert_eq!(headers(&[source("a.rs", "fn f() {}")]), ["a.rs does not start with `//!`"]);
    let sys = "#![expect(unsafe_code, reason = \"x\")]\n//! What for.\n";
    assert!(headers(&[source("sys.rs", sys), source("b.rs", "//! What for.\n")]).is_empty());
}

#[test]
fn arrows_point_one_way() {
    let package = |name: &str, kind: &str| -> Package {
        serde_json::from_str(&format!(
            r#"{{"name": "{name}", "dependencies": [{{"name": "kata-sandbox", "kind": {kind}, "path": "/x"}},
                {{"name": "serde", "kind": null, "path": null}}]}}"#
        ))
        .unwrap()
    };
    assert_eq!(wrong_arrows(&package("kata-vmm", "null")), ["kata-vmm must not know kata-sandbox"]);
    assert!(wrong_arrows(&package("kata-vmm", "\"dev\"")).is_empty());
    assert!(wrong_arrows(&package("containerd-shim-kata-v2", "null")).is_empty());
    assert_eq!(wrong_arrows(&package("kata-new", "null")).len(), 1);
}

#[test]
fn hosts_are_found_in_settings() {
    let text = "index = \"sparse+https://user@mirror.test:8080/index/\"\nURIs: http://deb.test/debian http://127.0.0.1/";
    assert_eq!(hosts_in(text), ["mirror.test", "deb.test"]);
}

#[test]
fn tests_are_taken_from_the_last_column() {
    let text = "| a | tests |\n|---|---|\n| `process.cwd` | `one`, `two` |\nnot in `a_table`\n| `x` | |\n";
    assert_eq!(documents::tests_named_in(text), [(3, "one"), (3, "two")]);
}

#[test]
fn a_test_is_a_function_or_made_by_a_macro() {
    assert!(documents::has_test("    fn one() {", "one") && documents::has_test("async fn one() {}", "one"));
    assert!(documents::has_test("agent_test!(one, |guest| {", "one"));
    assert!(documents::has_test("agent_test!(\n    /// Words.\n    one,\n", "one"));
    assert!(!documents::has_test("    one();", "one") && !documents::has_test("fn one_more() {", "one"));
}

#[test]
fn the_documents_name_only_tests_that_are_there() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources = Source::read_all(&root).unwrap();
    assert_eq!(documents::check(&root, &sources).unwrap(), Vec::<String>::new());
}
