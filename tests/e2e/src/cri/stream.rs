//! Streams of programs through containerd's streaming server: a WebSocket whose messages begin with the number of a
//! channel.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

use crate::command::{Finished, PATIENCE};
use crate::failure::fail;

const PROTOCOL: &str = "v4.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// A WebSocket from the streaming server. A read gives up for a moment when nothing comes.
#[track_caller]
pub(super) fn connect(url: &str) -> WebSocket<TcpStream> {
    let address = url.strip_prefix("http://").unwrap_or_else(|| fail(format_args!("No address: {url}")));
    let host = address.split('/').next().unwrap_or_default();
    let tcp =
        TcpStream::connect(host).unwrap_or_else(|e| fail(format_args!("Cannot connect to {host}: {e}")));
    tcp.set_read_timeout(Some(Duration::from_secs(1))).expect("the time is not zero");
    tcp.set_nodelay(true).expect("is a TCP socket");
    let mut request = format!("ws://{address}").into_client_request().expect("is a URL");
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(PROTOCOL));
    let (socket, _) = tungstenite::client(request, tcp)
        .unwrap_or_else(|e| fail(format_args!("No WebSocket from {url}: {e}")));
    socket
}

/// The streams of a program.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    /// What came on standard output.
    pub stdout: Vec<u8>,
    /// What came on standard error.
    pub stderr: Vec<u8>,
    /// The server's last word: how the program ended.
    status: Vec<u8>,
}

impl Stream {
    #[track_caller]
    pub(super) fn open(url: &str) -> Self {
        Self { socket: connect(url), stdout: Vec::new(), stderr: Vec::new(), status: Vec::new() }
    }

    /// Writes to standard input.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.send(STDIN, bytes);
    }

    /// Makes the terminal this large.
    #[track_caller]
    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.send(RESIZE, json!({ "Width": columns, "Height": rows }).to_string().as_bytes());
    }

    /// Reads until standard output holds this.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            let goes_on = self.receive();
            if !goes_on || Instant::now() > deadline {
                fail(format_args!("No {text:?}: {}", self.so_far()));
            }
        }
    }

    /// Reads until standard output has more than so many bytes.
    #[track_caller]
    pub fn expect_more_than(&mut self, bytes: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.stdout.len() <= bytes {
            let goes_on = self.receive();
            if !goes_on || Instant::now() > deadline {
                fail(format_args!("No more than {bytes} bytes: {}", self.so_far()));
            }
        }
    }

    /// Reads to the end; returns how the program ended and what it wrote.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + PATIENCE;
        while self.receive() {
            if Instant::now() > deadline {
                fail(format_args!("No end: {}", self.so_far()));
            }
        }
        Finished { code: self.exit_code(), stdout: self.stdout, stderr: self.stderr }
    }

    fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = std::iter::once(channel).chain(bytes.iter().copied()).collect::<Vec<u8>>();
        let sent = self.socket.send(Message::Binary(message.into()));
        sent.unwrap_or_else(|e| fail(format_args!("Cannot send: {e}; {}", self.so_far())));
    }

    /// Takes one message, or a moment of silence; false at the end.
    fn receive(&mut self) -> bool {
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => self.take(&bytes),
            Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => return false,
            Err(Error::Io(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // The server closes without a farewell once it has sent the status.
            Err(_) if !self.status.is_empty() => return false,
            Err(e) => fail(format_args!("Cannot receive: {e}; {}", self.so_far())),
            Ok(_) => {}
        }
        true
    }

    fn take(&mut self, message: &[u8]) {
        let Some((channel, bytes)) = message.split_first() else { return };
        match *channel {
            STDOUT => self.stdout.extend_from_slice(bytes),
            STDERR => self.stderr.extend_from_slice(bytes),
            ERROR => self.status.extend_from_slice(bytes),
            other => fail(format_args!("A message on channel {other}")),
        }
    }

    /// A `metav1.Status`: success, or the exit code as a cause.
    fn exit_code(&self) -> i32 {
        let status: Value = serde_json::from_slice(&self.status)
            .unwrap_or_else(|e| fail(format_args!("No status ({e}): {}", self.so_far())));
        if status["status"] == "Success" {
            return 0;
        }
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        let code =
            causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str());
        let code = code.and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| fail(format_args!("No exit code in {status}")))
    }

    fn so_far(&self) -> String {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
        format!(
            "stdout {}, stderr {}, status {}",
            shown(&self.stdout),
            shown(&self.stderr),
            shown(&self.status)
        )
    }
}
