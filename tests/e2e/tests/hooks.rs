//! Hooks on the host.

use std::fs;
use std::time::Duration;

use kata_e2e::{eventually, kata_test, test};
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

#[test]
fn poststop_hooks_run_when_the_creation_fails() {
    test(|containerd| {
        let log = containerd.directory().join("log");
        let recipe = containerd.container().spec(|spec| {
            spec["hooks"] = json!({ "createRuntime": shell("echo no such network >&2; exit 3"),
                "poststop": shell(&format!("echo poststop >> {}", log.display())) });
        });
        recipe.run().fails_because("no such network");
        assert_eq!(fs::read_to_string(log).unwrap(), "poststop\n");
    });
}

/// The hooks of a container whose shim had died never ran. (runc's do; its killed shim leaves its socket.)
#[test]
fn poststop_hooks_run_once_when_the_shim_is_killed() {
    kata_test(|containerd| {
        let log = containerd.directory().join("log");
        let hook = shell(&format!("echo poststop >> {}", log.display()));
        let recipe = containerd.container().spec(|spec| {
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            spec["hooks"] = json!({ "poststop": hook });
        });
        let container = recipe.start();
        for process in containerd.processes().iter().filter(|p| p.command.contains("containerd-shim-")) {
            process.kill();
        }
        let told = || fs::read_to_string(&log).unwrap_or_default();
        eventually("the hook has run", Duration::from_secs(20), || !told().is_empty());
        eventually("the task is gone", Duration::from_secs(20), || {
            let _ = container.task("delete", &["--force"]);
            container.status().is_empty()
        });
        containerd.ctr(["containers", "rm", container.id()]).done();
        assert_eq!(told(), "poststop\n");
    });
}
