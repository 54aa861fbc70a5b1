//! The management socket, against clients that mean well and others.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hyper::body::Bytes;
use kata_metrics::Selection;
use kata_sandbox::{Inspection, Interface, PidInfo, Route, SandboxStatus, Stream, VolumeStats, VolumeUsage};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::listener::{self, Limits, may_speak, serve};
use super::routes::BodyLimits;
use super::{Feed, Happening, Managed};
use crate::backend::{Failure, Kind};

const PATIENCE: Duration = Duration::from_secs(20);

/// Small enough to be reached in a test, and longer than the machine is busy with something else.
const LIMITS: Limits = Limits {
    connections: 2,
    head: Duration::from_millis(500),
    body: BodyLimits { bytes: 100, time: Duration::from_millis(500) },
    connection: PATIENCE,
};

/// A sandbox that writes down what it is asked for.
#[derive(Default)]
struct Made(Mutex<Vec<String>>, Feed);

impl Made {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Managed for Made {
    async fn agent_url(&self) -> Result<String, Failure> {
        Ok("vsock://5:1024".to_owned())
    }

    async fn guest_log_level(&self, level: Option<String>) -> Result<String, Failure> {
        self.note(format!("agent {level:?}"));
        Ok("warn".to_owned())
    }

    async fn console(&self) -> Result<Stream, Failure> {
        let (guest, ours) = UnixStream::pair().map_err(|error| Failure::of(Kind::Unknown, &error))?;
        tokio::spawn(async move {
            let (mut from, mut to) = guest.into_split();
            tokio::io::copy(&mut from, &mut to).await.ok();
        });
        self.note("console".to_owned());
        Ok(ours.into())
    }

    async fn metrics(&self, selection: Selection) -> Result<String, Failure> {
        self.note(format!("metrics {}", selection.words().join(" ")));
        Ok("kata_shim_fds 7\n".to_owned())
    }

    async fn packet_filter(&self, v6: bool) -> Result<Vec<u8>, Failure> {
        Err(Failure::new(Kind::FailedPrecondition, format!("No programs (v6: {v6})")))
    }

    async fn set_packet_filter(&self, v6: bool, rules: Vec<u8>) -> Result<Vec<u8>, Failure> {
        self.note(format!("{v6} {}", String::from_utf8(rules).unwrap()));
        Ok(Vec::new())
    }

    async fn inspect(&self) -> Result<Inspection, Failure> {
        let (id, containers) = ("s".to_owned(), Vec::new());
        Ok(Inspection { id, status: SandboxStatus::Running, reason: None, pid: 7, size: None, containers })
    }

    async fn processes(&self, container: &str) -> Result<Vec<PidInfo>, Failure> {
        self.note(format!("processes {container}"));
        Ok(vec![PidInfo { pid: 3, exec: None }])
    }

    fn log_level(&self) -> &'static str {
        "info"
    }

    fn set_log_level(&self, level: &str) -> Result<(), Failure> {
        self.note(format!("log level {level}"));
        Ok(())
    }

    async fn interfaces(&self) -> Result<Vec<Interface>, Failure> {
        Ok(vec![Interface { name: "eth0".to_owned(), ..Interface::default() }])
    }

    async fn add_interface(&self, interface: Interface) -> Result<(), Failure> {
        self.note(format!("add {}", interface.device));
        Ok(())
    }

    async fn remove_interface(&self, name: &str) -> Result<(), Failure> {
        self.note(format!("remove {name}"));
        Ok(())
    }

    async fn routes(&self) -> Result<Vec<Route>, Failure> {
        Ok(Vec::new())
    }

    async fn set_routes(&self, routes: Option<Vec<Route>>) -> Result<(), Failure> {
        self.note(format!("routes {:?}", routes.map(|routes| routes.len())));
        Ok(())
    }

    async fn volume_stats(&self, volume: PathBuf) -> Result<VolumeStats, Failure> {
        self.note(format!("stats {}", volume.display()));
        let usage = vec![VolumeUsage { available: 1, total: 3, used: 2, unit: 1 }];
        Ok(VolumeStats { usage, volume_condition: None })
    }

    async fn resize_volume(&self, volume: PathBuf, bytes: u64) -> Result<(), Failure> {
        self.note(format!("resize {} {bytes}", volume.display()));
        Ok(())
    }

    fn events(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.1.listen()
    }
}

struct Scene {
    made: Arc<Made>,
    path: PathBuf,
    _dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("shim-monitor.sock");
        let made = Arc::new(Made::default());
        tokio::spawn(serve(UnixListener::bind(&path).unwrap(), made.clone(), LIMITS));
        Self { made, path, _dir: dir }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// The whole answer to these bytes.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // Who is refused early may find the connection closed.
        stream.write_all(bytes).await.ok();
        answer(&mut stream).await
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        self.say(format!("{head}{body}").as_bytes()).await
    }

    fn asked(&self) -> Vec<String> {
        self.made.0.lock().unwrap().clone()
    }
}

async fn answer(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends").ok();
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_answer(answer: &str, status: u16, words: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words), "{answer}");
}

#[tokio::test]
async fn each_endpoint_asks_the_sandbox() {
    let scene = Scene::new();
    assert_answer(&scene.ask("GET", "/agent-url", "").await, 200, "\r\n\r\nvsock://5:1024");
    assert_answer(&scene.ask("PUT", "/iptables", "*nat").await, 200, "");
    assert_answer(&scene.ask("PUT", "/ip6tables", "*raw").await, 200, "");
    assert_answer(&scene.ask("GET", "/network/interfaces", "").await, 200, r#""name":"eth0""#);
    assert_answer(&scene.ask("POST", "/network/interfaces", r#"{"device":"eth1"}"#).await, 200, "");
    assert_answer(&scene.ask("DELETE", "/network/interfaces/a%25b", "").await, 200, "");
    assert_answer(&scene.ask("GET", "/network/routes", "").await, 200, "[]");
    assert_answer(&scene.ask("PUT", "/network/routes", r#"[{"dest":"default"}]"#).await, 200, "");
    assert_answer(&scene.ask("DELETE", "/network/routes", "").await, 200, "");
    assert_answer(&scene.ask("GET", "/inspect", "").await, 200, r#""status":"running","pid":7"#);
    assert_answer(&scene.ask("GET", "/processes/c1", "").await, 200, r#"[{"pid":3}]"#);
    assert_answer(&scene.ask("GET", "/log-level", "").await, 200, "\r\n\r\ninfo");
    assert_answer(&scene.ask("PUT", "/log-level", "debug\n").await, 200, "");
    assert_answer(&scene.ask("GET", "/log-level/agent", "").await, 200, "\r\n\r\nwarn");
    assert_answer(&scene.ask("PUT", "/log-level/agent", "debug\n").await, 200, "");
    let asked = [
        "false *nat",
        "true *raw",
        "add eth1",
        "remove a%b",
        "routes Some(1)",
        "routes None",
        "processes c1",
        "log level debug",
        "agent None",
        "agent Some(\"debug\")",
    ];
    assert_eq!(scene.asked(), asked);
}

#[tokio::test]
async fn a_connection_becomes_a_console() {
    let scene = Scene::new();
    let mut stream = scene.connect().await;
    let head = "GET /console HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: kata-console\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut heard = [0; 256];
    let length = stream.read(&mut heard).await.unwrap();
    let answer = std::str::from_utf8(&heard[..length]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("upgrade: kata-console"), "{answer}");
    for word in [&b"hello"[..], b"again"] {
        stream.write_all(word).await.unwrap();
        let mut echoed = [0; 5];
        timeout(PATIENCE, stream.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(echoed, word);
    }
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read(&mut heard)).await.unwrap().unwrap(), 0);
}

/// A connection may have no more than its time; a console has all the time it wants, and no place of a request.
#[tokio::test]
async fn consoles_take_no_place_of_requests() {
    let scene = Scene::new();
    let mut consoles = Vec::new();
    for _ in 0..2 * LIMITS.connections {
        let mut stream = scene.connect().await;
        let head = "GET /console HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: kata-console\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(stream.read(&mut [0; 256]).await.unwrap() > 0);
        consoles.push(stream);
    }
    assert_answer(&scene.ask("GET", "/agent-url", "").await, 200, "vsock");
}

#[tokio::test]
async fn a_console_is_not_had_by_a_plain_request() {
    let scene = Scene::new();
    assert_answer(&scene.ask("GET", "/console", "").await, 400, "Upgrade: kata-console");
    assert_answer(&scene.ask("POST", "/console", "").await, 405, "allow: GET\r\n");
    assert!(scene.asked().is_empty());
}

/// Upstream's server, its two clients and its documents each had one of these.
#[tokio::test]
async fn a_direct_assigned_volume_is_asked_for_in_all_of_upstreams_ways() {
    let scene = Scene::new();
    let json = r#"{"usage":[{"available":1,"total":3,"used":2,"unit":1}]}"#;
    for (method, path) in [
        ("GET", "/direct-volume/stats?path=%2Fa+b%2Fc%2B"),
        ("POST", "/direct-volume/stats?x=y&path=/a%20b/c%2B"),
        ("GET", "/direct-volume/stats/%2Fa%20b%2Fc%2B"),
    ] {
        assert_answer(&scene.ask(method, path, "").await, 200, json);
    }
    for body in [
        r#"{"VolumePath":"/a","Size":8589934592}"#,
        r#"{"volumePath":"/a","Size":"8589934592"}"#,
        r#"{"volume_guest_path":"/a","size":8589934592}"#,
    ] {
        assert_answer(&scene.ask("POST", "/direct-volume/resize", body).await, 200, "");
    }
    assert_eq!(scene.asked(), [["stats /a b/c+"; 3], ["resize /a 8589934592"; 3]].concat());
}

#[tokio::test]
async fn a_question_about_no_volume_is_refused() {
    let scene = Scene::new();
    for path in ["", "?path=", "?path=relative", "?volume=/a", "?path=%ff", "/relative"] {
        let refused = scene.ask("GET", &format!("/direct-volume/stats{path}"), "").await;
        assert_answer(&refused, 400, "Which volume?");
    }
    for body in ["", "{}", r#"{"VolumePath":"/a","Size":"8Gi"}"#, r#"{"VolumePath":"/a","Size":-1}"#] {
        assert_answer(&scene.ask("POST", "/direct-volume/resize", body).await, 400, "The body is not");
    }
    assert!(scene.asked().is_empty());
}

/// Asks for events, and waits until the answer has begun.
async fn listening(scene: &Scene) -> UnixStream {
    let mut stream = scene.connect().await;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&head));
    stream
}

async fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap().into());
    }
    text
}

#[tokio::test]
async fn events_come_as_they_happen_to_each_who_listens() {
    let scene = Scene::new();
    let mut one = listening(&scene).await;
    scene.made.1.tell(&Happening::ContainerStarted { container: "web", pid: 7 });
    let mut other = listening(&scene).await;
    scene.made.1.tell(&Happening::ContainerExited { container: "web", exec: "", exit_status: 137 });
    scene.made.1.tell(&Happening::VmDied { reason: "killed \"it\"" });
    let started = r#"{"event":"container-started","container":"web","pid":7}"#;
    let exited = r#"{"event":"container-exited","container":"web","exec":"","exit_status":137}"#;
    let died = r#"{"event":"vm-died","reason":"killed \"it\""}"#;
    let told = read_until(&mut one, "it\\\"\"}\n").await;
    assert!([started, exited, died].iter().all(|event| told.contains(event)), "{told}");
    assert!(!read_until(&mut other, "it\\\"\"}\n").await.contains(started));
}

/// Those who listen do not hold all of the socket's connections.
#[tokio::test]
async fn who_has_gone_makes_place_for_another_listener() {
    let feed = Feed::default();
    let (one, other) = (feed.listen().unwrap(), feed.listen().unwrap());
    assert!(feed.listen().is_none());
    drop(one);
    assert!(feed.listen().is_some());
    drop(other);
}

#[tokio::test]
async fn a_listener_that_does_not_read_loses_its_stream() {
    let feed = Feed::default();
    let mut slow = feed.listen().unwrap();
    (0..1000).for_each(|_| feed.tell(&Happening::Oom { container: "web" }));
    let mut told = 0;
    while slow.recv().await.is_some() {
        told += 1;
    }
    assert!((1..1000).contains(&told), "{told}");
}

/// An answer of any other kind is over by the connection's time.
#[tokio::test]
async fn a_stream_outlives_the_time_of_a_connection() {
    let limits = Limits { connection: Duration::from_millis(50), ..LIMITS };
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("shim-monitor.sock");
    let made = Arc::new(Made::default());
    tokio::spawn(serve(UnixListener::bind(&path).unwrap(), made.clone(), limits));
    let mut silent = UnixStream::connect(&path).await.unwrap();
    let mut stream = listening(&Scene { made: made.clone(), path, _dir: dir }).await;
    assert_eq!(answer(&mut silent).await, "", "it is over");
    assert!(timeout(limits.connection, stream.read_u8()).await.is_err(), "and the stream is not");
    made.1.tell(&Happening::Oom { container: "web" });
    assert!(read_until(&mut stream, "}\n").await.contains(r#"{"event":"oom","container":"web"}"#));
}

#[tokio::test]
async fn a_failure_is_a_status_and_a_line_of_text() {
    let scene = Scene::new();
    assert_answer(&scene.ask("GET", "/ip6tables", "").await, 409, "No programs (v6: true)\n");
    let refused = scene.ask("POST", "/network/interfaces", r#"{"nmae":"x"}"#).await;
    assert_answer(&refused, 400, "unknown field `nmae`");
}

#[tokio::test]
async fn what_is_not_there_is_told_from_what_is_asked_for_wrongly() {
    let scene = Scene::new();
    for path in ["/", "/metrics/", "/network/interfaces/", "/network/interfaces/a/b", "/agent-url/x"] {
        assert_answer(&scene.ask("GET", path, "").await, 404, path);
    }
    let wrong = scene.ask("POST", "/iptables", "").await;
    assert_answer(&wrong, 405, "allow: GET, PUT\r\n");
    assert!(scene.asked().is_empty());
}

#[tokio::test]
async fn metrics_are_text_of_the_families_that_are_asked_for() {
    let scene = Scene::new();
    let answer = scene.ask("GET", "/metrics", "").await;
    assert_answer(&answer, 200, "content-type: text/plain; version=0.0.4; charset=utf-8\r\n");
    assert!(answer.ends_with("\r\n\r\nkata_shim_fds 7\n"), "{answer}");
    scene.ask("GET", "/metrics?families=all", "").await;
    scene.ask("GET", "/metrics?families=kata_guest%2Ckata_shim_fds&families=kata_agent", "").await;
    assert_eq!(
        scene.asked(),
        ["metrics brief", "metrics kata_", "metrics kata_guest kata_shim_fds kata_agent"]
    );
}

#[tokio::test]
async fn metrics_that_nobody_has_are_refused() {
    let scene = Scene::new();
    assert_answer(&scene.ask("GET", "/metrics?families=go_", "").await, 400, "`go_` selects no family");
    assert_answer(&scene.ask("GET", "/metrics?all=1", "").await, 400, "`all=1` is not understood");
    assert!(scene.asked().is_empty());
}

#[tokio::test]
async fn what_upstream_has_and_this_shim_has_not_is_told_clearly() {
    let scene = Scene::new();
    assert_answer(&scene.ask("PUT", "/policy", "package agent_policy").await, 501, "policy cannot be set");
    assert_answer(&scene.ask("GET", "/debug/pprof/heap", "").await, 404, "written in Go");
    assert_answer(&scene.ask("GET", "/debug/vars", "").await, 404, "try /metrics");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_unread() {
    let scene = Scene::new();
    let head = "PUT /iptables HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n";
    assert_answer(&scene.say(head.as_bytes()).await, 413, "100 bytes");
    let chunked = "PUT /iptables HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("65\r\n{}\r\n", "x".repeat(0x65));
    assert_answer(&scene.say(format!("{chunked}{chunk}").as_bytes()).await, 413, "100 bytes");
    assert!(scene.asked().is_empty());
}

#[tokio::test]
async fn who_does_not_finish_a_request_is_cut_off() {
    let scene = Scene::new();
    let half_a_head = scene.say(b"GET /agent-url HTTP/1.1\r\nHost:").await;
    assert!(!half_a_head.contains("vsock"), "{half_a_head}");
    let half_a_body = b"PUT /iptables HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n*nat";
    assert_answer(&scene.say(half_a_body).await, 408, "did not come");
    assert!(scene.asked().is_empty());
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let scene = Scene::new();
    let long = format!("GET /agent-url HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(!scene.say(long.as_bytes()).await.contains("vsock"));
    let many = format!("GET /agent-url HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    assert!(!scene.say(many.as_bytes()).await.contains("vsock"));
    assert!(scene.say(b"\x16\x03\x01nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn many_idle_connections_only_delay_the_next() {
    let scene = Scene::new();
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(scene.connect().await);
    }
    assert_answer(&scene.ask("GET", "/agent-url", "").await, 200, "vsock");
}

/// Each of them could make the server work.
#[tokio::test]
async fn a_connection_has_one_request() {
    let scene = Scene::new();
    let one = "GET /agent-url HTTP/1.1\r\nHost: x\r\n\r\n";
    let answers = scene.say(one.repeat(3).as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1, "{answers}");
}

#[test]
fn only_root_and_the_own_user_may_speak() {
    assert!(may_speak(0, 0) && may_speak(0, 1000) && may_speak(1000, 1000));
    assert!(!may_speak(1000, 0) && !may_speak(1001, 1000) && !may_speak(65534, 0));
}

#[tokio::test]
async fn the_socket_is_roots_alone_and_its_failure_is_not_the_pods() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    listener::start(dir.path(), Arc::new(Made::default()));
    let mode = std::fs::metadata(dir.path().join("shim-monitor.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Another one of that name is there.
    listener::start(dir.path(), Arc::new(Made::default()));
}
