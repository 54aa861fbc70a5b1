//! The program with directories of its own, and those whom it asks: shims and a container manager, made up.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kata_metrics::Selection;
use percent_encoding::percent_decode_str;
use tempfile::TempDir;

/// Families that a shim does not tell unasked.
const DURATIONS: [&str; 2] = [
    "kata_shim_rpc_durations_histogram_milliseconds",
    "kata_shim_agent_rpc_durations_histogram_milliseconds",
];

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Directories, in which a program runs.
pub(crate) struct Scene {
    dir: TempDir,
}

/// `kata-monitor`; it ends with this.
pub(crate) struct Monitor {
    process: Child,
    /// `ADDRESS:PORT`.
    pub(crate) address: String,
    _log: ChildStderr,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The program, with more options; returns when it listens.
    pub(crate) fn monitor(&self, options: &[&str]) -> Monitor {
        let mut command = self.command();
        command.args(options).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it has ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                let address = rest.split_once("//").unwrap().1;
                break address.split(' ').next().unwrap().trim().to_owned();
            }
        };
        Monitor { process, address, _log: log.into_inner() }
    }

    /// The program, on a port of its own; `KATA_MONITOR_PROGRAM` names another, such as the installed one.
    pub(crate) fn command(&self) -> Command {
        let program = std::env::var_os("KATA_MONITOR_PROGRAM");
        let mut command = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_kata-monitor").into()));
        command.args(["-listen-address", "127.0.0.1:0"]);
        command.arg("-runtime-endpoint").arg(self.path("cri.sock"));
        command.arg("--sandboxes").arg(self.path("kata")).arg("--sandboxes").arg(self.path("vc/sbs"));
        command
    }

    /// A shim that answers `/metrics` with `text`.
    pub(crate) fn shim(&self, id: &str, text: &str) -> Shim {
        Shim::start(&self.path("kata").join(id), text)
    }
}

impl Monitor {
    /// A whole answer: its head, and its body as text.
    pub(crate) fn get(&self, path: &str, fields: &[&str]) -> (String, String) {
        let (head, body) = self.get_bytes(path, fields);
        (head, String::from_utf8(body).unwrap())
    }

    pub(crate) fn get_bytes(&self, path: &str, fields: &[&str]) -> (String, Vec<u8>) {
        let mut stream = self.ask(path, fields);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let body = &bytes[end + 4..];
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (head, if chunked { joined(body) } else { body.to_vec() })
    }

    /// Asks, and leaves the answer to be read.
    pub(crate) fn ask(&self, path: &str, fields: &[&str]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics", &[]).1
    }

    /// The lines of the ids, joined.
    pub(crate) fn ids(&self) -> String {
        self.get("/sandboxes", &[]).1.replace('\n', " ").trim_end().to_owned()
    }

    /// Looks again and again: what changes is told by nobody.
    pub(crate) fn awaits(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "never: {what}\n{}", self.metrics());
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The pieces of a chunked body, without their lengths.
fn joined(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").expect("a piece has a length");
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
}

/// A shim's management socket; closed and removed with this, or only closed by [`Shim::die`].
pub(crate) struct Shim {
    dir: PathBuf,
    inner: Arc<Inner>,
}

struct Inner {
    text: Mutex<String>,
    hung: (Mutex<bool>, Condvar),
    asked: AtomicUsize,
    over: AtomicBool,
    listeners: Mutex<Vec<UnixStream>>,
}

impl Shim {
    fn start(dir: &std::path::Path, text: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let listener = UnixListener::bind(dir.join("shim-monitor.sock")).unwrap();
        let inner = Arc::new(Inner {
            text: Mutex::new(text.to_owned()),
            hung: (Mutex::new(false), Condvar::new()),
            asked: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            listeners: Mutex::default(),
        });
        let shared = inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || shared.answer(stream));
            }
        });
        Self { dir: dir.to_owned(), inner }
    }

    /// No request is answered from now on, until it is `false` again.
    pub(crate) fn hang(&self, hung: bool) {
        *self.inner.hung.0.lock().unwrap() = hung;
        self.inner.hung.1.notify_all();
    }

    /// How often it was asked for its figures.
    pub(crate) fn asked(&self) -> usize {
        self.inner.asked.load(Ordering::Relaxed)
    }

    /// Tells an event to those who listen; true: somebody does.
    pub(crate) fn tell(&self, line: &str) -> bool {
        let mut listeners = self.inner.listeners.lock().unwrap();
        let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
        listeners.retain_mut(|listener| listener.write_all(chunk.as_bytes()).is_ok());
        !listeners.is_empty()
    }

    /// Takes its directory away, and goes on.
    pub(crate) fn tidy(&self) {
        fs::remove_dir_all(&self.dir).unwrap();
    }

    /// Dies, and leaves its socket and its directory.
    pub(crate) fn die(&self) {
        self.inner.over.store(true, Ordering::Relaxed);
        for listener in self.inner.listeners.lock().unwrap().drain(..) {
            let _ = listener.shutdown(std::net::Shutdown::Both);
        }
        let _ = UnixStream::connect(self.dir.join("shim-monitor.sock"));
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
        self.hang(false);
        self.die();
    }
}

/// What a shim tells that is asked so: durations of requests are for who asks for them.
fn told(text: &str, query: &str) -> String {
    let words = query.strip_prefix("families=").unwrap_or("brief");
    let words = percent_decode_str(words).decode_utf8().unwrap();
    let selection = Selection::of(words.split(',')).unwrap();
    let is_wanted = |line: &&str| {
        let family = DURATIONS.iter().find(|family| line.contains(**family));
        family.map_or(selection.tells_unasked(), |family| selection.asks_for(family))
    };
    text.split_inclusive('\n').filter(is_wanted).collect()
}

impl Inner {
    fn answer(&self, mut stream: UnixStream) {
        let mut head = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let path = head.split(' ').nth(1).unwrap().to_owned();
        if path.starts_with("/metrics") {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        let mut hung = self.hung.0.lock().unwrap();
        while *hung {
            hung = self.hung.1.wait(hung).unwrap();
        }
        drop(hung);
        if path == "/events" {
            // Who has read this is already one of those to whom events are told.
            let mut listeners = self.listeners.lock().unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            listeners.push(stream);
            return;
        }
        let (status, body) = match path.split('?').next().unwrap() {
            "/metrics" => {
                let query = path.split_once('?').map_or("", |path| path.1);
                ("200 OK", told(&self.text.lock().unwrap(), query).replace("QUERY", query))
            }
            "/agent-url" => ("200 OK", "vsock://5:1024".to_owned()),
            _ => ("404 Not Found", "There is nothing here\n".to_owned()),
        };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
}
