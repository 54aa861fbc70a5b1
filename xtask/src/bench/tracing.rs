//! A configuration with tracing on, and the collector that it names.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::prefix::Prefix;

/// What is changed in the shipped file, and into what.
const OFF: &str = "\nenable_tracing = false\n";
const ON: &str = "\nenable_tracing = true\n";
const NO_ENDPOINT: &str = "\njaeger_endpoint = \"\"\n";

/// Tracing of shim and agent.
pub(crate) struct Traced {
    directory: tempfile::TempDir,
    bytes: Arc<AtomicUsize>,
}

impl Traced {
    /// As the installed configuration is, otherwise.
    pub(crate) fn new(prefix: &Prefix) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("Cannot listen for spans")?;
        let endpoint = format!("\njaeger_endpoint = \"http://{}/v1/traces\"\n", listener.local_addr()?);
        let file = prefix.configuration();
        let text = fs::read_to_string(&file).with_context(|| format!("Cannot read {}", file.display()))?;
        if !(text.contains(OFF) && text.contains(NO_ENDPOINT)) {
            bail!("{} is not the shipped configuration", file.display());
        }
        let directory = tempfile::tempdir()?;
        let traced = Self { directory, bytes: Arc::default() };
        fs::write(traced.configuration(), text.replace(OFF, ON).replace(NO_ENDPOINT, &endpoint))?;
        let bytes = Arc::clone(&traced.bytes);
        // It ends with the program.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A shim that goes away has nothing more to tell.
                let taken = take(stream).unwrap_or_default();
                bytes.fetch_add(taken, Ordering::Relaxed);
            }
        });
        Ok(traced)
    }

    /// The file.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.path().join("configuration.toml")
    }

    /// How many bytes of spans have arrived.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Takes one request, answers it, and tells the length of its body.
fn take(stream: TcpStream) -> std::io::Result<usize> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", number)) => length = number.parse().unwrap_or(0),
            _ if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    Ok(length)
}
