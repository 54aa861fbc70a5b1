//! Limits of a container: from its specification, changed while it lives, and met by its workload.

use std::fs;
use std::time::Duration;

use kata_e2e::{Containerd, Recipe, eventually, kata_test};
use serde_json::{Value, json};

/// A container that runs `line` under these limits and sees its own cgroup.
fn limited<'c>(containerd: &'c Containerd, line: &str, resources: &Value) -> Recipe<'c> {
    containerd.container().spec(|spec| {
        spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
        for (name, limit) in resources.as_object().expect("limits by name") {
            spec["linux"]["resources"][name] = limit.clone();
        }
        let cgroup = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] });
        spec["mounts"].as_array_mut().expect("a list").push(cgroup);
    })
}

const PATIENCE: Duration = Duration::from_secs(60);
const FILES: &str =
    "cd /sys/fs/cgroup; echo $(cat memory.max) $(cat pids.max) $(cat cpu.weight) $(cat cpu.max)";

#[test]
fn limits_of_the_specification_are_the_containers() {
    kata_test(|containerd| {
        let resources = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 },
            "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 } });
        let output = limited(containerd, FILES, &resources).run().ok().text();
        assert_eq!(output, "67108864 50 20 50000 100000");
    });
}

#[test]
fn without_limits_there_are_none() {
    kata_test(|containerd| {
        let output = limited(containerd, FILES, &json!({})).run().ok().text();
        assert_eq!(output, "max max 100 max 100000");
    });
}

#[test]
fn limits_change_while_the_container_runs() {
    kata_test(|containerd| {
        let container = limited(containerd, "sleep 1000", &json!({ "pids": { "limit": 50 } })).start();
        container.update(&json!({ "memory": { "limit": 128 << 20 }, "cpu": { "quota": 20_000 } })).unwrap();
        assert_eq!(container.shell(FILES), "134217728 50 100 20000 100000");
        container.update(&json!({ "memory": { "limit": -1 }, "pids": { "limit": 60 } })).unwrap();
        assert_eq!(container.shell(FILES), "max 60 100 20000 100000");
    });
}

#[test]
fn an_update_that_is_refused_changes_nothing() {
    kata_test(|containerd| {
        let container = limited(containerd, "sleep 1000", &json!({})).start();
        let refused = container.update(&json!({ "memory": { "limit": 128 << 20 }, "cpu": { "quota": 1 } }));
        assert!(refused.unwrap_err().contains("cpu.max"), "a period has no millisecond of it");
        let refused =
            container.update(&json!({ "memory": { "limit": 128 << 20 }, "cpu": { "cpus": "8000" } }));
        assert!(refused.unwrap_err().contains("has none of this host's CPUs"));
        let _ = container.shell("head -c 20000000 /dev/zero > /dev/shm/zeros");
        let small = json!({ "memory": { "limit": 1 << 20, "checkBeforeUpdate": true } });
        assert!(container.update(&small).unwrap_err().contains("more than the new limit of 1048576"));
        assert_eq!(container.shell(FILES), "max max 100 max 100000");
    });
}

#[test]
fn a_container_that_takes_too_much_memory_dies_and_the_next_runs() {
    kata_test(|containerd| {
        let resources = json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } });
        let events = containerd.events();
        let container = limited(containerd, "sleep 1000", &resources).start();
        // `tail` keeps all that it may have to print.
        let hog = container.exec_shell("head -c 100000000 /dev/zero | tail -c 100000000 > /dev/null").run();
        assert_eq!(hog.code, 137, "{}", hog.complaint());
        events.expect("/tasks/oom", container.id(), Duration::from_secs(20));
        assert_eq!(container.shell("grep -w oom_kill /sys/fs/cgroup/memory.events"), "oom_kill 1");
    });
}

#[test]
fn a_container_that_makes_too_many_processes_meets_its_limit() {
    kata_test(|containerd| {
        let line = "for n in $(seq 200); do sleep 1000 >/dev/null 2>&1 & done; true";
        let container = limited(containerd, "sleep 1000", &json!({ "pids": { "limit": 30 } })).start();
        container.exec_shell(line).run().done();
        let metrics = container.task("metrics", &["--format", "json"]).ok().text();
        let metrics: Value = serde_json::from_str(&metrics).unwrap();
        // The shell ends when it can fork no more.
        assert_eq!(metrics["pids"]["current"], 29, "{metrics:#}");
    });
}

#[test]
fn a_realtime_task_that_never_sleeps_leaves_the_others_some_time() {
    kata_test(|containerd| {
        let hog = containerd.container().spec(|spec| {
            // The host's own chrt, which this containerd's specifications have no words for.
            let hog = ["/usr/bin/chrt", "-f", "50", "/bin/sh", "-c", "while :; do :; done"];
            spec["process"]["args"] = json!(hog);
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set].as_array_mut().expect("a list").push(json!("CAP_SYS_NICE"));
            }
            for path in ["/usr", "/lib", "/lib64"] {
                let source = fs::canonicalize(path).expect("every Debian has it");
                let bind = json!({ "destination": path, "type": "bind", "source": source, "options": ["rbind", "ro"] });
                spec["mounts"].as_array_mut().expect("a list").push(bind);
            }
        });
        let hog = hog.start();
        // Field 41 is the policy: 1 is SCHED_FIFO. The agent and this process have the usual one, and run.
        let policies = || hog.shell("cut -d ' ' -f 41 /proc/1/stat /proc/self/stat");
        eventually("it is a realtime task", PATIENCE, || policies() == "1\n0");
        hog.remove();
    });
}
