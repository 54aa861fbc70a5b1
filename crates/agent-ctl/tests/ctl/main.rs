//! The program as a user has it, with a real agent.

mod agent;
mod carriers;
#[path = "../../../log-parser/tests/cli/transcript.rs"]
mod transcript;
mod usage;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use agent::{Agent, PROGRAM, answers, errors, skips};
use serde_json::json;

/// Runs a test with an agent, where that is possible.
macro_rules! agent_test {
    ($name:ident, |$agent:ident| $body:expr) => {
        #[test]
        fn $name() {
            if crate::agent::skips() {
                return;
            }
            let $agent = crate::agent::Agent::start();
            $body
        }
    };
}
pub(crate) use agent_test;

agent_test!(health_version_and_details_are_answered, |agent| {
    let all = answers(&agent.connect(&["-c", "Check", "-c", "Version", "-c", "GetGuestDetails"]));
    assert_eq!(all[0], json!({ "status": "SERVING" }));
    assert_eq!(all[1]["agent_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(all[2]["agent_details"]["init_daemon"], false);
});

agent_test!(metrics_interfaces_and_routes_are_answered, |agent| {
    let all = answers(&agent.connect(&["-c", "GetMetrics", "-c", "ListInterfaces", "-c", "ListRoutes"]));
    assert!(all[0]["metrics"].as_str().expect("is text").contains("kata_agent_"));
    assert_eq!(all[1]["Interfaces"][0]["name"], "lo");
    assert_eq!(all[2], json!({ "Routes": [] }));
});

agent_test!(a_container_lives_and_ends_by_its_bundle, |agent| {
    let bundle = agent.bundle();
    let life = [
        "CreateSandbox",
        "CreateContainer",
        "StartContainer",
        "ReadStdout len=100",
        "WriteStdin data=four\\n",
        "WriteStdin json://{\"data\": \"Cg==\"}",
        "WaitProcess",
        "StatsContainer",
        "RemoveContainer",
        "DestroySandbox",
    ];
    let mut words = vec!["--bundle-dir", &bundle];
    words.extend(life.iter().flat_map(|command| ["-c", command]));
    let all = answers(&agent.connect(&words));
    assert_eq!(all.len(), life.len());
    assert_eq!(all[3], json!({ "data": "aGVsbG8K" }));
    // A backslash takes the meaning from what follows: the line is `fourn`, and the exit code its length.
    assert_eq!((&all[4], &all[6]), (&json!({ "len": 5 }), &json!({ "status": 5 })));
    assert!(all[7]["cgroup_stats"].is_object(), "{}", all[7]);
});

agent_test!(a_process_is_added_to_a_container_of_a_given_name, |agent| {
    let bundle = agent.bundle();
    let exec = r#"ExecProcess container_id=web exec_id=e process.Terminal=false process=json://{"args": ["sh", "-c", "exit 3"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}"#;
    let wrong = agent.connect(&["--bundle-dir", &bundle, "-c", exec]);
    assert!(errors(&wrong).contains("process is given twice"), "{}", errors(&wrong));
    let exec = exec.replace("process.Terminal=false ", "");
    let all = answers(&agent.connect(&[
        "-b",
        &bundle,
        "-c",
        "CreateSandbox",
        "-c",
        "CreateContainer container_id=web",
        "-c",
        "StartContainer container_id=web",
        "-c",
        &exec,
        "-c",
        "WaitProcess container_id=web exec_id=e",
        "-c",
        "SignalProcess container_id=web signal=9",
        "-c",
        "WaitProcess container_id=web",
        "-c",
        "Pids container_id=web",
    ]));
    assert_eq!((&all[4], &all[6]), (&json!({ "status": 3 }), &json!({ "status": 137 })));
    assert_eq!(all[7], json!({ "pids": [] }));
});

agent_test!(a_refusal_has_its_code_and_ends_with_3, |agent| {
    let output = agent.connect(&["-c", "StartContainer container_id=x", "-c", "Check"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b""[..]));
    let expected = "kata-agent-ctl: StartContainer: the agent refuses (NOT_FOUND): There is no container x";
    assert_eq!(errors(&output), expected);
});

agent_test!(errors_may_be_ignored, |agent| {
    let output = agent.connect(&["--ignore-errors", "-c", "StartContainer container_id=x", "-c", "Check"]);
    assert_eq!(answers(&output), [json!({ "status": "SERVING" })]);
    assert!(errors(&output).contains("NOT_FOUND"), "{}", errors(&output));
});

agent_test!(nothing_is_sent_if_a_later_command_is_wrong, |agent| {
    let output = agent.connect(&["-c", "Check", "-c", "SignalProcess signl=9"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]));
    assert!(errors(&output).contains("did you mean `signal`?"), "{}", errors(&output));
});

agent_test!(without_automatic_values_nothing_is_filled_in, |agent| {
    let output = agent.connect(&["-n", "-c", "StartContainer"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("is not given"));
});

agent_test!(commands_are_repeated_and_paused_and_ended, |agent| {
    let started = Instant::now();
    let commands = [
        "-c",
        "repeat 2",
        "-c",
        "Check",
        "-c",
        "repeat 3 echo {}",
        "-c",
        "sleep 200ms",
        "-c",
        "quit",
        "-c",
        "Check",
    ];
    assert_eq!(answers(&agent.connect(&commands)).len(), 5);
    assert!(started.elapsed().as_millis() >= 200);
});

agent_test!(scripts_are_run_in_the_order_of_the_command_line, |agent| {
    let script = agent.folder.path().join("script");
    std::fs::write(&script, "# a comment\n\nrepeat 2\nCheck\n").expect("written");
    let script = script.display().to_string();
    let output = agent.connect(&[
        "-c",
        "echo 1",
        "-f",
        &script,
        "-c",
        "echo 2",
        "-c",
        &format!("@{script}"),
        "-c",
        "echo 3",
    ]);
    let serving = json!({ "status": "SERVING" });
    assert_eq!(
        answers(&output),
        [json!(1), serving.clone(), serving.clone(), json!(2), serving.clone(), serving, json!(3)]
    );
    std::fs::write(&script, "Check\nChek\n").expect("written");
    let output = agent.connect(&["-f", &script]);
    let expected = format!(
        "kata-agent-ctl: {script}:2: There is no request `Chek`; did you mean Check?; `list` prints all"
    );
    assert_eq!((output.status.code(), errors(&output)), (Some(2), expected));
});

agent_test!(somebody_who_types_may_err, |agent| {
    let mut child = Command::new(PROGRAM)
        .args([
            "connect",
            "--interactive",
            "--server-address",
            &format!("unix://{}", agent.socket().display()),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("can be run");
    let typed = b"Chek\nStartContainer container_id=x\nrepeat 2\nCheck\nquit\nCheck\n";
    child.stdin.take().expect("is piped").write_all(typed).expect("is read");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(answers(&output).len(), 2);
    assert_eq!(errors(&output).lines().count(), 2, "{}", errors(&output));
});

agent_test!(a_request_that_takes_too_long_is_given_up, |agent| {
    let output = agent.connect(&["--timeout", "100ms", "-c", "GetOOMEvent"]);
    let expected =
        "kata-agent-ctl: GetOOMEvent: no answer within 100 ms; --timeout sets how long one may take";
    assert_eq!((output.status.code(), errors(&output).as_str()), (Some(1), expected));
});

#[test]
fn the_transcripts_in_the_documentation_are_what_the_program_does() {
    if skips() {
        return;
    }
    let agent = Agent::start();
    // The document has one path for all.
    let document = include_str!("../../../../docs/tools.md")
        .replace("/run/agent.sock", &agent.socket().display().to_string())
        .replace("/tmp/bundle", &agent.bundle());
    for (command, expected) in transcript::of(&document, "kata-agent-ctl") {
        let printed = transcript::run(&command, agent.folder.path(), PROGRAM);
        transcript::compare(printed, expected);
    }
}
