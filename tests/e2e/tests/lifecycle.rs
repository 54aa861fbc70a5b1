//! The life of a task as containerd sees it: states, events, pause, processes, metrics.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kata_e2e::{Bind, Container, eventually, kata_test, test};
use serde_json::Value;

#[test]
fn events_come_in_order() {
    test(|containerd| {
        let events = containerd.events();
        let container = containerd.container().command(["/bin/true"]).start();
        container.wait_until_stopped();
        assert_eq!(container.delete(), 0);
        let topics = events.topics_until("/tasks/delete", container.id(), Duration::from_secs(10));
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    });
}

#[test]
fn pause_and_resume_are_told_by_events() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let events = containerd.events();
        container.task("pause", &[]).ok().done();
        events.expect("/tasks/paused", container.id(), Duration::from_secs(10));
        container.task("resume", &[]).ok().done();
        events.expect("/tasks/resumed", container.id(), Duration::from_secs(10));
    });
}

#[test]
fn pause_stops_the_workload_and_resume_continues_it() {
    test(|containerd| {
        let data = containerd.directory();
        let line =
            "n=0; while :; do n=$((n+1)); echo $n > /data/new; mv /data/new /data/count; sleep 0.05; done";
        let container = containerd.container().bind(&Bind::writable(&data, "/data")).shell(line).start();
        let count = || -> u64 {
            fs::read_to_string(data.join("count"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or_default()
        };
        let advances = |limit| {
            let before = count();
            let (sender, never) = std::sync::mpsc::channel::<()>();
            let _ = never.recv_timeout(limit);
            drop(sender);
            count() > before
        };
        eventually("it counts", Duration::from_secs(20), || count() > 3);
        container.task("pause", &[]).ok().done();
        assert_eq!(container.status(), "PAUSED");
        assert!(!advances(Duration::from_secs(2)), "it goes on while paused");
        container.task("resume", &[]).ok().done();
        assert_eq!(container.status(), "RUNNING");
        eventually("it goes on", Duration::from_secs(20), || advances(Duration::from_millis(200)));
    });
}

#[test]
fn a_paused_container_can_be_removed() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        container.task("pause", &[]).ok().done();
        container.task("kill", &["--signal", "SIGKILL"]).ok().done();
        container.task("resume", &[]).done();
        container.wait_until_stopped();
        assert_eq!(container.delete(), 137);
    });
}

#[test]
fn a_running_task_is_not_deleted_without_force() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let refused = container.task("delete", &[]);
        assert!(refused.complaint().contains("must be stopped"), "{refused:?}");
        assert_eq!(container.status(), "RUNNING");
        container.remove();
    });
}

#[test]
fn a_created_task_runs_only_when_it_is_started() {
    test(|containerd| {
        let data = containerd.directory();
        let container = containerd
            .container()
            .bind(&Bind::writable(&data, "/data"))
            .shell("touch /data/ran; sleep 1000")
            .create();
        container.task("start", &["--detach", "--null-io"]).ok().done();
        eventually("it runs", Duration::from_secs(20), || data.join("ran").exists());
        assert_eq!(container.status(), "RUNNING");
    });
}

#[test]
fn a_container_can_be_started_again() {
    test(|containerd| {
        let container = containerd.container().shell("echo x >> /starts; exit $(wc -l < /starts)").create();
        for start in 1..=3 {
            container.task("start", &[]).with_code(start).done();
            assert_eq!(container.status(), "", "`ctr tasks start` in the foreground deletes the task");
            eventually("its VM is gone", Duration::from_secs(20), || container.processes().is_empty());
        }
    });
}

#[test]
fn ps_lists_every_process() {
    test(|containerd| {
        let container = containerd.container().shell("sleep 1000 & exec sleep 1000").start();
        eventually("two processes and a heading", Duration::from_secs(20), || {
            container.task("ps", &[]).ok().text().lines().count() == 3
        });
    });
}

#[test]
fn ps_names_the_execs() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let mut first = container.exec_shell("echo up; exec cat").id("first-exec").attach();
        let mut second = container.exec_shell("echo up; cat; true").id("second-exec").attach();
        first.expect_line("up");
        second.expect_line("up");
        let mut list = String::new();
        eventually("the second exec has its child", Duration::from_secs(20), || {
            list = container.task("ps", &[]).ok().text();
            list.lines().count() == 5
        });
        let named = |name: &str| list.lines().filter(|line| line.contains(name)).count();
        // The others are a heading, the first process and the child of an exec.
        assert_eq!((named("first-exec"), named("second-exec"), named("exec")), (1, 1, 2), "{list}");
        first.finish().ok().done();
        second.finish().ok().done();
    });
}

#[test]
fn ls_shows_the_states() {
    test(|containerd| {
        let running = containerd.container().command(["/bin/sleep", "1000"]).start();
        let stopped = containerd.container().command(["/bin/true"]).start();
        stopped.wait_until_stopped();
        assert_eq!((running.status().as_str(), stopped.status().as_str()), ("RUNNING", "STOPPED"));
    });
}

/// `ctr tasks metrics` as JSON.
fn metrics(container: &Container) -> Value {
    let metrics = container.task("metrics", &["--format", "json"]).ok().text();
    serde_json::from_str(&metrics).expect("ctr prints JSON")
}

/// The number at one of these paths: cgroup v1 and v2 have different shapes. JSON leaves a 0 out.
fn number(metrics: &Value, v1: &str, v2: &str) -> u64 {
    let path = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { v2 } else { v1 };
    metrics.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

#[test]
fn metrics_show_what_was_done_in_the_terms_of_the_hosts_cgroups() {
    test(|containerd| {
        let line = "head -c 20000000 /dev/zero > /dev/shm/zeros; sleep 1000 & touch /ready; sleep 1000; true";
        let container = containerd.container().shell(line).start();
        let _ = container.shell("while [ ! -e /ready ]; do sleep 0.1; done; sleep 0.2");
        let before = metrics(&container);
        let pids = |metrics: &Value| number(metrics, "/pids/current", "/pids/current");
        let cpu = |metrics: &Value| number(metrics, "/cpu/usage/total", "/cpu/usage_usec");
        assert!(pids(&before) >= 3, "{before:#}");
        assert!(number(&before, "/memory/usage/usage", "/memory/usage") > 20_000_000, "{before:#}");
        assert!(number(&before, "/memory/total_cache", "/memory/file") > 20_000_000, "{before:#}");
        assert!(number(&before, "/memory/total_pg_fault", "/memory/pgfault") > 0, "{before:#}");
        let _ = container.shell("rm /dev/shm/zeros; head -c 50000000 /dev/zero | md5sum");
        let after = metrics(&container);
        let unit = number(&serde_json::json!({ "v1": 1_000_000, "v2": 1000 }), "/v1", "/v2");
        assert!(cpu(&after) - cpu(&before) > 20 * unit, "more than 20 ms: {before:#} {after:#}");
        assert!(number(&after, "/memory/total_cache", "/memory/file") < 20_000_000, "{after:#}");
        assert_eq!(pids(&after), pids(&before));
    });
}

/// runc leaves the network to whoever made it; here it is in the guest.
#[test]
fn metrics_show_the_traffic_of_each_interface() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let loopback = || {
            let metrics = metrics(&container);
            let interfaces = metrics["network"].as_array().expect("a list").clone();
            interfaces.into_iter().find(|interface| interface["name"] == "lo").expect("the loopback")
        };
        let before = loopback();
        let _ = container.shell("ping -c 3 127.0.0.1");
        let after = loopback();
        for (packets, bytes) in [("rx_packets", "rx_bytes"), ("tx_packets", "tx_bytes")] {
            let more = |name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap_or_default();
            // Each of them goes out and comes back, 84 bytes with its headers.
            assert!(more(packets) >= 6 && more(bytes) >= 6 * 84, "{before:#} {after:#}");
        }
    });
}
