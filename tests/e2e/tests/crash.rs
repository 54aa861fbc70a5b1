//! Processes killed by SIGKILL, at rest and during the start: the end is told, and nothing is left.

use std::sync::mpsc;
use std::time::Duration;

use kata_e2e::{Container, Containerd, NOBODY_CALLED, Process, eventually, kata_test, test};

const QEMU: &str = "qemu-system-x86_64";
const VIRTIOFSD: &str = "virtiofsd";
const SHIM: &str = "containerd-shim-kata-v2";

fn only(containerd: &Containerd, program: &str) -> Process {
    let found = containerd.processes_of(program);
    assert_eq!(
        found.iter().filter(|p| !p.command.contains(" delete")).count(),
        1,
        "one {program}: {found:#?}"
    );
    found[0].clone()
}

/// As an operator cleans up after a crash.
fn remove(containerd: &Containerd, container: &Container) {
    forget(containerd, container);
    eventually("no process is left", Duration::from_secs(20), || containerd.processes().is_empty());
}

fn forget(containerd: &Containerd, container: &Container) {
    if !container.status().is_empty() {
        container.task("delete", &["--force"]).done();
    }
    containerd.ctr(["containers", "rm", container.id()]).done();
}

#[test]
fn a_killed_vm_gives_exit_137_within_a_second() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let events = containerd.events();
        only(containerd, QEMU).kill();
        let exit = events.expect("/tasks/exit", container.id(), Duration::from_secs(1));
        assert_eq!(exit.exit_status(), 137);
        assert_eq!(container.status(), "STOPPED");
        assert_eq!(container.delete(), 137);
    });
}

#[test]
fn an_exec_ends_with_the_killed_vm() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let mut exec = container.exec_shell("echo up; exec sleep 1000").attach();
        exec.expect_line("up");
        only(containerd, QEMU).kill();
        exec.finish_within(Duration::from_secs(20)).with_code(137).done();
        assert_eq!(container.delete(), 137);
    });
}

#[test]
fn a_foreground_run_ends_with_the_killed_vm() {
    kata_test(|containerd| {
        let mut run = containerd.container().shell("echo up; exec sleep 1000").attach();
        run.expect_line("up");
        only(containerd, QEMU).kill();
        run.finish_within(Duration::from_secs(20)).with_code(137).done();
    });
}

#[test]
fn a_killed_virtiofsd_can_be_cleaned_up() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        for process in containerd.processes_of(VIRTIOFSD) {
            process.kill();
        }
        remove(containerd, &container);
    });
}

#[test]
fn a_killed_virtiofsd_ends_all_with_137_and_the_log_says_why() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let mut exec = container.exec_shell("echo up; while ls -R / ; do :; done > /dev/null 2>&1").attach();
        exec.expect_line("up");
        let events = containerd.events();
        for process in containerd.processes_of(VIRTIOFSD) {
            process.kill();
        }
        let exit = events.expect("/tasks/exit", container.id(), Duration::from_secs(10));
        assert_eq!(exit.exit_status(), 137);
        exec.finish_within(Duration::from_secs(20)).with_code(137).done();
        assert_eq!(container.delete(), 137);
        assert!(containerd.log().contains("virtiofsd, which the VM's files come from, has ended"));
    });
}

#[test]
fn a_killed_shim_gives_an_exit_event_and_leaves_nothing() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let events = containerd.events();
        only(containerd, SHIM).kill();
        let exit = events.expect("/tasks/exit", container.id(), Duration::from_secs(20));
        assert_eq!(exit.exit_status(), 137);
        remove(containerd, &container);
    });
}

#[test]
fn all_killed_at_once_leave_nothing() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        for program in [SHIM, QEMU, VIRTIOFSD] {
            for process in containerd.processes_of(program) {
                process.kill();
            }
        }
        remove(containerd, &container);
    });
}

#[test]
fn the_other_sandbox_survives_a_crash() {
    kata_test(|containerd| {
        let survivor = containerd.container().command(["/bin/sleep", "1000"]).start();
        let victim = containerd.container().command(["/bin/sleep", "1000"]).start();
        victim.processes().iter().find(|process| process.is(QEMU)).unwrap().kill();
        victim.wait_until_stopped();
        assert_eq!(victim.delete(), 137);
        assert_eq!(survivor.shell("echo alive"), "alive");
    });
}

#[test]
fn a_vm_killed_while_it_is_paused_can_be_removed() {
    kata_test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        container.task("pause", &[]).ok().done();
        only(containerd, QEMU).kill();
        remove(containerd, &container);
    });
}

/// Starts containers and kills `program` at several times after it has appeared.
fn kill_during_start(containerd: &Containerd, program: &str) {
    for delay in [0, 20, 100, 300, 700, 1200, 2000] {
        let (container, start) = containerd.container().command(["/bin/sleep", "1000"]).start_in_background();
        eventually(&format!("{program} is there"), Duration::from_secs(20), || {
            !containerd.processes_of(program).is_empty()
        });
        let (_sender, never) = mpsc::channel::<()>();
        let _ = never.recv_timeout(Duration::from_millis(delay));
        // The shim is its server: killed together with the action `start`, nobody is left who knows of it.
        for process in containerd.processes_of(program).iter().filter(|p| !p.command.ends_with(" start")) {
            process.kill();
        }
        // It fails, or was through before the kill.
        let ended = start.finish_within(Duration::from_secs(60));
        if ended.complaint().contains(NOBODY_CALLED) {
            forget(containerd, &container);
            // The next sandbox's server sweeps what the lost one has left.
            remove(containerd, &containerd.container().command(["/bin/sleep", "1000"]).start());
        } else {
            remove(containerd, &container);
        }
    }
}

#[test]
fn a_shim_killed_during_the_start_leaves_nothing() {
    kata_test(|containerd| kill_during_start(containerd, SHIM));
}

#[test]
fn a_qemu_killed_during_the_start_leaves_nothing() {
    kata_test(|containerd| kill_during_start(containerd, QEMU));
}

#[test]
fn a_virtiofsd_killed_during_the_start_leaves_nothing() {
    kata_test(|containerd| kill_during_start(containerd, VIRTIOFSD));
}

#[test]
fn a_qemu_killed_during_the_start_is_the_cause_in_the_error() {
    kata_test(|containerd| {
        let (container, start) = containerd.container().command(["/bin/sleep", "1000"]).start_in_background();
        eventually("QEMU is there", Duration::from_secs(20), || !containerd.processes_of(QEMU).is_empty());
        only(containerd, QEMU).kill();
        let failed = start.finish();
        assert_ne!(failed.code, 0, "{failed:?}");
        assert!(failed.complaint().to_lowercase().contains("qemu"), "{failed:?}");
        remove(containerd, &container);
    });
}

#[test]
fn a_ctr_killed_during_the_start_leaves_nothing_after_removal() {
    test(|containerd| {
        let (container, start) = containerd.container().command(["/bin/sleep", "1000"]).start_in_background();
        let shims =
            || containerd.processes().iter().filter(|p| p.command.contains("containerd-shim-")).count();
        eventually("the shim is there", Duration::from_secs(20), || shims() > 0);
        drop(start);
        eventually("it can be removed", Duration::from_secs(30), || {
            let _ = container.task("delete", &["--force"]);
            let _ = containerd.ctr(["containers", "rm", container.id()]);
            containerd.processes().is_empty()
        });
    });
}

/// `start` and its server killed at the same moment left all they had made.
#[test]
fn a_shim_killed_together_with_its_start_leaves_nothing_after_delete() {
    kata_test(|containerd| {
        let bundle = containerd.unknown_bundle();
        bundle.kill_start_and_server();
        only(containerd, QEMU);
        bundle.delete().ok().done();
        assert_eq!(containerd.processes(), []);
        bundle.delete().ok().done();
    });
}

/// The same, and containerd, whose `start` has failed, does not call `delete`.
#[test]
fn the_next_sandbox_cleans_up_after_a_shim_killed_together_with_its_start() {
    kata_test(|containerd| {
        let lost = containerd.unknown_bundle();
        lost.kill_start_and_server();
        let remains = containerd.processes();
        let next = containerd.container().command(["/bin/sleep", "1000"]).start();
        eventually("the lost sandbox has gone", Duration::from_secs(20), || {
            let now = containerd.processes();
            !lost.state().exists() && !remains.iter().any(|process| now.contains(process))
        });
        assert_eq!(next.shell("echo alive"), "alive");
        only(containerd, QEMU);
    });
}
