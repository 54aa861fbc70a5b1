//! `collect-data`: what is in the archive, and what must not be.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::shim::{POD, answering};
use crate::tree::{Printed, Tree};

/// What nobody may read.
const SECRET: &str = "hunter2";

fn tree() -> Tree {
    let tree = Tree::complete();
    let bundles = tree.path("bundles").display().to_string();
    answering(&tree, "abc123", &[("/inspect", POD.replace("BUNDLES", &bundles))]);
    tree.file(
        "bundles/web/config.json",
        r#"{"process":{"args":["app","--password","hunter2"],"env":["DB=hunter2"]},
            "annotations":{"mine":"hunter2","io.kubernetes.cri.container-type":"container"}}"#,
    );
    tree.file("state/abc123/console.log", "[    0.1] https_proxy=http://me:hunter2@proxy\n");
    tree.file("state/abc123/shim.log", "level=info msg=\"token=hunter2\"\n");
    tree.file(
        "config.d/10-x.toml",
        "[hypervisor.qemu]\nkernel_params = 'agent.https_proxy=http://u:hunter2@p'\n",
    );
    tree
}

fn collect(tree: &Tree) -> Printed {
    let archive = tree.path("data.tar").display().to_string();
    tree.run(&["collect-data", "--output", &archive])
}

#[test]
fn everything_is_in_one_archive_that_only_its_owner_reads() {
    let tree = tree();
    let printed = collect(&tree);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let mode = std::fs::metadata(tree.path("data.tar")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let listed = Command::new("tar").arg("-tf").arg(tree.path("data.tar")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in [
        "CONTENTS",
        "version.json",
        "check.json",
        "env.json",
        "list.json",
        "host/proc/cpuinfo",
        "sandboxes/abc123/inspect.json",
        "sandboxes/abc123/logs.txt",
        "sandboxes/abc123/web/config.json",
    ] {
        assert!(
            listed.lines().any(|line| line == format!("kata-containers-data/{name}")),
            "{name}: {listed}"
        );
        assert!(name == "CONTENTS" || printed.stdout.contains(name), "{name}: {}", printed.stdout);
    }
    assert!(listed.contains("configuration.toml") && listed.contains("10-x.toml"), "{listed}");
}

#[test]
fn no_secret_is_in_it_and_what_explains_a_problem_is() {
    let tree = tree();
    collect(&tree);
    let archive = String::from_utf8_lossy(&std::fs::read(tree.path("data.tar")).unwrap()).into_owned();
    assert!(!archive.contains(SECRET), "{}", &archive[archive.find(SECRET).unwrap_or(0)..][..100]);
    for kept in ["DB=<removed>", "\"app\"", "@proxy", "io.kubernetes.cri.container-type", "accelerator"] {
        assert!(archive.contains(kept), "{kept}");
    }
}

#[test]
fn an_archive_that_is_there_is_not_overwritten() {
    let tree = tree();
    tree.file("data.tar", "mine");
    let printed = collect(&tree);
    assert_eq!(printed.code, 1);
    assert!(printed.stderr.contains("name a file that does not exist"), "{}", printed.stderr);
    assert_eq!(std::fs::read_to_string(tree.path("data.tar")).unwrap(), "mine");
}

#[test]
fn a_broken_configuration_and_no_sandbox_are_collected_too() {
    let tree = Tree::complete();
    tree.file("configuration.toml", "[runtime]\nnonsense = 1\n");
    let printed = collect(&tree);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    assert!(printed.stdout.contains("env.error.txt"), "{}", printed.stdout);
    let unknown =
        tree.run(&["collect-data", "--output", &tree.path("b.tar").display().to_string(), "--sandbox", "x"]);
    assert!(unknown.code == 1 && !tree.path("b.tar").exists(), "{}", unknown.stderr);
}
