//! The whole command line as a snapshot: a change of an option is seen in review.

use std::process::Command;

/// What a run with `--help` prints.
fn help(words: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kata-runtime")).args(words).arg("--help").output();
    let output = output.expect("it was built with the test");
    assert!(output.status.success(), "{words:?}");
    let text = String::from_utf8(output.stdout).expect("help is text");
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The subcommands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let names =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// The help of these words, and of all that stands below them.
fn everything(words: &[String], all: &mut String) {
    let text = help(words);
    // The options that every subcommand has are shown once.
    let shown = if words.is_empty() {
        text.as_str()
    } else {
        text.split("\nGlobal options:\n").next().unwrap_or_default()
    };
    *all += &format!("$ kata-runtime {} --help\n{shown}\n", words.join(" "));
    for name in listed(&text) {
        everything(&[words, &[name]].concat(), all);
    }
}

#[test]
fn help_of_every_subcommand() {
    let mut all = String::new();
    everything(&[], &mut all);
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
        &["exec"],
        &["exec", "x", "ls"],
        &["cp", "x:/a"],
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
