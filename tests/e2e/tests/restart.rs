//! containerd ends and comes back while containers run.

use std::fs;
use std::time::Duration;

use kata_e2e::{Bind, eventually, test};
use nix::sys::signal::Signal;

#[test]
fn a_container_outlives_containerd() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let boot = container.shell("echo written before > /file; cat /proc/sys/kernel/random/boot_id");
        containerd.stop(Signal::SIGTERM);
        containerd.start_again();
        assert_eq!(container.status(), "RUNNING");
        assert_eq!(container.shell("cat /proc/sys/kernel/random/boot_id"), boot);
        assert_eq!(container.shell("cat /file"), "written before");
        container.signal("SIGKILL");
        container.wait_until_stopped();
        assert_eq!(container.delete(), 137);
    });
}

#[test]
fn a_container_outlives_a_killed_containerd() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        containerd.stop(Signal::SIGKILL);
        containerd.start_again();
        assert_eq!(container.shell("echo still here"), "still here");
        container.remove();
    });
}

#[test]
fn an_end_while_containerd_is_away_is_known_afterwards() {
    test(|containerd| {
        let data = containerd.directory();
        let line = "while [ ! -e /data/go ]; do sleep 0.1; done; touch /data/gone; exit 17";
        let container = containerd.container().bind(&Bind::writable(&data, "/data")).shell(line).start();
        containerd.stop(Signal::SIGTERM);
        fs::write(data.join("go"), "").unwrap();
        eventually("the workload ends", Duration::from_secs(20), || data.join("gone").exists());
        containerd.start_again();
        container.wait_until_stopped();
        assert_eq!(container.delete(), 17);
    });
}

#[test]
fn pause_and_exec_work_after_two_restarts() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        for _ in 0..2 {
            containerd.stop(Signal::SIGTERM);
            containerd.start_again();
        }
        container.task("pause", &[]).ok().done();
        container.task("resume", &[]).ok().done();
        container.exec_shell("exit 33").run().with_code(33).done();
    });
}

#[test]
fn an_exit_event_comes_after_the_restart() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        containerd.stop(Signal::SIGTERM);
        containerd.start_again();
        let events = containerd.events();
        container.signal("SIGKILL");
        let exit = events.expect("/tasks/exit", container.id(), Duration::from_secs(20));
        assert_eq!(exit.exit_status(), 137);
    });
}
