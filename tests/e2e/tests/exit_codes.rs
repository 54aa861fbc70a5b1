//! The exit code of the workload is the exit code of `ctr`.

use std::time::Duration;

use kata_e2e::test;

#[test]
fn success_is_zero() {
    test(|containerd| containerd.container().command(["/bin/true"]).run().ok().done());
}

#[test]
fn failure_is_one() {
    test(|containerd| containerd.container().command(["/bin/false"]).run().with_code(1).done());
}

#[test]
fn every_bit_of_the_code_arrives() {
    test(|containerd| containerd.container().shell("exit 254").run().with_code(254).done());
}

#[test]
fn the_code_is_there_after_the_workload_has_ended_by_itself() {
    test(|containerd| {
        let container = containerd.container().shell("exit 42").start();
        container.wait_until_stopped();
        assert_eq!(container.delete(), 42);
    });
}

#[test]
fn sigkill_gives_137() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        container.signal("SIGKILL");
        container.wait_until_stopped();
        assert_eq!(container.delete(), 137);
    });
}

#[test]
fn sigterm_gives_143() {
    test(|containerd| {
        // The first process of a PID namespace is not killed by a signal that it has no handler for.
        let line = "trap 'exit 143' TERM; touch /up; while :; do sleep 0.1; done";
        let container = containerd.container().shell(line).start();
        let _ = container.shell("while [ ! -e /up ]; do sleep 0.1; done");
        container.signal("SIGTERM");
        container.wait_until_stopped();
        assert_eq!(container.delete(), 143);
    });
}

#[test]
fn a_process_killed_by_a_signal_gives_128_and_the_signal() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        for (signal, code) in [("HUP", 129), ("ABRT", 134), ("KILL", 137), ("SEGV", 139), ("TERM", 143)] {
            container.exec_shell(&format!("kill -{signal} $$")).run().with_code(code).done();
        }
    });
}

#[test]
fn a_program_that_is_not_there_is_named_in_the_error() {
    test(|containerd| {
        containerd.container().command(["/bin/no-such-program"]).run().fails_because("no-such-program");
    });
}

#[test]
fn the_exit_event_holds_the_code() {
    test(|containerd| {
        let events = containerd.events();
        let container = containerd.container().shell("exit 3").start();
        let exit = events.expect("/tasks/exit", container.id(), Duration::from_secs(20));
        assert_eq!(exit.exit_status(), 3);
    });
}
