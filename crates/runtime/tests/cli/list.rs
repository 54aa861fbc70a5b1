//! `list`: living, dying, dead and hung sandboxes, and none.

use crate::shim::{POD, answering, dead, hung};
use crate::tree::Tree;

#[test]
fn containers_are_a_table_with_upstreams_columns() {
    let tree = Tree::complete();
    answering(&tree, "abc123", &[("/inspect", POD.replace("BUNDLES", "/run/bundles"))]);
    let printed = tree.run(&["list"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    let own = rustix::process::geteuid().as_raw();
    insta::assert_snapshot!(printed.stdout.replace(&format!("#{own}"), "#0"), @"
    ID       PID  STATUS   BUNDLE               CREATED                         OWNER
    abc123  4321  running  /run/bundles/abc123  2023-11-14T22:13:20.000000000Z  #0
    web     4321  running  /run/bundles/web     2023-11-14T22:13:21.500000000Z  #0
    job       -1  stopped  /run/bundles/job     2023-11-14T22:13:22.000000000Z  #0
    ");
    assert_eq!(tree.run(&["list", "--quiet"]).stdout, "abc123\nweb\njob\n");
    let json: serde_json::Value = serde_json::from_str(&tree.run(&["ps", "--json"]).stdout).unwrap();
    assert_eq!((&json[1]["id"], &json[1]["sandbox"]), (&"web".into(), &"abc123".into()));
}

#[test]
fn a_sandbox_that_comes_up_or_has_ended_has_a_line_of_its_own() {
    let tree = Tree::complete();
    for (id, status) in [("s1", "starting"), ("s2", "stopped")] {
        let seen = format!(r#"{{"id":"{id}","status":"{status}","pid":7,"reason":"why","containers":[]}}"#);
        answering(&tree, id, &[("/inspect", seen)]);
    }
    let printed = tree.run(&["list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!((&json[0]["status"], &json[0]["pid"]), (&"starting".into(), &7.into()));
    assert_eq!((&json[1]["status"], &json[1]["pid"]), (&"stopped".into(), &(-1).into()));
}

#[test]
fn one_that_is_dead_or_hangs_is_told_from_the_others_which_are_still_listed() {
    let tree = Tree::complete();
    dead(&tree, "dead1");
    hung(&tree, "hung1");
    let start = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = start.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let owner = format!("{{\"owner\":{{\"pid\":{},\"start_ticks\":{ticks}}}}}\n", std::process::id());
    tree.file("state/hung1/intents", &owner);
    answering(&tree, "living", &[("/inspect", POD.replace("abc123", "living"))]);
    let printed = tree.run(&["list", "--json"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&printed.stdout).unwrap();
    let told: Vec<_> =
        rows.iter().map(|row| (row["id"].as_str().unwrap(), row["status"].as_str().unwrap())).collect();
    assert_eq!(
        told,
        [("dead1", "dead"), ("hung1", "hung"), ("living", "running"), ("web", "running"), ("job", "stopped")]
    );
}

#[test]
fn without_sandboxes_there_is_a_head_and_nothing_below_it() {
    let tree = Tree::complete();
    let printed = tree.run(&["list"]);
    assert_eq!((printed.code, printed.stdout.as_str()), (0, "ID  PID  STATUS  BUNDLE  CREATED  OWNER\n"));
    assert_eq!(tree.run(&["list", "--json"]).stdout, "[]\n");
    assert_eq!(tree.run(&["list", "-q"]).stdout, "");
}
