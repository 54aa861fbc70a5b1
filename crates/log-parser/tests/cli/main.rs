//! The program as a user has it.

mod transcript;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kata-log-parser");

const GOOD: &str = "time=\"2026-11-22T07:36:11Z\" level=info msg=\"pod started\" sandbox=s\n";

fn parser(folder: &Path, words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).current_dir(folder).stdin(Stdio::null()).output().expect("can be run")
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("is text")
}

#[test]
fn the_transcripts_in_the_documentation_are_what_the_program_does() {
    let document = include_str!("../../../../docs/tools.md");
    let folder = folder(&[]);
    for (command, expected) in transcript::of(document, "kata-log-parser") {
        let printed = transcript::run(&command, folder.path(), PROGRAM);
        transcript::compare(printed, expected);
    }
}

#[test]
fn the_help_is_as_reviewed() {
    let output = parser(Path::new("/"), &["--help"]);
    let text: Vec<_> = stdout(&output).lines().map(|line| line.trim_end().to_owned()).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn bad_lines_are_named_and_left_out() {
    let folder = folder(&[("a.log", &format!("{GOOD}\nhello world\n{GOOD}level=info msg=m\n"))]);
    let output = parser(folder.path(), &["a.log"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output).lines().count(), 2);
    let expected = "a.log:3: no logfmt: `hello` is no key=value pair\na.log:5: the field `time` is missing\n";
    assert_eq!(stderr(&output), expected);
    let output = parser(folder.path(), &["--quiet", "a.log"]);
    assert_eq!((stdout(&output).lines().count(), stderr(&output).as_str()), (2, ""));
}

#[test]
fn bad_lines_are_errors_where_it_is_strict() {
    let folder = folder(&[("good.log", GOOD), ("bad.log", &format!("{GOOD}level=loud\n"))]);
    for option in ["--strict", "--check", "--check-only"] {
        let output = parser(folder.path(), &[option, "good.log", "bad.log"]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""), "{option}");
        let expected =
            "bad.log:2: the field `time` is missing\nkata-log-parser: 1 of 3 lines are not in order\n";
        assert_eq!(stderr(&output), expected);
        assert_eq!(parser(folder.path(), &[option, "good.log"]).status.code(), Some(0), "{option}");
    }
    assert_eq!(stdout(&parser(folder.path(), &["--check", "good.log"])), "");
}

#[test]
fn empty_files_are_errors_if_they_shall_be() {
    let folder = folder(&[("good.log", GOOD), ("empty.log", "\n\n")]);
    assert_eq!(parser(folder.path(), &["empty.log"]).status.code(), Some(0));
    let output = parser(folder.path(), &["--error-if-file-empty", "good.log", "empty.log"]);
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(1), "kata-log-parser: empty.log has no lines\n")
    );
    assert_eq!(
        parser(folder.path(), &["--error-if-no-records", "good.log", "empty.log"]).status.code(),
        Some(0)
    );
    assert_eq!(parser(folder.path(), &["--error-if-no-records", "empty.log"]).status.code(), Some(1));
}

#[test]
fn lines_without_fields_are_taken_where_that_is_allowed() {
    let folder = folder(&[("a.log", "msg=m x=1\n")]);
    let output = parser(folder.path(), &["--ignore-missing-fields", "--strict", "a.log"]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), "time=\"\" level=\"\" msg=m x=1\n")
    );
}

#[test]
fn every_listed_format_can_be_written_to_a_file() {
    let folder = folder(&[("a.log", GOOD)]);
    let formats = stdout(&parser(folder.path(), &["--list-output-formats"]));
    assert_eq!(
        formats.split_whitespace().collect::<Vec<_>>(),
        ["csv", "json", "ron", "text", "toml", "xml", "yaml"]
    );
    for format in formats.split_whitespace() {
        let output = parser(folder.path(), &["--output-format", format, "--output-file", "out", "a.log"]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""), "{format}");
        let written = fs::read_to_string(folder.path().join("out")).expect("is there");
        assert!(written.contains("pod started"), "{format}: {written}");
    }
}

#[test]
fn standard_input_is_a_file() {
    let mut child = Command::new(PROGRAM)
        .arg("--check")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("can be run");
    use std::io::Write;
    child.stdin.take().expect("is piped").write_all(b"oops\n").expect("is read");
    let output = child.wait_with_output().expect("ends");
    assert!(stderr(&output).starts_with("stdin:1: no logfmt: "), "{}", stderr(&output));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = parser(Path::new("/"), &["no-such.log"]);
    let expected = "kata-log-parser: Cannot read no-such.log: No such file or directory (os error 2)\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), expected));
    assert_eq!(parser(Path::new("/"), &["--output-format", "pdf"]).status.code(), Some(2));
}
