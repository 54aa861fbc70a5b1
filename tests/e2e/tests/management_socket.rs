//! The management socket in the hands of clients that mean ill: the pod goes on, and root is answered.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kata_e2e::{Container, Containerd, eventually, kata_test};

const SHIM: &str = "containerd-shim-kata-v2";
const LIMIT: Duration = Duration::from_secs(60);

fn sleeper(containerd: &Containerd) -> Container<'_> {
    containerd.container().command(["/bin/sleep", "1000"]).start()
}

/// By both of its paths.
fn sockets(container: &Container<'_>) -> [PathBuf; 2] {
    ["/run/kata", "/run/vc/sbs"]
        .map(|root| PathBuf::from(root).join(container.id()).join("shim-monitor.sock"))
}

fn connect(container: &Container<'_>) -> UnixStream {
    let stream = UnixStream::connect(&sockets(container)[0]).expect("the shim listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit can be set");
    stream.set_write_timeout(Some(LIMIT)).expect("a limit can be set");
    stream
}

/// All that comes back. Who is refused early may find the connection closed.
fn say(mut stream: UnixStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(container: &Container<'_>, method: &str, path: &str) -> String {
    say(connect(container), format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

/// containerd is answered at once, and processes start.
#[track_caller]
fn assert_pod_answers(container: &Container<'_>) {
    let begun = Instant::now();
    assert_eq!(container.status(), "RUNNING");
    assert_eq!(container.shell("echo alive"), "alive");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn both_paths_lead_to_each_endpoint() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        for socket in sockets(&container) {
            let stream = UnixStream::connect(&socket).expect("the shim listens");
            let answer = say(stream, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{}: {answer}", socket.display());
        }
        for (method, path, status) in [
            ("GET", "/network/interfaces", 200),
            ("GET", "/network/routes", 200),
            ("GET", "/direct-volume/stats?path=/none", 404),
            ("PUT", "/policy", 501),
            ("GET", "/debug/pprof/heap", 404),
            ("DELETE", "/metrics", 405),
        ] {
            let answer = ask(&container, method, path);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
        }
    });
}

#[test]
fn nobody_but_root_gets_through() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        for socket in sockets(&container) {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--max-time", "20", "--unix-socket"]).arg(&socket).arg("http://x/metrics");
            let output = curl.uid(65534).gid(65534).output().expect("curl runs");
            assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        }
        assert!(ask(&container, "GET", "/metrics").contains("kata_shim_agent_up 1"));
    });
}

#[test]
fn garbage_and_halves_of_requests_stop_nothing() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let huge_head = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(4 << 20));
        let many_fields = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100_000));
        let huge_body = format!(
            "PUT /iptables HTTP/1.1\r\nHost: x\r\nContent-Length: {0}\r\n\r\n{1}",
            8 << 20,
            "x".repeat(8 << 20)
        );
        let endless =
            "PUT /iptables HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n"
                .to_owned();
        let smuggled = "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned();
        let binary: String = (0..=127_u8).map(char::from).cycle().take(1 << 20).collect();
        for bytes in [huge_head, many_fields, huge_body, endless + &"x".repeat(4 << 20), smuggled, binary] {
            let answer = say(connect(&container), bytes.as_bytes());
            assert!(!answer.starts_with("HTTP/1.1 500"), "{answer}");
        }
        // Half-closed: the request is whole, and is answered.
        let mut half = connect(&container);
        half.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("the shim reads");
        half.shutdown(Shutdown::Write).expect("one half can be closed");
        let mut answer = String::new();
        half.read_to_string(&mut answer).ok();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_pod_answers(&container);
        assert!(ask(&container, "GET", "/metrics").contains("kata_shim_agent_up 1"));
    });
}

#[test]
fn thousands_of_connections_are_bounded_and_the_pod_answers_meanwhile() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let shim = containerd.processes_of(SHIM)[0].pid;
        let count = || std::fs::read_dir(format!("/proc/{shim}/fd")).expect("the shim runs").count();
        let before = count();
        // The kernel lets as many wait as it is configured to.
        let idle: Vec<UnixStream> = (0..3000).filter_map(|_| try_connect(&container)).collect();
        assert!(idle.len() > 100, "{} wait", idle.len());
        assert!(count() <= before + 10, "{before} files became {}", count());
        assert_pod_answers(&container);
        drop(idle);
        eventually("root is answered again", LIMIT, || {
            try_connect(&container).is_some_and(|stream| {
                stream.set_nonblocking(false).expect("it can be waited for");
                say(stream, b"GET /agent-url HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 ")
            })
        });
    });
}

/// A connection, if the queue of those that wait has room.
fn try_connect(container: &Container<'_>) -> Option<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    let address = UnixAddr::new(&sockets(container)[0]).expect("a short path");
    connect(descriptor.as_raw_fd(), &address).ok()?;
    Some(UnixStream::from(descriptor))
}

#[test]
fn who_reads_slowly_holds_up_nobody() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let slow: Vec<UnixStream> = (0..6)
            .map(|_| {
                let mut stream = connect(&container);
                stream
                    .write_all(b"GET /metrics?families=all HTTP/1.1\r\nHost: x\r\n\r\n")
                    .expect("the shim reads");
                stream
            })
            .collect();
        assert_pod_answers(&container);
        assert!(ask(&container, "GET", "/metrics").contains("kata_shim_agent_up 1"));
        drop(slow);
    });
}
