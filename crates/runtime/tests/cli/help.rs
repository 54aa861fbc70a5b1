//! The whole command line as a snapshot: a change of an option is seen in review.

use std::process::Command;

#[test]
fn help_of_every_subcommand() {
    let subcommands: [&[&str]; 24] = [
        &[],
        &["check"],
        &["env"],
        &["config"],
        &["config", "explain"],
        &["config", "validate"],
        &["network"],
        &["network", "list"],
        &["network", "add"],
        &["network", "remove"],
        &["network", "routes"],
        &["network", "routes", "list"],
        &["network", "routes", "set"],
        &["network", "routes", "reset"],
        &["iptables"],
        &["iptables", "get"],
        &["iptables", "set"],
        &["direct-volume"],
        &["direct-volume", "add"],
        &["direct-volume", "remove"],
        &["direct-volume", "stats"],
        &["direct-volume", "resize"],
        &["timeline"],
        &["version"],
    ];
    let mut all = String::new();
    for words in subcommands {
        let output =
            Command::new(env!("CARGO_BIN_EXE_kata-runtime")).args(words).arg("--help").output().unwrap();
        assert!(output.status.success(), "{words:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
        all += &format!("$ kata-runtime {} --help\n{}\n\n", words.join(" "), trimmed.join("\n"));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for words in [
        &["nonsense"] as &[&str],
        &["check", "--nonsense"],
        &["timeline"],
        &["network", "add", "x"],
        &["network", "routes", "set", "x", "10.0.0.0/8 through eth0"],
        &["direct-volume", "add", "--volume-path", "/a"],
        &["direct-volume", "resize", "--volume-path", "/a", "--size", "8GB"],
        &["iptables", "get"],
        &["iptables", "set"],
        &["iptables", "set", "--sandbox-id", "x", "file", "another"],
        &[],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_kata-runtime")).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn version_has_three_lines() {
    let output = Command::new(env!("CARGO_BIN_EXE_kata-runtime")).arg("version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.starts_with(&format!("kata-runtime  : {}\n", env!("CARGO_PKG_VERSION"))), "{text}");
}
