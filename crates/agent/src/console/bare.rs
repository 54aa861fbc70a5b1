//! A console as upstream has it: the bytes of a terminal, which keeps its size and tells no exit status.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use kata_protocol::console::Start;
use kata_transport::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::native::Place;
use super::running::{Running, Streams};
use super::shell::Shell;
use super::{ConsoleError, Consoles};
use crate::stdio::ends::{Reader, Writer};

/// Bytes that are moved at once.
const CHUNK: usize = 4096;

/// The guest's own console.
const GUESTS_CONSOLE: &str = "/dev/console";

impl Consoles {
    /// One console, until its shell ends or its client is gone.
    pub(super) async fn bare(&self, stream: Stream, place: Place) -> Result<(), ConsoleError> {
        let (from, mut to) = split(stream);
        let begun = place.and_then(|place| {
            let shell = Shell::own().ok_or(ConsoleError::NoShell)?;
            let start = Start { terminal: Some((0, 0)), ..Start::default() };
            Ok((self.begin(&start, &shell)?, place))
        });
        let ((mut running, Streams { input, output, .. }), _place) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                to.write_all(format!("{}\r\n", crate::report::chain(&error)).as_bytes()).await?;
                to.shutdown().await?;
                return Err(error);
            }
        };
        tokio::select! {
            () = pass_in(from, input) => {}
            () = pass_out(output, &mut to) => {}
        }
        running.end().await;
        Ok(to.shutdown().await?)
    }

    /// One shell on the guest's own console, for VMs whose console can be typed on.
    pub(super) async fn on_guests_console(self: Arc<Self>) {
        match self.begin_on(GUESTS_CONSOLE) {
            Ok(mut running) => {
                running.exit.wait().await;
                running.end().await;
            }
            Err(error) => {
                tracing::warn!(error = crate::report::chain(&error), "There is no shell on {GUESTS_CONSOLE}");
            }
        }
    }

    fn begin_on(&self, console: &str) -> Result<Running, ConsoleError> {
        let shell = Shell::own().ok_or(ConsoleError::NoShell)?;
        let open = || {
            let file =
                OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(console)?;
            let (one, other) = (file.try_clone()?, file.try_clone()?);
            Ok([file, one, other].map(OwnedFd::from))
        };
        let streams = open().map_err(|source| ConsoleError::Step("open the guest's console", source))?;
        let start = Start { terminal: Some((0, 0)), term: "linux".to_owned(), ..Start::default() };
        self.spawn(&start, &shell, streams)
    }
}

async fn pass_in(mut from: ReadHalf<Stream>, input: Writer) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if input.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn pass_out(output: Reader, to: &mut WriteHalf<Stream>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
