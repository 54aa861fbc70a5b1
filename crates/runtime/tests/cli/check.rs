//! `check`: verdicts, exit codes, and what is said about what is missing.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::tree::Tree;

const FIRST: &str = "System is capable of running Kata Containers\n";
const SECOND: &str = "System can currently create Kata Containers\n";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_complete_installation_gets_its_verdicts_and_nothing_else() {
    for name in ["check", "kata-check"] {
        let printed = Tree::complete().run(&[name]);
        let expected = if is_root() { format!("{FIRST}{SECOND}") } else { FIRST.to_owned() };
        assert_eq!((printed.code, printed.stdout, printed.stderr), (0, expected, String::new()), "{name}");
    }
}

#[test]
fn without_root_the_second_verdict_is_left_out() {
    let tree = Tree::complete();
    let copy = tree.path("kata-runtime");
    tree.copy_program(Path::new(env!("CARGO_BIN_EXE_kata-runtime")), "kata-runtime");
    let mut command = tree.command_of(&copy, &["check"]);
    if is_root() {
        command.uid(65534).gid(65534);
    }
    let printed = tree.printed(&mut command);
    assert_eq!((printed.code, printed.stdout.as_str()), (0, FIRST), "{}", printed.stderr);
}

#[test]
fn verbose_lists_every_check() {
    let printed = Tree::complete().run(&["check", "--verbose", "--no-network-checks"]);
    for name in
        ["configuration", "CPU", "accelerator", "vhost-vsock", "vhost-net", "QEMU", "virtiofsd", "kernel"]
    {
        assert!(printed.stdout.contains(name), "{name}: {}", printed.stdout);
    }
    assert!(printed.stdout.contains("10.0.2 (/tree/qemu)"), "{}", printed.stdout);
    assert!(printed.stdout.contains("1.14.0 (/tree/virtiofsd)"), "{}", printed.stdout);
    assert!(printed.stdout.contains("tcg: the configuration asks for TCG"), "{}", printed.stdout);
}

#[test]
fn what_is_missing_fails_with_advice() {
    for (file, advice) in [
        ("qemu", "failed: QEMU: /tree/qemu does not exist; install QEMU"),
        ("virtiofsd", "failed: virtiofsd: /tree/virtiofsd does not exist; install it"),
        ("kernel", "failed: guest kernel: /tree/kernel: No such file or directory (os error 2); install it"),
        ("initrd", "failed: guest initrd: /tree/initrd: No such file or directory (os error 2); install it"),
    ] {
        let tree = Tree::complete();
        fs::remove_file(tree.path(file)).unwrap();
        let printed = tree.run(&["check"]);
        assert_eq!(printed.code, 1, "{file}");
        assert!(printed.stderr.starts_with(advice), "{}", printed.stderr);
        assert!(!printed.stdout.contains(SECOND), "{}", printed.stdout);
    }
}

#[test]
fn files_shared_by_9p_need_a_qemu_with_it_and_no_virtiofsd() {
    let tree = Tree::complete();
    fs::remove_file(tree.path("virtiofsd")).unwrap();
    let configuration = fs::read_to_string(tree.path("configuration.toml")).unwrap();
    tree.file("configuration.toml", &format!("{configuration}shared_fs = 'virtio-9p'\n"));
    let printed = tree.run(&["check"]);
    assert!(printed.stderr.contains("9p: /tree/qemu has no virtio-9p-pci"), "{}", printed.stderr);
    tree.program("qemu", "QEMU emulator version 10.0.2, name \"virtio-9p-pci\", bus PCI");
    let printed = tree.run(&["check", "--verbose"]);
    assert!(printed.stdout.contains("virtio-9p-pci (/tree/qemu)"), "{}", printed.stdout);
    assert!(!printed.stdout.contains("virtiofsd"), "{}", printed.stdout);
}

#[test]
fn programs_that_are_something_else_are_noticed() {
    let tree = Tree::complete();
    tree.program("qemu", "hello");
    tree.program("virtiofsd", "hello");
    let printed = tree.run(&["check"]);
    assert_eq!(printed.code, 1);
    assert!(printed.stderr.contains("is it a QEMU?"), "{}", printed.stderr);
    assert!(printed.stderr.contains("prints no version"), "{}", printed.stderr);
}

#[test]
fn an_old_qemu_is_a_warning_that_strict_takes_seriously() {
    let tree = Tree::complete();
    tree.program("qemu", "QEMU emulator version 6.2.0");
    assert_eq!(tree.run(&["check"]).code, 0);
    assert_eq!(tree.run(&["check", "--strict"]).code, 1);
}

#[test]
fn a_wrong_configuration_fails_and_the_rest_is_still_checked() {
    let tree = Tree::complete();
    tree.file("configuration.toml", "[runtime]\nenable_debg = true\n");
    let printed = tree.run(&["check"]);
    assert_eq!(printed.code, 1);
    assert!(printed.stderr.contains("configuration.toml:2: Unknown key `enable_debg`"), "{}", printed.stderr);
}

#[test]
fn json_says_the_same() {
    let printed = Tree::complete().run(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["capable"], true);
    assert_eq!(report["root"], is_root());
    let checks = report["checks"].as_array().unwrap();
    let accelerator = checks.iter().find(|check| check["name"] == "accelerator").unwrap();
    assert_eq!(accelerator["status"], "ok");
}

#[test]
fn no_network_is_asked_and_said_so() {
    let tree = Tree::complete();
    let version = tree.run(&["check", "--check-version-only"]);
    assert!(version.code == 0 && version.stdout.contains("asks no network"), "{}", version.stdout);
    let list = tree.run(&["check", "--only-list-releases"]);
    assert!(list.code == 1 && list.stderr.contains("asks no network"), "{}", list.stderr);
    let all = tree.run(&["check", "--include-all-releases"]);
    assert!(all.code == 0 && all.stderr.contains("changes nothing"), "{}", all.stderr);
}

#[test]
fn the_log_file_is_written_in_both_forms() {
    let tree = Tree::complete();
    let log = tree.path("log");
    let log_arg = log.display().to_string();
    tree.run(&["config", "validate", "--log", &log_arg]);
    tree.run(&["config", "validate", "--log", &log_arg, "--log-format", "json"]);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("configuration loaded"), "{text}");
    let last: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(last["fields"]["message"], "configuration loaded");
}
