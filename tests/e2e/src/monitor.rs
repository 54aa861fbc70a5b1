//! The product's `kata-monitor`, as a node runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use crate::command::PATIENCE;
use crate::containerd::{Containerd, socket};
use crate::failure::fail;

/// A running monitor; it ends with this.
pub struct Monitor {
    process: Child,
    /// `ADDRESS:PORT`.
    address: String,
}

impl Monitor {
    /// Starts the installed one; returns when it listens.
    #[track_caller]
    pub fn start(containerd: &Containerd) -> Self {
        let program = containerd.stage.prefix.join("bin/kata-monitor");
        let mut command = Command::new(&program);
        command.args(["-listen-address", "127.0.0.1:0", "-runtime-endpoint"]).arg(socket());
        let process = command.stderr(Stdio::piped()).spawn();
        let mut process =
            process.unwrap_or_else(|e| fail(format_args!("Cannot run {}: {e}", program.display())));
        let log = process.stderr.take().expect("it is a pipe");
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            rest.split(' ').next().map(str::to_owned)
        });
        let address = address.unwrap_or_else(|| fail("kata-monitor has ended at once"));
        // What it says later must be read, lest it waits.
        thread::spawn(move || lines.for_each(|line| println!("kata-monitor: {line}")));
        Self { process, address }
    }

    /// The body of an answer, whatever its status.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        self.answer(path).1
    }

    /// Whether it answers 200.
    #[track_caller]
    pub fn has(&self, path: &str) -> bool {
        self.answer(path).0
    }

    fn answer(&self, path: &str) -> (bool, String) {
        let mut text = String::new();
        let read = self.ask(path).read_to_string(&mut text);
        read.unwrap_or_else(|e| fail(format_args!("No answer to {path}: {e}")));
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        (head.contains(" 200 "), body.to_owned())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What happens from now on, a line each.
    #[track_caller]
    pub fn events(&self) -> MonitorEvents {
        MonitorEvents(BufReader::new(self.ask("/events")))
    }

    /// In the oldest form, whose answers are not cut into pieces.
    fn ask(&self, path: &str) -> TcpStream {
        let ask = || -> std::io::Result<TcpStream> {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
            Ok(stream)
        };
        ask().unwrap_or_else(|e| fail(format_args!("Cannot ask kata-monitor for {path}: {e}")))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A stream of events.
pub struct MonitorEvents(BufReader<TcpStream>);

impl MonitorEvents {
    /// The first line from here on that has all of these.
    #[track_caller]
    pub fn find(&mut self, words: &[&str]) -> String {
        let mut passed = String::new();
        let begun = Instant::now();
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                // An empty line now and then says that the stream lives.
                Ok(1) if begun.elapsed() > PATIENCE => {
                    fail(format_args!("No event with {words:?}:\n{passed}"))
                }
                Ok(1..) if words.iter().all(|word| line.contains(word)) => return line,
                Ok(1..) => passed += &line,
                Ok(0) => fail(format_args!("The events end without {words:?}:\n{passed}")),
                Err(e) => fail(format_args!("No event with {words:?} ({e}):\n{passed}")),
            }
        }
    }
}
