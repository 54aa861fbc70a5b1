//! The archive is read back by cpio itself.

use std::io::Write;
use std::process::{Command, Stdio};

use super::Archive;

fn sample() -> Archive {
    let mut archive = Archive::default();
    archive.file("init", 0o755, b"#!/bin/sh\n".to_vec());
    archive.directory("dev", 0o755).device("dev/console", 0o600, 5, 1);
    archive.file("etc/odd", 0o644, b"12345".to_vec()).directory("etc", 0o755);
    archive
}

#[test]
fn cpio_lists_what_was_put() {
    let mut cpio = Command::new("cpio");
    cpio.args(["-t", "-v", "--numeric-uid-gid", "--quiet"]).env("LC_ALL", "C").env("TZ", "UTC");
    let mut child = cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&sample().to_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<String> =
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
        "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
        "drwxr-xr-x 2 0 0 0 Jan 1 1970 etc",
        "-rw-r--r-- 1 0 0 5 Jan 1 1970 etc/odd",
        "-rwxr-xr-x 1 0 0 10 Jan 1 1970 init",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn equal_input_gives_equal_bytes() {
    let mut other = Archive::default();
    other.directory("etc", 0o755).file("etc/odd", 0o644, b"12345".to_vec());
    other.directory("dev", 0o755).device("dev/console", 0o600, 5, 1);
    other.file("init", 0o755, b"#!/bin/sh\n".to_vec());
    assert_eq!(sample().to_bytes(), other.to_bytes());
}

#[test]
fn parts_are_aligned_to_four_bytes() {
    assert_eq!(sample().to_bytes().len() % 4, 0);
    assert_eq!(Archive::default().to_bytes().len(), 124);
}
