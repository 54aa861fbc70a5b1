//! Terminals: size, resize, signals from keys, job control.

use std::time::Duration;

use kata_e2e::{eventually, test};

#[test]
fn a_workload_on_a_terminal_sees_a_terminal() {
    test(|containerd| {
        let line = "test -t 0 && test -t 1 && test -t 2 && tty";
        let (code, screen) = containerd.container().shell(line).terminal(80, 24).finish();
        assert_eq!((code, screen.trim_end()), (0, "/dev/pts/0"));
    });
}

#[test]
fn a_workload_without_a_terminal_sees_none() {
    test(|containerd| {
        containerd.container().shell("test -t 0 || test -t 1 || test -t 2").run().with_code(1).done();
    });
}

#[test]
fn the_exit_code_passes_the_terminal() {
    test(|containerd| {
        let (code, screen) = containerd.container().shell("echo bye; exit 3").terminal(80, 24).finish();
        assert_eq!((code, screen.as_str()), (3, "bye\n"));
    });
}

#[test]
fn all_output_before_the_end_is_on_the_screen() {
    test(|containerd| {
        let (code, screen) = containerd.container().shell("seq 1 20000").terminal(80, 24).finish();
        assert_eq!((code, screen.lines().count()), (0, 20_000));
        assert_eq!(screen.lines().last(), Some("20000"));
    });
}

#[test]
fn the_workload_begins_with_the_size_of_the_terminal() {
    test(|containerd| {
        let line = "until size=$(stty size 2>/dev/null) && [ \"$size\" ]; do sleep 0.1; done; echo $size";
        let (code, screen) = containerd.container().shell(line).terminal(123, 45).finish();
        assert_eq!((code, screen.trim_end()), (0, "45 123"));
    });
}

#[test]
fn a_resize_reaches_the_workload_with_a_signal() {
    test(|containerd| {
        let line =
            "trap 'echo now $(stty size)' WINCH; trap 'exit 0' INT; echo ready; while :; do sleep 0.1; done";
        let mut terminal = containerd.container().shell(line).terminal(80, 24);
        terminal.expect("ready");
        // `ctr` tells the size before it listens for changes (HandleConsoleResize): one in between is lost.
        let mut rows = 30;
        eventually("the new size arrives", Duration::from_secs(20), || {
            rows += 1;
            terminal.resize(101, rows);
            terminal.look_for(&format!("now {rows} 101"), Duration::from_secs(1)).is_some()
        });
        terminal.resize(40, 10);
        terminal.expect("now 10 40");
        terminal.type_in("\x03");
        assert_eq!(terminal.finish().0, 0);
    });
}

#[test]
fn ctrl_c_interrupts_the_foreground_and_not_the_shell() {
    test(|containerd| {
        let mut terminal = containerd.container().command(["/bin/sh", "-i"]).terminal(80, 24);
        terminal.expect("# ");
        terminal.type_in("sh -c 'echo rea''dy; exec sleep 1000'\n");
        terminal.expect("ready");
        terminal.type_in("\x03");
        terminal.expect("# ");
        terminal.type_in("echo code is $?\n");
        terminal.expect("code is 130");
        terminal.type_in("exit 6\n");
        assert_eq!(terminal.finish().0, 6);
    });
}

#[test]
fn jobs_can_be_stopped_and_continued() {
    test(|containerd| {
        let mut terminal = containerd.container().command(["/bin/sh", "-i"]).terminal(80, 24);
        let greeting = terminal.expect("# ");
        assert!(!greeting.contains("job control"), "the shell has no job control: {greeting}");
        terminal.type_in("sh -c 'while read word; do echo got-$word; done'\n");
        terminal.type_in("one\n");
        terminal.expect("got-one");
        terminal.type_in("\x1a");
        terminal.expect("Stopped");
        terminal.expect("# ");
        terminal.type_in("sleep 1000 & jobs\n");
        terminal.expect("Running");
        terminal.expect("# ");
        terminal.type_in("fg %1\n");
        terminal.type_in("two\n");
        terminal.expect("got-two");
        terminal.type_in("\x03");
        terminal.expect("# ");
        terminal.type_in("exit 0\n");
        assert_eq!(terminal.finish().0, 0);
    });
}

#[test]
fn ctrl_d_ends_the_input() {
    test(|containerd| {
        let mut terminal = containerd.container().command(["/bin/sh", "-i"]).terminal(80, 24);
        terminal.expect("# ");
        terminal.type_in("\x04");
        assert_eq!(terminal.finish().0, 0);
    });
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let mut terminal = container.exec(["/bin/sh", "-i"]).terminal(90, 30);
        let greeting = terminal.expect("# ");
        assert!(!greeting.contains("job control"), "the shell has no job control: {greeting}");
        eventually("the size arrives", Duration::from_secs(20), || {
            terminal.type_in("stty size\n");
            terminal.look_for("30 90", Duration::from_millis(300)).is_some()
        });
        // As above: `ctr` may not listen for changes yet when the guest has had the first size.
        let mut rows = 50;
        eventually("a new size arrives", Duration::from_secs(20), || {
            rows += 1;
            terminal.resize(70, rows);
            terminal.type_in("stty size\n");
            terminal.look_for(&format!("{rows} 70"), Duration::from_millis(500)).is_some()
        });
        terminal.type_in("exit 8\n");
        assert_eq!(terminal.finish().0, 8);
        assert_eq!(container.status(), "RUNNING");
    });
}
