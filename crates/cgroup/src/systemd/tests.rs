//! Scopes, as a stand-in is asked for them and as the real systemd makes them.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use super::stand_in::{Manner, StandIn};
use super::{Scope, Systemd};

const UNIT: &str = "cri-containerd-abc.scope";

fn scope() -> Scope {
    let description = "Kata Containers sandbox abc".to_owned();
    Scope { unit: UNIT.to_owned(), slice: "kubepods-pod1.slice".to_owned(), description }
}

/// What becomes of the request for [`scope`].
fn told(manner: Manner) -> (bool, String) {
    let host = StandIn::new(manner);
    let error = host.systemd().start(&scope(), &[std::process::id()]).unwrap_err();
    (error.is_final(), error.to_string())
}

#[test]
fn a_scope_is_asked_for_with_all_that_it_needs() {
    let host = StandIn::new(Manner::EndsAs("done"));
    let processes = [std::process::id(), std::os::unix::process::parent_id()];
    host.systemd().start(&scope(), &processes).unwrap();
    let mut asked = host.asked();
    let asked = asked.pop().unwrap();
    assert_eq!(
        (asked.method.as_str(), asked.unit.as_str(), asked.mode.as_str()),
        ("StartTransientUnit", UNIT, "fail")
    );
    assert_eq!(asked.processes, processes);
    let mut properties: Vec<_> = asked.properties.iter().filter(|(name, _)| *name != "PIDs").collect();
    properties.sort();
    let expected = [
        ("CollectMode", "inactive-or-failed"),
        ("DefaultDependencies", "Base(Boolean(false))"),
        ("Delegate", "Base(Boolean(true))"),
        ("Description", "Kata Containers sandbox abc"),
        ("Slice", "kubepods-pod1.slice"),
        ("TasksMax", "Base(Uint64(18446744073709551615))"),
    ];
    let properties: Vec<_> = properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(properties, expected);
}

#[test]
fn a_refusal_names_the_scope_and_says_why() {
    let (is_final, text) = told(Manner::Refuses("org.freedesktop.systemd1.UnitExists"));
    let expected = format!("Cannot start the scope {UNIT} by systemd at /");
    assert!(is_final && text.starts_with(&expected), "{text}");
    let expected = format!(
        "it refuses with org.freedesktop.systemd1.UnitExists: it is so; `systemctl status {UNIT}` and the"
    );
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_job_that_fails_names_the_scope() {
    let (is_final, text) = told(Manner::EndsAs("failed"));
    let expected = format!(
        "systemd could not start the scope {UNIT}, its job ended as \"failed\"; `journalctl --unit {UNIT}` says why"
    );
    assert!(is_final);
    assert_eq!(text, expected);
}

#[test]
fn where_a_connection_breaks_a_scope_may_be_made_all_the_same() {
    let (is_final, text) = told(Manner::Vanishes);
    assert!(!is_final && text.contains(UNIT) && text.contains("the connection fails"), "{text}");
}

#[test]
fn no_answer_in_time_is_an_error_that_names_the_scope() {
    let host = StandIn::new(Manner::IsSilent);
    let systemd = host.systemd_within(Duration::from_secs(1));
    let text = systemd.start(&scope(), &[std::process::id()]).unwrap_err().to_string();
    assert!(text.contains(UNIT) && text.contains("no answer within 1 s"), "{text}");
}

#[test]
fn who_does_not_even_greet_is_not_waited_for_without_end() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("bus");
    let _listener = UnixListener::bind(&socket).unwrap();
    let systemd = Systemd { patience: Duration::from_millis(100), ..Systemd::at(socket) };
    let error = systemd.start(&scope(), &[std::process::id()]).unwrap_err();
    assert!(error.is_final() && error.to_string().contains("no answer within 0.1 s"), "{error}");
}

#[test]
fn who_hangs_up_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("bus");
    let listener = UnixListener::bind(&socket).unwrap();
    let hangs_up = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let error = Systemd::at(socket).start(&scope(), &[std::process::id()]).unwrap_err();
    hangs_up.join().unwrap();
    assert!(error.is_final(), "{error}");
}

#[test]
fn a_scope_is_ended_by_its_name() {
    let host = StandIn::new(Manner::EndsAs("done"));
    host.systemd().stop(UNIT).unwrap();
    let asked = host.asked().pop().unwrap();
    assert_eq!((asked.method, asked.unit, asked.mode), ("StopUnit".into(), UNIT.into(), "replace".into()));
}

#[test]
fn a_scope_that_has_gone_by_itself_need_not_be_ended() {
    let host = StandIn::new(Manner::Refuses("org.freedesktop.systemd1.NoSuchUnit"));
    host.systemd().stop(UNIT).unwrap();
    assert_eq!(host.asked().len(), 1);
}

#[test]
fn a_scope_that_is_not_ended_is_an_error() {
    let host = StandIn::new(Manner::EndsAs("timeout"));
    let text = host.systemd().stop(UNIT).unwrap_err().to_string();
    assert!(text.starts_with(&format!("systemd could not stop the scope {UNIT}")), "{text}");
}

#[test]
fn systemd_is_found_by_the_documented_socket_first() {
    let temp = tempfile::tempdir().unwrap();
    let found = || Systemd::below(temp.path()).map(|systemd| systemd.socket);
    for directory in ["systemd", "dbus"] {
        fs::create_dir(temp.path().join(directory)).unwrap();
    }
    let [private, bus] = ["systemd/private", "dbus/system_bus_socket"].map(|name| temp.path().join(name));
    fs::write(&private, "").unwrap();
    assert_eq!(found(), None, "this host was booted by something else");
    fs::create_dir(temp.path().join("systemd/system")).unwrap();
    assert_eq!(found(), Some(private));
    fs::write(&bus, "").unwrap();
    assert_eq!(found(), Some(bus));
}

#[test]
#[ignore = "needs root and a host that systemd runs, such as one in a VM"]
fn the_real_systemd_makes_a_scope_and_forgets_it() {
    let systemd = Systemd::of_host().unwrap();
    let mut process = Command::new("sleep").arg("1000").spawn().unwrap();
    let scope = Scope { slice: "kata-test.slice".to_owned(), ..scope() };
    systemd.start(&scope, &[process.id()]).unwrap();
    let place = fs::read_to_string(format!("/proc/{}/cgroup", process.id())).unwrap();
    assert_eq!(
        place.lines().find_map(|line| line.strip_prefix("0::")),
        Some("/kata.slice/kata-test.slice/cri-containerd-abc.scope")
    );
    let shown = shown("Description,Delegate,DefaultDependencies,CollectMode,TasksMax");
    for line in [
        "Description=Kata Containers sandbox abc",
        "Delegate=yes",
        "DefaultDependencies=no",
        "CollectMode=inactive-or-failed",
        "TasksMax=infinity",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    let taken = systemd.start(&scope, &[process.id()]).unwrap_err();
    assert!(taken.is_final() && taken.to_string().contains("UnitExists"), "{taken}");
    systemd.stop(UNIT).unwrap();
    assert!(!process.wait().unwrap().success(), "it has ended with its scope");
    assert_eq!(shown_state(), "not-found");
    systemd.stop(UNIT).unwrap();
}

fn shown(properties: &str) -> String {
    let show = Command::new("systemctl").args(["show", "--property", properties, UNIT]).output().unwrap();
    String::from_utf8(show.stdout).unwrap()
}

fn shown_state() -> String {
    shown("LoadState").trim().trim_start_matches("LoadState=").to_owned()
}
