//! What containers of a pod write: logs in the format of the Container Runtime Interface, termination messages.

use std::fs;

use kata_e2e::cri_test;
use kata_e2e::proto::Mount;

#[test]
fn each_line_has_time_stream_and_tag() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let ended = pod.container("main").shell("echo one; echo two >&2; printf three").run();
        let shown = |stream: &str| {
            let lines = ended.log.iter().filter(|line| line.stream == stream);
            lines.map(|line| (line.text.clone(), line.complete)).collect::<Vec<_>>()
        };
        assert_eq!(shown("stdout"), [("one".to_owned(), true), ("three".to_owned(), false)]);
        assert_eq!(shown("stderr"), [("two".to_owned(), true)]);
        assert!(ended.log.iter().all(|line| line.time.contains('T') && line.time.len() > 20), "{ended:?}");
    });
}

#[test]
fn ten_thousand_lines_arrive_in_order() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let ended = pod.container("main").shell("seq 10000").run();
        let expected: Vec<String> = (1..=10000).map(|number| number.to_string()).collect();
        assert_eq!(ended.text(), expected.join("\n"));
    });
}

#[test]
fn a_log_that_was_moved_away_is_reopened() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let line = "echo before; until test -e /go; do sleep 0.1; done; echo after";
        let container = pod.container("main").shell(line).start();
        container.wait_for_line("before");
        let (log, old) = (pod.logs().join("main.log"), pod.logs().join("main.log.1"));
        fs::rename(&log, &old).unwrap();
        container.reopen_log();
        container.shell("touch /go");
        container.wait();
        let ended = container.ended();
        assert_eq!(ended.text(), "after");
        assert!(fs::read_to_string(old).unwrap().trim_end().ends_with("stdout F before"));
    });
}

#[test]
fn a_termination_message_is_written_to_a_file_of_the_host() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let message = cri.containerd.directory().join("message");
        fs::write(&message, "").unwrap();
        let container = pod.container("main").with(|config| {
            config.mounts.push(Mount {
                container_path: "/dev/termination-log".to_owned(),
                host_path: message.to_string_lossy().into_owned(),
                ..Default::default()
            });
        });
        let ended = container.shell("echo why it ended > /dev/termination-log; exit 2").run();
        assert_eq!(ended.code, 2);
        assert_eq!(fs::read_to_string(message).unwrap(), "why it ended\n");
    });
}
