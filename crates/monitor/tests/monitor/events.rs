//! What happens, as it happens.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;

use crate::cri::Manager;
use crate::scene::{Monitor, Scene};

const TEXT: &str = "a 1\n";

struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(monitor: &Monitor, fields: &[&str]) -> Self {
        Self(BufReader::new(monitor.ask("/events", fields)))
    }

    /// The first line from here on that has all of these.
    fn find(&mut self, words: &[&str]) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).expect("an event comes"), 0, "the stream has ended");
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
    }
}

#[test]
fn events_come_from_the_directories_and_from_the_shims() {
    let scene = Scene::new();
    let old = scene.shim("old", TEXT);
    let monitor = scene.monitor(&[]);
    monitor.awaits("it", |monitor| monitor.ids() == "old");
    let mut stream = Stream::open(&monitor, &[]);
    stream.find(&["\"event\":\"present\"", "\"sandbox_id\":\"old\""]);
    stream.find(&["\"event\":\"listening\"", "\"sandbox_id\":\"old\""]);
    assert!(old.tell(r#"{"event":"oom","container":"web","sandbox_id":"other"}"#));
    let oom = stream.find(&["\"event\":\"oom\""]);
    assert!(oom.contains("\"container\":\"web\"") && oom.contains("\"sandbox_id\":\"old\""), "{oom}");
    assert!(oom.contains("\"time\":\"20"), "{oom}");
    let new = scene.shim("new", TEXT);
    stream.find(&["\"event\":\"started\"", "\"sandbox_id\":\"new\""]);
    stream.find(&["\"event\":\"listening\"", "\"sandbox_id\":\"new\""]);
    assert!(new.tell(r#"{"event":"vm-died","reason":"killed"}"#));
    stream.find(&["\"event\":\"vm-died\"", "\"reason\":\"killed\"", "\"sandbox_id\":\"new\""]);
    drop(new);
    stream.find(&["\"event\":\"exited\"", "\"sandbox_id\":\"new\""]);
    old.die();
    stream.find(&["\"event\":\"shim-died\"", "\"sandbox_id\":\"old\""]);
}

/// Each holds a connection for as long as it likes.
#[test]
fn listeners_leave_connections_for_others() {
    let monitor = Scene::new().monitor(&[]);
    let mut listening: Vec<_> = (0..32).map(|_| Stream::open(&monitor, &[])).collect();
    for stream in &mut listening {
        stream.find(&["HTTP/1.1 200 "]);
    }
    let (head, words) = monitor.get("/events", &[]);
    assert!(head.starts_with("HTTP/1.1 503 ") && words.contains("try again"), "{head} {words}");
    assert!(monitor.get("/sandboxes", &[]).0.starts_with("HTTP/1.1 200 "));
    listening.pop();
    let one_more = || Stream::open(&monitor, &[]).0.lines().next().unwrap().unwrap();
    monitor.awaits("a place", |_| one_more().starts_with("HTTP/1.1 200 "));
}

/// Seen with pods whose VM died on a busy machine: `exited` came before `vm-died`, and that without the pod's name.
#[test]
fn the_end_of_a_sandbox_is_told_after_the_last_words_of_its_shim() {
    let scene = Scene::new();
    let shim = scene.shim("s", TEXT);
    let manager = Manager::start(&scene.path("cri.sock"));
    manager.add("s", "web");
    let monitor = scene.monitor(&[]);
    let mut stream = Stream::open(&monitor, &[]);
    stream.find(&["\"event\":\"listening\"", "\"sandbox_id\":\"s\""]);
    shim.tidy();
    monitor.awaits("it is gone", |monitor| monitor.ids().is_empty());
    assert!(shim.tell(r#"{"event":"vm-died","reason":"killed"}"#));
    drop(shim);
    stream.find(&["\"event\":\"vm-died\"", "\"cri_name\":\"web\""]);
    stream.find(&["\"event\":\"exited\"", "\"cri_name\":\"web\""]);
}

#[test]
fn browsers_get_server_sent_events() {
    let scene = Scene::new();
    let monitor = scene.monitor(&[]);
    let mut stream = Stream::open(&monitor, &["Accept: text/event-stream"]);
    stream.find(&["content-type: text/event-stream"]);
    let _shim = scene.shim("s", TEXT);
    stream.find(&["event: started"]);
    stream.find(&["data: {", "\"sandbox_id\":\"s\""]);
}

#[test]
fn shims_are_listened_to_only_while_somebody_listens() {
    let scene = Scene::new();
    let shim = scene.shim("s", TEXT);
    let monitor = scene.monitor(&[]);
    monitor.awaits("it", |monitor| monitor.ids() == "s");
    assert!(!shim.tell("{}"), "nobody listens");
    let mut stream = Stream::open(&monitor, &[]);
    stream.find(&["listening"]);
    assert!(shim.tell("{}"));
    drop(stream);
    monitor.awaits("nobody listens any more", |_| !shim.tell("{}"));
}
