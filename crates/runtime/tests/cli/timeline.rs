//! `timeline`: found by a beginning of the id, shown as a table or as JSON.

use crate::tree::Tree;

const TIMELINE: &str = r#"{
  "sandbox": "abc123",
  "origin_us": 1000000,
  "vmm": "qemu",
  "accelerator": "tcg",
  "accelerator_reason": "the CPU has neither vmx nor svm",
  "agent_version": "0.1.0",
  "spans": [
    { "name": "process and configuration", "side": "host", "start_us": 0, "end_us": 21300 },
    { "name": "guest boot until the agent is up", "side": "host", "start_us": 25000, "end_us": 912345 },
    { "name": "vmm spawned", "side": "host", "start_us": 22000, "end_us": 25000 },
    { "name": "kernel", "side": "guest", "start_us": 90000, "end_us": 800049 }
  ]
}"#;

fn tree() -> Tree {
    let tree = Tree::complete();
    tree.file("state/abc123/timeline.json", TIMELINE);
    tree.file("state/abd/other", "");
    tree
}

#[test]
fn a_table_by_beginning_of_phase() {
    let printed = tree().run(&["timeline", "abc"]);
    insta::assert_snapshot!(printed.stdout, @"
    Sandbox      abc123
    VMM          qemu
    Accelerator  tcg (the CPU has neither vmx nor svm)
    Agent        0.1.0

    PHASE                             WHERE    START  DURATION
    process and configuration         host    0.0 ms   21.3 ms
    vmm spawned                       host   22.0 ms    3.0 ms
    guest boot until the agent is up  host   25.0 ms  887.3 ms
    kernel                            guest  90.0 ms  710.0 ms
    total                                             912.3 ms
    ");
}

#[test]
fn json_is_the_file() {
    let printed = tree().run(&["timeline", "abc123", "--json"]);
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(&printed.stdout), value(TIMELINE));
}

#[test]
fn what_is_not_found_is_explained() {
    let said = |id: &str| {
        let printed = tree().run(&["timeline", id]);
        assert_eq!(printed.code, 1);
        printed.stderr
    };
    insta::assert_snapshot!(said("x"), @"kata-runtime: No sandbox in /tree/state has an id that begins with `x`; it is there as long as it runs (now: abc123, abd)");
    insta::assert_snapshot!(said("../state/abc123"), @"kata-runtime: No sandbox in /tree/state has an id that begins with `../state/abc123`; it is there as long as it runs (now: abc123, abd)");
    insta::assert_snapshot!(said("ab"), @"kata-runtime: `ab` is the beginning of several ids: abc123, abd; give more of it");
    insta::assert_snapshot!(said("abd"), @"kata-runtime: The sandbox abd has no readable timeline; it is written when the start has come some way, so try again: No such file or directory (os error 2)");
    let empty = Tree::complete().run(&["timeline", "x"]);
    insta::assert_snapshot!(empty.stderr, @"kata-runtime: No sandbox in /tree/state has an id that begins with `x`; it is there as long as it runs (there is none now)");
}
