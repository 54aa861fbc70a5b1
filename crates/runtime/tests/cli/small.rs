//! The small subcommands: `log-level`, `policy`, `factory`, `completion`, `man`, `version`, and the program as `kata-ctl`.

use std::fs;
use std::process::Command;

use crate::network::sandbox;
use crate::tree::{Printed, Tree};

#[test]
fn the_log_level_is_read_and_changed() {
    let tree = Tree::complete();
    let asked = sandbox(&tree, "200 OK", "info");
    assert_eq!(tree.run(&["log-level", "abc"]).stdout, "info\n");
    assert!(asked.join().unwrap().starts_with("GET /log-level "));
    let tree = Tree::complete();
    let asked = sandbox(&tree, "200 OK", "");
    let printed = tree.run(&["log-level", "abc", "debug"]);
    assert_eq!((printed.code, printed.stdout.as_str()), (0, ""), "{}", printed.stderr);
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("PUT /log-level ") && asked.ends_with("\r\n\r\ndebug"), "{asked}");
    assert_eq!(tree.run(&["log-level", "abc", "loud"]).code, 2);
    let tree = Tree::complete();
    let asked = sandbox(&tree, "200 OK", "");
    assert_eq!(tree.run(&["log-level", "--agent", "abc", "debug"]).code, 0);
    assert!(asked.join().unwrap().starts_with("PUT /log-level/agent "));
}

#[test]
fn a_policy_is_refused_and_nothing_is_asked_of_the_sandbox() {
    let tree = Tree::complete();
    tree.file("state/abc123/intents", "");
    tree.file("policy.rego", "package agent_policy\n");
    let policy = tree.path("policy.rego").display().to_string();
    let printed = tree.run(&["policy", "set", "--sandbox-id", "abc", &policy]);
    assert_eq!(printed.code, 1);
    assert!(
        printed.stderr.contains("The agent of abc123 enforces no policy in this release"),
        "{}",
        printed.stderr
    );
    let printed = tree.run(&["policy", "set", "--sandbox-id", "x", &policy]);
    assert!(printed.code == 1 && printed.stderr.contains("begins with `x`"), "{}", printed.stderr);
}

#[test]
fn there_is_no_factory() {
    let tree = Tree::complete();
    let init = tree.run(&["factory", "init"]);
    assert!(init.code == 1 && init.stderr.contains("every sandbox boots its own VM"), "{}", init.stderr);
    for word in ["destroy", "status"] {
        assert_eq!(tree.run(&["factory", word]).code, 0, "{word}");
    }
}

#[test]
fn every_shell_has_a_script_that_knows_the_subcommands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let printed = Tree::complete().run(&["completion", shell]);
        assert_eq!(printed.code, 0, "{}", printed.stderr);
        assert!(printed.stdout.contains("collect-data") && printed.stdout.contains("log-level"), "{shell}");
    }
    let script = Tree::complete();
    script.file("completion", &script.run(&["completion", "bash"]).stdout);
    let checked = Command::new("bash").arg("-n").arg(script.path("completion")).status().unwrap();
    assert!(checked.success());
}

#[test]
fn the_manual_page_has_each_subcommand_and_no_hidden_one() {
    let printed = Tree::complete().run(&["man"]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    for head in [".SH \"KATA-RUNTIME LIST\"", ".SH \"KATA-RUNTIME NETWORK ROUTES SET\""] {
        assert!(printed.stdout.contains(head), "{head}: {}", printed.stdout);
    }
    assert!(printed.stdout.contains("PID is the VMM"), "{}", printed.stdout);
    assert!(!printed.stdout.contains("KATA-RUNTIME MAN"), "{}", printed.stdout);
    assert_eq!(printed.stdout.matches("log\\-format").count(), 2, "synopsis and options of the program only");
}

#[test]
fn versions_as_json() {
    let printed = Tree::complete().run(&["version", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(json["oci"].is_string());
}

/// Runs a copy that is called `kata-ctl`.
fn kata_ctl(tree: &Tree, words: &[&str]) -> Printed {
    let link = tree.path("kata-ctl");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kata-runtime"), &link).unwrap();
    }
    tree.printed(&mut tree.command_of(&link, words))
}

#[test]
fn as_kata_ctl_the_words_of_kata_ctl_are_understood() {
    let tree = Tree::complete();
    let checked = kata_ctl(&tree, &["check", "all"]);
    assert!(
        checked.stdout.starts_with("System is capable of running Kata Containers\n"),
        "{}",
        checked.stderr
    );
    let releases = kata_ctl(&tree, &["check", "only-list-releases"]);
    assert!(releases.code == 1 && releases.stderr.contains("asks no network"), "{}", releases.stderr);
    let nobody = kata_ctl(&tree, &["direct-volume", "stats", "/nowhere"]);
    assert!(nobody.code == 1 && nobody.stderr.contains("/nowhere"), "{}", nobody.stderr);
    let monitor = kata_ctl(&tree, &["monitor"]);
    assert!(monitor.code != 0 && monitor.stderr.contains("kata-monitor"), "{}", monitor.stderr);
}

#[test]
fn as_kata_ctl_the_environment_has_its_keys() {
    let tree = Tree::complete();
    let printed = kata_ctl(&tree, &["env", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(json["meta"]["version"], "0.0.1-kata-ctl");
    assert_eq!(json["host"]["available_guest_protection"], "none");
    for (table, key) in [
        ("hypervisor", "msize_9p"),
        ("hypervisor", "shared_fs"),
        ("hypervisor", "virtio_fs_daemon"),
        ("hypervisor", "pcie_root_port"),
        ("hypervisor", "hot_plug_vfio"),
        ("runtime", "disable_new_net_ns"),
        ("runtime", "guest_selinux_label"),
        ("host", "vm_container_capable"),
        ("host", "support_vsocks"),
        ("host", "cpu"),
    ] {
        assert!(json[table].get(key).is_some(), "{table}.{key}: {json:#}");
    }
    let file = tree.path("env.toml");
    let printed = kata_ctl(&tree, &["env", "-f", &file.display().to_string()]);
    assert_eq!((printed.code, printed.stdout.as_str()), (0, ""), "{}", printed.stderr);
    assert!(fs::read_to_string(file).unwrap().contains("[hypervisor]"));
}
