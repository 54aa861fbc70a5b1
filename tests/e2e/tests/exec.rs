//! More processes in a running container.

use std::thread;
use std::time::Duration;

use kata_e2e::test;
use serde_json::json;

#[test]
fn the_exit_code_is_the_processes_own() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        for code in [0, 1, 77, 255] {
            container.exec_shell(&format!("exit {code}")).run().with_code(code).done();
        }
        assert_eq!(container.status(), "RUNNING");
    });
}

#[test]
fn stdout_and_stderr_are_kept_apart() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let run = container.exec_shell("echo to stdout; echo to stderr >&2").run().ok();
        assert_eq!(
            (run.stdout.as_slice(), run.stderr.as_slice()),
            (&b"to stdout\n"[..], &b"to stderr\n"[..])
        );
    });
}

#[test]
fn it_sees_the_containers_files_and_processes() {
    test(|containerd| {
        let container = containerd.container().shell("echo inside > /mark; exec sleep 1234").start();
        assert_eq!(container.shell("while ! cat /mark; do sleep 0.1; done 2>/dev/null"), "inside");
        assert_eq!(container.shell("tr '\\0' ' ' < /proc/1/cmdline"), "sleep 1234");
    });
}

#[test]
fn ten_at_once_do_not_disturb_each_other() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        thread::scope(|scope| {
            let one = |n: i32| container.exec_shell(&format!("seq {n} 1000 5000; sleep 0.5; exit {n}")).run();
            let runs: Vec<_> = (1..=10).map(|n| (n, scope.spawn(move || one(n)))).collect();
            for (n, run) in runs {
                let run = run.join().unwrap().with_code(n);
                let expected: Vec<_> = (0..5).map(|k| (n + k * 1000).to_string()).collect();
                assert_eq!(run.text().lines().collect::<Vec<_>>(), expected);
            }
        });
    });
}

#[test]
fn cwd_and_user_can_be_given() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let run =
            container.exec_shell("pwd; id -u; id -g").option("--cwd", "/bin").option("--user", "1234:567");
        assert_eq!(run.run().ok().text(), "/bin\n1234\n567");
    });
}

#[test]
fn a_program_that_is_not_there_is_named_in_the_error() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        container.exec(["/bin/no-such-program"]).run().fails_because("no-such-program");
        container.exec(["/bin/true"]).run().ok().done();
    });
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        container.exec(["/etc/passwd"]).run().fails_because("/etc/passwd");
        container.exec(["/bin/true"]).run().ok().done();
    });
}

#[test]
fn an_id_in_use_is_refused() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let mut first = container.exec_shell("echo up; exec sleep 1000").id("twice").attach();
        first.expect_line("up");
        container.exec(["/bin/true"]).id("twice").run().fails_because("exists");
        container.task("kill", &["--signal", "SIGKILL", "--exec-id", "twice"]).ok().done();
        first.finish().with_code(137).done();
        container.exec(["/bin/true"]).id("twice").run().ok().done();
    });
}

#[test]
fn into_a_paused_container_is_refused_or_waits_and_harms_nothing() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        container.task("pause", &[]).ok().done();
        let paused = container.exec(["/bin/true"]).attach();
        assert_eq!(container.status(), "PAUSED");
        container.task("resume", &[]).ok().done();
        // Refused before the container was resumed, or done after.
        let paused = paused.finish();
        assert!(paused.code == 0 || paused.complaint().contains("paused"), "{paused:?}");
        container.exec(["/bin/true"]).run().ok().done();
    });
}

#[test]
fn into_an_exited_container_is_refused() {
    test(|containerd| {
        let container = containerd.container().shell("exit 5").start();
        container.wait_until_stopped();
        let refused = container.exec(["/bin/true"]).run();
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(
            refused.complaint().contains("stopped") || refused.complaint().contains("not running"),
            "{refused:?}"
        );
        assert_eq!(container.delete(), 5);
    });
}

#[test]
fn its_end_is_told_by_an_event() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let events = containerd.events();
        container.exec_shell("exit 12").id("watched").run().with_code(12).done();
        events.expect("/tasks/exec-added", "watched", Duration::from_secs(10));
        events.expect("/tasks/exec-started", "watched", Duration::from_secs(10));
        let exit = events.expect("/tasks/exit", "watched", Duration::from_secs(10));
        assert_eq!(exit.exit_status(), 12);
    });
}

#[test]
fn a_hundred_in_a_row_leave_nothing_in_the_container() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        for _ in 0..100 {
            container.exec(["/bin/true"]).run().ok().done();
        }
        let states = container.shell("ps -o stat");
        assert!(!states.contains('Z'), "zombies: {states}");
        assert_eq!(container.task("ps", &[]).ok().text().lines().count(), 2, "a heading and one process");
    });
}

/// The jail entered the namespace before it made the process, and could then not see the container's cgroup.
#[test]
fn it_enters_the_containers_cgroup_namespace() {
    test(|containerd| {
        let container = containerd.container().spec(|spec| {
            spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "cgroup" }));
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = container.start();
        let namespace = |process: &str| container.shell(&format!("readlink /proc/{process}/ns/cgroup"));
        assert_eq!(namespace("self"), namespace("1"));
    });
}
