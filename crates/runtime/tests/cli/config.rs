//! `config explain` and `config validate`.

use std::fs;
use std::process::Command;

use crate::tree::Tree;

#[test]
fn explain_names_the_origin_of_every_value() {
    let tree = Tree::complete();
    tree.file("config.d/50-mine.toml", "[hypervisor.qemu]\ndefault_memory = 300\ndefault_vcpus = 1.5\n");
    let printed = tree.run(&["config", "explain"]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let line = |key: &str| {
        let found = printed.stdout.lines().find(|line| line.split_whitespace().next() == Some(key));
        found.unwrap_or_else(|| panic!("{key}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        line("hypervisor.qemu.kernel"),
        "hypervisor.qemu.kernel \"/tree/kernel\" /tree/configuration.toml:4"
    );
    assert_eq!(
        line("hypervisor.qemu.default_memory"),
        "hypervisor.qemu.default_memory 300 /tree/config.d/50-mine.toml:2"
    );
    assert!(
        line("hypervisor.qemu.default_vcpus").starts_with("hypervisor.qemu.default_vcpus 2 derived: 1.5")
    );
    assert_eq!(line("runtime.enable_debug"), "runtime.enable_debug false default");
}

#[test]
fn explain_as_json() {
    let printed = Tree::complete().run(&["config", "explain", "--json"]);
    let all: Vec<serde_json::Value> = serde_json::from_str(&printed.stdout).unwrap();
    let kernel = all.iter().find(|row| row["key"] == "hypervisor.qemu.kernel").unwrap();
    assert_eq!(kernel["value"], "/tree/kernel");
    assert_eq!(kernel["origin"]["kind"], "file");
    assert_eq!(kernel["origin"]["line"], 4);
    let memory = all.iter().find(|row| row["key"] == "hypervisor.qemu.default_memory").unwrap();
    assert_eq!(memory["origin"]["kind"], "default");
    assert_eq!(memory["default"], memory["value"]);
}

#[test]
fn explain_verbosely_says_what_keys_do() {
    let printed = Tree::complete().run(&["config", "explain", "-v"]);
    assert!(printed.stdout.contains("    The guest kernel.\n    From: /tree/configuration.toml:4\n"));
}

#[test]
fn validate() {
    let tree = Tree::complete();
    let fine = tree.run(&["config", "validate"]);
    assert_eq!((fine.code, fine.stdout.lines().count()), (0, 1), "{}", fine.stdout);
    fs::remove_file(tree.path("kernel")).unwrap();
    let missing = tree.run(&["config", "validate"]);
    assert!(missing.code == 1 && missing.stdout.contains("failed: guest kernel"), "{}", missing.stdout);
    tree.file("config.d/a.toml", "[hypervisor.qemu]\nkernle = '/x'\nrootfs_type = 'ext4'\n");
    let wrong = tree.run(&["config", "validate"]);
    assert_eq!(wrong.code, 1);
    insta::assert_snapshot!(wrong.stderr, @"
    kata-runtime: 2 problems in the configuration:
      /tree/config.d/a.toml:2: Unknown key `kernle` in [hypervisor.qemu]; did you mean `kernel`?
      /tree/config.d/a.toml:3: `rootfs_type` is known but not supported yet; remove it
    ");
}

#[test]
fn a_configuration_of_upstreams_is_written_as_ours() {
    let tree = Tree::complete();
    let kernel = tree.path("kernel").display().to_string();
    tree.file(
        "theirs.toml",
        &format!(
            "[hypervisor.qemu]\nkernel = '{kernel}'\nenable_iommu = true\n[hypervisor.clh]\npath = '/x'\n"
        ),
    );
    let (theirs, ours) = (tree.path("theirs.toml"), tree.path("ours.toml"));
    let (theirs, ours) = (theirs.display().to_string(), ours.display().to_string());
    let printed = tree.run(&["config", "import", &theirs]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    insta::assert_snapshot!(printed.stdout, @r#"
    # Imported from /tree/theirs.toml by `kata-runtime config import`.

    [hypervisor.qemu]
    kernel = "/tree/kernel"

    # Left out:
    #   /tree/theirs.toml:3: `enable_iommu = true` is known but not supported yet; remove it, or set it to false, which is what happens today
    #   /tree/theirs.toml:4: The hypervisor `clh` is known but not supported yet; remove [hypervisor.clh] and use [hypervisor.qemu]
    "#);
    assert_eq!(tree.run(&["config", "import", &theirs, "--strict", "--output", &ours]).code, 1);
    assert!(!tree.path("ours.toml").exists());
    let printed = tree.run(&["config", "import", &theirs, "--output", &ours]);
    assert!(printed.stderr.contains("1 keys written to /tree/ours.toml"), "{}", printed.stderr);
    let again = tree.run(&["config", "import", &theirs, "--output", &ours]);
    assert!(again.code == 1 && again.stderr.contains("does not exist"), "{}", again.stderr);
}

#[test]
fn the_environment_names_a_file_and_the_option_wins() {
    let (one, two) = (Tree::complete(), Tree::complete());
    let binary = env!("CARGO_BIN_EXE_kata-runtime");
    let mut by_environment = Command::new(binary);
    by_environment.args(["config", "validate"]).env("KATA_CONF_FILE", one.path("configuration.toml"));
    assert!(one.printed(&mut by_environment).stdout.starts_with("/tree/configuration.toml is valid"));
    by_environment.arg("--kata-config").arg(two.path("configuration.toml"));
    assert!(two.printed(&mut by_environment).stdout.starts_with("/tree/configuration.toml is valid"));
}

#[test]
fn default_paths() {
    let printed = Tree::complete().run(&["--show-default-config-paths"]);
    let first = "/etc/kata-containers/configuration.toml";
    assert_eq!((printed.code, printed.stdout.lines().next()), (0, Some(first)));
}
