//! Signals, and processes whose parents die.

use std::time::Duration;

use kata_e2e::{Bind, eventually, test};

#[test]
fn a_handler_of_the_workload_sees_the_signal() {
    test(|containerd| {
        let data = containerd.directory();
        let line = "trap 'echo usr1 >> /data/seen' USR1; trap 'exit 11' HUP; echo up > /data/seen; while :; do sleep 0.1; done";
        let container = containerd.container().bind(&Bind::writable(&data, "/data")).shell(line).start();
        let seen = || std::fs::read_to_string(data.join("seen")).unwrap_or_default();
        eventually("the workload is up", Duration::from_secs(20), || seen() == "up\n");
        container.signal("SIGUSR1");
        eventually("the handler runs", Duration::from_secs(20), || seen() == "up\nusr1\n");
        container.signal("SIGHUP");
        container.wait_until_stopped();
        assert_eq!(container.delete(), 11);
    });
}

/// `STOPSIGNAL SIGRTMIN+3` is that of images that run systemd. It was refused, and who died of such a signal was waited for for ever.
#[test]
fn signals_for_real_time_are_handled_and_end_processes() {
    test(|containerd| {
        let data = containerd.directory();
        let line = "trap 'exit 11' 37; echo up > /data/seen; while :; do sleep 0.1; done";
        let container = containerd.container().bind(&Bind::writable(&data, "/data")).shell(line).start();
        let seen = || std::fs::read_to_string(data.join("seen")).unwrap_or_default();
        eventually("the workload is up", Duration::from_secs(20), || seen() == "up\n");
        container.exec_shell("kill -37 $$").run().with_code(128 + 37).done();
        container.signal("37");
        container.wait_until_stopped();
        assert_eq!(container.delete(), 11);
    });
}

#[test]
fn one_process_of_many_can_be_killed() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let mut victim = container.exec_shell("echo up; exec sleep 2000").id("victim").attach();
        let mut other = container.exec_shell("echo up; exec sleep 3000").id("other").attach();
        victim.expect_line("up");
        other.expect_line("up");
        container.task("kill", &["--signal", "SIGKILL", "--exec-id", "victim"]).ok().done();
        victim.finish().with_code(137).done();
        assert_eq!(
            container.shell("ps -o args | grep '^sleep\\|^/bin/sleep'"),
            "/bin/sleep 1000\nsleep 3000"
        );
        assert_eq!(container.status(), "RUNNING");
        container.task("kill", &["--signal", "SIGTERM", "--exec-id", "other"]).ok().done();
        other.finish().with_code(143).done();
    });
}

#[test]
fn all_processes_can_be_signalled_at_once() {
    test(|containerd| {
        let data = containerd.directory();
        let child =
            "trap 'echo child >> /data/seen' USR1; echo up >> /data/seen; while :; do sleep 0.1; done";
        let line =
            format!("sh -c \"{child}\" & sh -c \"{child}\" & trap : USR1; while :; do sleep 0.1; done");
        let container = containerd.container().bind(&Bind::writable(&data, "/data")).shell(&line).start();
        let count = |word: &str| {
            std::fs::read_to_string(data.join("seen"))
                .unwrap_or_default()
                .lines()
                .filter(|l| *l == word)
                .count()
        };
        eventually("two children are up", Duration::from_secs(20), || count("up") == 2);
        container.task("kill", &["--all", "--signal", "SIGUSR1"]).ok().done();
        eventually("both children saw it", Duration::from_secs(20), || count("child") == 2);
    });
}

#[test]
fn killing_all_ends_the_container() {
    test(|containerd| {
        let container = containerd.container().shell("sleep 1000 & sleep 1000 & wait").start();
        container.task("kill", &["--all", "--signal", "SIGKILL"]).ok().done();
        container.wait_until_stopped();
        assert_eq!(container.delete(), 137);
    });
}

#[test]
fn the_end_of_the_first_process_ends_its_children() {
    test(|containerd| {
        // The children hold the output open: the end comes only if they end.
        let run = containerd.container().shell("sleep 1000 & (sleep 2000 &) ; echo done; exit 13").run();
        assert_eq!((run.code, run.text().as_str()), (13, "done"));
    });
}

#[test]
fn a_tree_whose_parent_dies_is_reaped() {
    test(|containerd| {
        let container = containerd.container().shell("while :; do sleep 0.2; done").start();
        // Three generations, of which the eldest ends first.
        container
            .exec_shell("(sleep 0.3; (sleep 0.6 &) ; exit 0) >/dev/null 2>&1 & exit 0")
            .run()
            .ok()
            .done();
        eventually("no orphan and no zombie is left", Duration::from_secs(20), || {
            let processes = container.shell("ps -o stat,args");
            !processes.contains('Z') && !processes.contains("sleep 0.3") && !processes.contains("sleep 0.6")
        });
    });
}

#[test]
fn the_exit_code_is_the_first_processs_not_an_orphans() {
    test(|containerd| {
        containerd.container().shell("(sh -c 'exit 21' &); sleep 0.5; exit 22").run().with_code(22).done();
    });
}

#[test]
fn a_container_that_ended_cannot_be_killed() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/true"]).start();
        container.wait_until_stopped();
        let refused = container.task("kill", &["--signal", "SIGKILL"]);
        assert!(
            refused.complaint().contains("not found") || refused.complaint().contains("finished"),
            "{refused:?}"
        );
        assert_eq!(container.delete(), 0);
    });
}

#[test]
fn an_unknown_process_cannot_be_killed() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        container.task("kill", &["--exec-id", "nobody"]).fails_because("nobody");
    });
}
