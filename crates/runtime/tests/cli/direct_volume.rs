//! `direct-volume`, with volumes written down in a directory of the test's own.

use std::fs;
use std::path::PathBuf;

use crate::network::sandbox;
use crate::tree::{Printed, Tree};

const VOLUME: &str = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount";

/// A host whose run directory is in the tree, and an image to assign.
fn host() -> Tree {
    let tree = Tree::complete();
    tree.file("image", "");
    fs::create_dir(tree.path("run")).unwrap();
    tree
}

fn run(tree: &Tree, words: &[&str]) -> Printed {
    let mut command = tree.command(&[&["direct-volume"], words].concat());
    tree.printed(command.arg("--run-dir").arg(tree.path("run")))
}

fn add(tree: &Tree, info: &str) -> Printed {
    let info = info.replace("IMAGE", tree.path("image").to_str().unwrap());
    run(tree, &["add", "--volume-path", VOLUME, "--mount-info", &info])
}

fn of_volume(tree: &Tree, command: &str, more: &[&str]) -> Printed {
    run(tree, &[&[command, "--volume-path", VOLUME], more].concat())
}

/// Where the volume is written down.
fn written(tree: &Tree) -> PathBuf {
    let dirs = fs::read_dir(tree.path("run/kata-containers/shared/direct-volumes")).unwrap();
    dirs.map(|entry| entry.unwrap().path()).next().unwrap()
}

/// The sandbox `abc123` runs and has the volume.
fn in_use(tree: &Tree) {
    let pid = std::process::id();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    tree.file("state/abc123/intents", &format!(r#"{{"owner":{{"pid":{pid},"start_ticks":{start}}}}}"#));
    fs::write(written(tree).join("abc123"), "").unwrap();
}

const INFO: &str = r#"{"volume-type":"block","device":"IMAGE","fstype":"ext4","metadata":{"fsGroup":"5"}}"#;

#[test]
fn a_volume_is_added_and_removed_without_a_word() {
    let tree = host();
    for _ in 0..2 {
        let printed = add(&tree, INFO);
        assert_eq!((printed.code, printed.stdout + &printed.stderr), (0, String::new()));
    }
    let json = fs::read_to_string(written(&tree).join("mountInfo.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["volume-type"], &json["metadata"]["fsGroup"]), (&"block".into(), &"5".into()));
    for _ in 0..2 {
        assert_eq!(of_volume(&tree, "remove", &[]).code, 0);
    }
    assert_eq!(fs::read_dir(tree.path("run")).unwrap().count(), 0);
}

/// Upstream's documents write the flags with one hyphen, too, and its program takes both.
#[test]
fn flags_may_have_one_hyphen() {
    let tree = host();
    let info = INFO.replace("IMAGE", tree.path("image").to_str().unwrap());
    let printed = run(&tree, &["add", "-volume-path", VOLUME, &format!("-mount-info={info}")]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    assert_eq!(run(&tree, &["remove", &format!("-volume-path={VOLUME}")]).code, 0);
    let refused = run(&tree, &["resize", "-volume-path", VOLUME, "-size", "8GB"]);
    assert!(refused.stderr.contains("'8GB' for '--size"), "{}", refused.stderr);
}

#[test]
fn an_error_says_what_to_do() {
    let tree = host();
    let told = |printed: Printed| {
        assert_eq!((printed.code, printed.stdout.as_str()), (1, ""));
        printed.stderr
    };
    insta::assert_snapshot!(told(add(&tree, &INFO.replace("ext4", "nfs"))), @r#"kata-runtime: The direct-assigned volume "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount" cannot be used: The guest cannot mount the file system "nfs": it has ext4, ext3, ext2, xfs, erofs, squashfs, iso9660, vfat"#);
    insta::assert_snapshot!(told(add(&tree, &INFO.replace("IMAGE", "/dev/none-such"))), @r#"kata-runtime: The direct-assigned volume "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount" cannot be used: The device "/dev/none-such" cannot be opened: see that it is attached to this host: No such file or directory (os error 2)"#);
    insta::assert_snapshot!(told(add(&tree, &INFO.replace("IMAGE", "/dev/null"))), @r#"kata-runtime: The direct-assigned volume "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount" cannot be used: The device "/dev/null" is neither a block device nor a file: name a block device or an image file by its absolute path"#);
    insta::assert_snapshot!(told(of_volume(&tree, "stats", &[])), @r#"kata-runtime: "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount" is no direct-assigned volume: `kata-runtime direct-volume add` makes it one"#);
    let relative = ["remove", "--volume-path", "pvc"];
    insta::assert_snapshot!(told(run(&tree, &relative)), @r#"kata-runtime: The volume path "pvc" is not an absolute path: give the absolute path that the pod's volume is published at"#);
    add(&tree, INFO);
    insta::assert_snapshot!(told(of_volume(&tree, "stats", &[])), @r#"kata-runtime: No sandbox that runs has the volume "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount"; it has one from its first container on"#);
    in_use(&tree);
    insta::assert_snapshot!(told(of_volume(&tree, "remove", &[])), @r#"kata-runtime: The direct-assigned volume "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount" is in use by the sandbox abc123: end that pod first"#);
    insta::assert_snapshot!(told(of_volume(&tree, "resize", &["--size", "1Gi"])), @r#"kata-runtime: The sandbox abc123 does not run (any more): nobody answers at /tree/state/abc123/shim-monitor.sock: No such file or directory (os error 2)"#);
}

#[test]
fn the_sandbox_that_has_the_volume_is_asked() {
    let tree = host();
    add(&tree, INFO);
    in_use(&tree);
    let stats = r#"{"usage":[{"available":1,"total":3,"used":2,"unit":1}]}"#;
    let asked = sandbox(&tree, "200 OK", stats);
    let printed = of_volume(&tree, "stats", &[]);
    assert_eq!(printed.stdout.split_whitespace().collect::<String>(), stats, "{}", printed.stderr);
    let asked = asked.join().unwrap();
    assert!(
        asked.starts_with("GET /direct-volume/stats?path=%2Fvar%2Flib%2Fkubelet%2Fpods%2F1%2F"),
        "{asked}"
    );

    fs::remove_file(tree.path("state/abc123/shim-monitor.sock")).unwrap();
    let asked = sandbox(&tree, "200 OK", "");
    assert_eq!(of_volume(&tree, "resize", &["--size", "8Gi"]).code, 0);
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /direct-volume/resize HTTP/1.1\r\n"), "{asked}");
    assert!(asked.ends_with(&format!(r#"{{"Size":8589934592,"VolumePath":"{VOLUME}"}}"#)), "{asked}");
}

#[test]
fn the_sandboxs_refusal_of_a_size_is_told_in_its_words() {
    let tree = host();
    add(&tree, INFO);
    in_use(&tree);
    let asked = sandbox(&tree, "400 Bad Request", "The disk would shrink\n");
    let printed = of_volume(&tree, "resize", &["--size", "1"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (1, "kata-runtime: The disk would shrink\n"));
    asked.join().unwrap();
}
