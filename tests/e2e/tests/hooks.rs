//! Hooks on the host.

use std::fs;

use kata_e2e::test;
use serde_json::{Value, json};

fn shell(line: &str) -> Value {
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", line] }])
}

#[test]
fn hooks_run_in_their_order_on_the_host() {
    test(|containerd| {
        let log = containerd.directory().join("log");
        let line = |name: &str| shell(&format!("echo {name} $(cat) >> {}", log.display()));
        let recipe = containerd.container().spec(|spec| {
            spec["hooks"] = json!({ "prestart": line("prestart"), "createRuntime": line("createRuntime"),
                "poststart": line("poststart"), "poststop": line("poststop") });
        });
        let id = recipe.id().to_owned();
        recipe.run().ok().done();
        let log = fs::read_to_string(log).unwrap();
        let told: Vec<(&str, Value)> = log
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(name, state)| (name, serde_json::from_str(state).unwrap()))
            .collect();
        let names: Vec<&str> = told.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["prestart", "createRuntime", "poststart", "poststop"]);
        assert!(told.iter().all(|(_, state)| state["id"] == *id), "{told:?}");
        assert_eq!((&told[0].1["status"], &told[3].1["status"]), (&json!("creating"), &json!("stopped")));
    });
}

#[test]
fn a_failing_hook_is_the_cause_and_leaves_nothing() {
    test(|containerd| {
        let recipe = containerd.container().spec(|spec| {
            spec["hooks"] = json!({ "createRuntime": shell("echo no such network >&2; exit 3") });
        });
        recipe.run().fails_because("no such network");
    });
}
