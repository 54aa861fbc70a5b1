//! Programs in a pod's containers, by `ExecSync` and through containerd's streaming server.

use std::time::{Duration, Instant};

use kata_e2e::cri_test;

#[test]
fn exec_tells_exit_code_and_both_streams() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        let finished = container.exec_shell("echo out; echo err >&2; exit 3").with_code(3);
        assert_eq!((finished.text().as_str(), finished.complaint().as_str()), ("out", "err"));
    });
}

#[test]
fn exec_carries_a_megabyte() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        let finished = container.exec_shell("head -c 1048576 /dev/zero; head -c 100000 /dev/zero >&2").ok();
        assert_eq!((finished.stdout.len(), finished.stderr.len()), (1 << 20, 100_000));
    });
}

#[test]
fn exec_is_killed_when_its_time_is_over() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        let begun = Instant::now();
        let cause = container.exec_within(Duration::from_secs(2), ["sleep", "987"]).unwrap_err();
        assert!(cause.contains("timeout"), "{cause}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        assert_eq!(container.shell("pgrep -f '[s]leep 987' | wc -l"), "0");
    });
}

#[test]
fn exec_of_a_program_that_is_not_there_names_it() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        let cause = container.exec_within(Duration::ZERO, ["/not/there"]).unwrap_err();
        assert!(cause.contains("/not/there") && cause.contains("no such file"), "{cause}");
    });
}

#[test]
fn a_streamed_program_has_standard_input_and_tells_its_exit_code() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        let mut stream = container.exec("read line; echo got $line; echo trouble >&2; exit 5", false);
        stream.write(b"something\n");
        let finished = stream.finish().with_code(5);
        assert_eq!((finished.text().as_str(), finished.complaint().as_str()), ("got something", "trouble"));
    });
}

#[test]
fn a_streamed_program_on_a_terminal_sees_its_size() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        let line = "stty -echo; echo ready; while read line; do stty size; test $line = end && exit 0; done";
        let mut stream = container.exec(line, true);
        stream.expect("ready");
        stream.resize(93, 37);
        // The size comes on a way of its own.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !String::from_utf8_lossy(&stream.stdout).contains("37 93") && Instant::now() < deadline {
            let seen = stream.stdout.len();
            stream.write(b"again\n");
            stream.expect_more_than(seen);
        }
        stream.write(b"end\n");
        let finished = stream.finish().ok();
        assert!(finished.text().contains("37 93"), "{finished:?}");
    });
}

#[test]
fn attach_reaches_the_workloads_streams() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let line = "while read line; do echo out $line; echo err $line >&2; test $line = end && exit 4; done";
        let container = pod.container("main").with(|config| config.stdin = true).shell(line).start();
        let mut stream = container.attach(true, false);
        stream.write(b"first\n");
        stream.expect("out first\n");
        stream.write(b"end\n");
        let finished = stream.finish();
        assert_eq!(finished.text(), "out first\nout end");
        assert_eq!(finished.complaint(), "err first\nerr end");
        container.wait();
        assert_eq!(container.ended().code, 4);
    });
}

#[test]
fn two_who_attach_both_see_what_a_terminal_shows() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").with(|config| (config.stdin, config.tty) = (true, true));
        let container = container.shell("stty -echo; while read line; do echo out $line; done").start();
        let mut first = container.attach(true, true);
        let mut second = container.attach(true, true);
        // Not before both are there.
        first.write(b"one\n");
        first.expect("out one");
        second.write(b"two\n");
        second.expect("out two");
        first.expect("out two");
    });
}
