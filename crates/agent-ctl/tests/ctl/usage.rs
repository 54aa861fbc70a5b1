//! What needs no agent.

use crate::agent::{connect, ctl, errors};

#[test]
fn the_help_is_as_reviewed() {
    let mut all = String::new();
    for words in [&["--help"] as &[&str], &["connect", "--help"], &["examples"]] {
        let text = String::from_utf8(ctl(words).stdout).expect("is text");
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        all += &format!("$ kata-agent-ctl {}\n{}\n\n", words.join(" "), lines.join("\n"));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let address = "unix:///run/agent.sock";
    for words in [
        &["connect"] as &[&str],
        &["connect", "--server-address", address],
        &["connect", "--server-address", "tcp://x", "-c", "Check"],
        &["connect", "--server-address", address, "--sandbox", "x", "-c", "Check"],
        &["connect", "--server-address", address, "--timeout", "soon", "-c", "Check"],
        &["connect", "--server-address", address, "-c", "repeat 3"],
        &["connect", "--server-address", "vsock://3:1024", "--hybrid-vsock", "-c", "Check"],
        &["nonsense"],
        &[],
    ] {
        assert_eq!(ctl(words).status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn a_vm_of_an_unknown_hypervisor_is_refused_with_those_that_are_known() {
    let output = ctl(&["connect", "--vm", "xen", "-c", "Check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors(&output).contains("--vm xen: no such hypervisor is driven; choose one of qemu"),
        "{}",
        errors(&output)
    );
}

#[test]
fn ids_are_random_and_have_64_digits() {
    for command in ["generate-cid", "generate-sid"] {
        let [first, second] = [ctl(&[command]), ctl(&[command])].map(|output| output.stdout);
        assert_ne!(first, second);
        let digits = first.strip_suffix(b"\n").expect("is a line");
        assert!(digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit));
    }
}

#[test]
fn what_needs_no_agent_asks_none() {
    let output = connect("unix:///no/such.sock", &["-c", "list", "-c", "help Check", "-c", "echo done"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.ends_with(b"done\n"));
}

#[test]
fn an_agent_that_is_not_there_is_named() {
    let output = connect("unix:///no/such.sock", &["-c", "Check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = errors(&output);
    assert!(
        text.starts_with("kata-agent-ctl: No agent is reached at unix:///no/such.sock; does it run?: "),
        "{text}"
    );
}

#[test]
fn a_bundle_that_is_none_is_named() {
    let output = connect("unix:///no/such.sock", &["-b", "/no/such", "-c", "Check"]);
    let text = errors(&output);
    assert!(text.contains("Cannot read /no/such/config.json; is --bundle-dir an OCI bundle?"), "{text}");
}
