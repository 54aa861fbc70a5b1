//! The management socket, against clients that mean well and others.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kata_sandbox::{Interface, Route, VolumeStats, VolumeUsage};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::Managed;
use super::listener::{self, Limits, may_speak, serve};
use super::routes::BodyLimits;
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
struct Made(Mutex<Vec<String>>);

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

    async fn packet_filter(&self, v6: bool) -> Result<Vec<u8>, Failure> {
        Err(Failure::new(Kind::FailedPrecondition, format!("No programs (v6: {v6})")))
    }

    async fn set_packet_filter(&self, v6: bool, rules: Vec<u8>) -> Result<Vec<u8>, Failure> {
        self.note(format!("{v6} {}", String::from_utf8(rules).unwrap()));
        Ok(Vec::new())
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
    let asked = ["false *nat", "true *raw", "add eth1", "remove a%b", "routes Some(1)", "routes None"];
    assert_eq!(scene.asked(), asked);
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
    for path in ["/", "/metrics", "/network/interfaces/", "/network/interfaces/a/b", "/agent-url/x"] {
        assert_answer(&scene.ask("GET", path, "").await, 404, path);
    }
    let wrong = scene.ask("POST", "/iptables", "").await;
    assert_answer(&wrong, 405, "allow: GET, PUT\r\n");
    assert!(scene.asked().is_empty());
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
