//! Hooks in the guest: a container's own, and those of the guest for all containers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kata_protocol::agent::CreateSandboxRequest;
use serde_json::{Value, json};

use super::guest::{Guest, limit, message, skips};

fn shell(line: &str) -> Value {
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", line], "env": ["GREETING=hello"] }])
}

/// A container that has `hooks` and runs `script`.
fn with_hooks(guest: &Guest, hooks: Value, script: &str) -> Value {
    let mut spec = guest.spec(&["sh", "-c", script]);
    spec["hooks"] = hooks;
    spec["annotations"] = json!({ "a": "b" });
    spec
}

agent_test!(hooks_run_before_and_after_the_root_is_entered, |guest| {
    let log = guest.folder.path().join("log");
    let before = format!(
        "echo $GREETING $(cat) > {}; test -d {}/proc/self",
        log.display(),
        guest.folder.path().join("rootfs").display()
    );
    let hooks = json!({ "createContainer": shell(&before), "startContainer": shell("cat > /tmp/state") });
    let spec = with_hooks(&guest, hooks, "cat /tmp/state");
    let mut streams = guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    let created: Value = serde_json::from_slice(&streams.output().await).expect("JSON");
    let creating = fs::read_to_string(log).expect("the hook has run");
    let creating: Value =
        serde_json::from_str(creating.strip_prefix("hello ").expect("its own variable")).expect("JSON");
    let state = |status: &str| {
        json!({ "ociVersion": "1.2.0", "id": "c", "status": status, "pid": 1, "bundle": guest.folder.path(),
            "annotations": { "a": "b" } })
    };
    assert_eq!((creating, created), (state("creating"), state("created")));
});

agent_test!(a_hook_that_fails_stops_the_container, |guest| {
    let hooks = json!({ "createContainer": shell("echo no licence >&2; exit 3") });
    let refusal = message(guest.create_with("c", &with_hooks(&guest, hooks, "true"), false).await);
    assert_eq!(refusal, "The createContainer hook \"/bin/sh\" failed in the guest (status 3): no licence");

    let hooks = json!({ "startContainer": shell("echo no licence >&2; exit 3") });
    let spec = with_hooks(&guest, hooks, "echo runs");
    let mut streams = guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    assert_eq!(guest.wait("c", "").await.expect("ended"), 1);
    assert!(streams.output().await.is_empty(), "the workload did not run");
    let words = String::from_utf8(streams.errors().await).expect("text");
    assert!(words.contains("startContainer") && words.contains("no licence"), "{words}");
});

agent_test!(a_hook_that_is_not_there_or_takes_too_long_is_named, |guest| {
    let missing = json!({ "createContainer": [{ "path": "/no/such" }] });
    let refusal = message(guest.create_with("c", &with_hooks(&guest, missing, "true"), false).await);
    assert!(
        refusal.contains("\"/no/such\" cannot be run in the guest; is it in the guest's image?"),
        "{refusal}"
    );
    let mut slow = json!({ "createContainer": shell("exec sleep 1000") });
    slow["createContainer"][0]["timeout"] = json!(1);
    let refusal = message(guest.create_with("c", &with_hooks(&guest, slow, "true"), false).await);
    assert!(refusal.contains("did not end within 1 s"), "{refusal}");
});

/// An executable of the guest's that writes its name and what it is told to `log`.
fn add_hook(folder: &Path, when: &str, log: &Path, status: i32) {
    let folder = folder.join(when);
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("10-hook");
    let script = format!("#!/bin/sh\necho {when} $(cat) >> {}\nexit {status}\n", log.display());
    fs::write(&file, script).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its own file");
    fs::write(folder.join("README"), "no hook").expect("a file");
}

async fn use_hooks(guest: &Guest, folder: &Path) -> ttrpc::Result<()> {
    let path = folder.to_str().expect("text").to_owned();
    let request = CreateSandboxRequest { guest_hook_path: path, ..Default::default() };
    guest.agent.create_sandbox(limit(), &request).await.map(|_| ())
}

agent_test!(the_guests_own_hooks_run_for_every_container, |guest| {
    let (folder, log) = (guest.folder.path().join("hooks"), guest.folder.path().join("log"));
    for when in ["prestart", "poststart", "poststop"] {
        add_hook(&folder, when, &log, 0);
    }
    use_hooks(&guest, &folder).await.expect("there are hooks");
    guest.run("c", &["sleep", "1000"]).await;
    guest.remove("c").await.expect("removed");
    let log = fs::read_to_string(log).expect("hooks have run");
    let told: Vec<(&str, Value)> = log
        .lines()
        .map(|line| line.split_once(' ').expect("two words"))
        .map(|(when, state)| (when, serde_json::from_str::<Value>(state).expect("JSON")["status"].clone()))
        .collect();
    assert_eq!(
        told,
        [("prestart", json!("created")), ("poststart", json!("running")), ("poststop", json!("stopped"))]
    );
});

agent_test!(a_failing_hook_of_the_guests_leaves_no_container, |guest| {
    let (folder, log) = (guest.folder.path().join("hooks"), guest.folder.path().join("log"));
    add_hook(&folder, "prestart", &log, 4);
    use_hooks(&guest, &folder).await.expect("there are hooks");
    for _ in 0..2 {
        let refusal = message(guest.create_with("c", &guest.spec(&["true"]), false).await);
        assert!(refusal.contains("10-hook\" failed in the guest (status 4)"), "{refusal}");
    }
});

agent_test!(a_folder_of_hooks_that_is_not_there_is_named, |guest| {
    let refusal = message(use_hooks(&guest, "/no/such".as_ref()).await);
    assert!(refusal.contains("/no/such; correct guest_hook_path"), "{refusal}");
});
