//! `inspect`: what is seen of a sandbox, and what it says when somebody does not answer.

use crate::shim::{POD, answering, dead, hung};
use crate::tree::Tree;

const ETH0: &str = r#"[{"device":"veth0","name":"eth0","IPAddresses":[{"family":"v4","address":"10.1.0.2","mask":"24"}],
    "mtu":1500,"hwAddr":"02:00:00:00:00:01","type":""}]"#;
const ROUTES: &str = r#"[{"dest":"","gateway":"10.1.0.1","device":"eth0","family":"v4"}]"#;
const INTENTS: &str = "{\"will\":{\"id\":0,\"intent\":{\"kind\":\"dir\",\"path\":\"/run/vc\"}}}\n\
    {\"will\":{\"id\":1,\"intent\":{\"kind\":\"mount\",\"target\":\"/nowhere/at/all\"}}}\n";

/// A pod that answers everything. No process has its VMM's number.
fn pod() -> Tree {
    let tree = Tree::complete();
    let bundles = tree.path("bundles").display().to_string();
    let pod = POD.replace("BUNDLES", &bundles).replace("4321", "4194305");
    tree.file(
        "bundles/web/config.json",
        r#"{"linux":{"resources":{"memory":{"limit":1048576},"devices":[]}}}"#,
    );
    tree.file("state/abc123/intents", INTENTS);
    tree.file(
        "state/abc123/timeline.json",
        r#"{"sandbox":"abc123","origin_us":1,"vmm":"qemu","accelerator":"tcg","accelerator_reason":"no vmx",
            "agent_version":"0.1.0","spans":[{"name":"x","side":"host","start_us":0,"end_us":912345}]}"#,
    );
    let text = str::to_owned;
    answering(
        &tree,
        "abc123",
        &[
            ("/inspect", pod),
            ("/agent-url", text("vsock://5:1024")),
            ("/processes/web", text(r#"[{"pid":41},{"pid":57,"exec":"sh1"}]"#)),
            ("/network/interfaces", text(ETH0)),
            ("/network/routes", text(ROUTES)),
        ],
    );
    tree
}

#[test]
fn a_living_pod_is_a_tree() {
    let printed = pod().run(&["inspect", "abc"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(printed.stdout);
}

#[test]
fn json_has_the_same() {
    let printed = pod().run(&["inspect", "abc123", "--json"]);
    let seen: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!((&seen["shim"]["status"], &seen["owner"]), (&"running".into(), &serde_json::Value::Null));
    assert_eq!(seen["containers"][1]["processes"][1]["exec"], "sh1");
    assert_eq!(seen["containers"][1]["limits"]["memory"]["limit"], 1_048_576);
    assert_eq!(seen["intents"][1]["kind"], "mount");
    assert_eq!(seen["silent"], serde_json::json!([]));
}

#[test]
fn of_a_dead_pod_its_files_are_shown() {
    let tree = Tree::complete();
    dead(&tree, "abc123");
    tree.file("state/abc123/intents", INTENTS);
    let printed = tree.run(&["inspect", "abc123"]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    assert!(printed.stdout.contains("status: dead: its shim has gone"), "{}", printed.stdout);
    assert!(printed.stdout.contains("mount /nowhere/at/all"), "{}", printed.stdout);
}

#[test]
fn a_pod_that_hangs_is_waited_for_only_once() {
    let tree = Tree::complete();
    hung(&tree, "abc123");
    let began = std::time::Instant::now();
    let printed = tree.run(&["inspect", "abc123"]);
    assert!(printed.stdout.contains("has not answered within 3 s"), "{}", printed.stdout);
    assert!(began.elapsed().as_secs() < 6, "one waiting, not several");
}

#[test]
fn of_none_the_living_are_named() {
    let printed = Tree::complete().run(&["inspect", "x"]);
    assert_eq!(printed.code, 1);
    assert!(printed.stderr.contains("there is none now"), "{}", printed.stderr);
}
