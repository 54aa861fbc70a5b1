//! A console of our own manner: a terminal that changes its size, or three streams, and an exit status.

use std::sync::atomic::{AtomicUsize, Ordering};

use kata_protocol::console::{Kind, Start, WINDOW, read_size};
use kata_transport::Stream;
use tokio::io::{ReadHalf, split};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::messages::{Tell, hear, teller};
use super::running::Streams;
use super::shell::Shell;
use super::{ConsoleError, Consoles};
use crate::stdio::ends::{Pty, Reader, Writer};

/// Bytes of output that are moved at once.
const CHUNK: usize = 32 * 1024;

/// A place among the consoles, if there was one.
pub(super) type Place = Result<OwnedSemaphorePermit, ConsoleError>;

impl Consoles {
    /// One console, from its first message to its last.
    pub(super) async fn native(&self, stream: Stream, place: Place) -> Result<(), ConsoleError> {
        let (from, to) = split(stream);
        let (tell, telling) = teller(to);
        let ended = match place {
            Ok(_place) => self.run(from, &tell).await,
            Err(full) => Err(full),
        };
        let words = match &ended {
            Ok(code) => code.map(|code| (Kind::Exit, code.to_be_bytes().to_vec())),
            Err(error) => Some((Kind::Refused, crate::report::chain(error).into_bytes())),
        };
        if let Some(words) = words {
            // A client that is gone need not know.
            let _ = tell.send(words).await;
        }
        drop(tell);
        // The task does not panic, and who does not hear the last words is gone.
        let _ = telling.await;
        ended.map(drop)
    }

    /// The shell's exit status; none if the client went away before.
    async fn run(&self, mut from: ReadHalf<Stream>, tell: &Tell) -> Result<Option<i32>, ConsoleError> {
        let (Kind::Start, body) = hear(&mut from).await? else {
            return Err(kata_protocol::console::Breach.into());
        };
        let start = Start::decode(&body)?;
        let shell = match Shell::own().filter(|_| !start.brings_shell) {
            Some(shell) => shell,
            None => Shell::brought(&mut from, tell).await?,
        };
        let (mut running, Streams { input, output, errors, terminal }) = self.begin(&start, &shell)?;
        // A client that is gone is noticed below.
        let _ = tell.send((Kind::Allow, WINDOW.to_be_bytes().to_vec())).await;
        let outputs = [(Kind::Output, Some(output)), (Kind::Errors, errors)]
            .map(|(kind, reader)| reader.map(|reader| tokio::spawn(pass_on(reader, kind, tell.clone()))));
        let code = tokio::select! {
            code = running.exit.wait() => Some(code),
            () = attend(&mut from, input, terminal.as_deref(), tell) => None,
        };
        running.end().await;
        for output in outputs.into_iter().flatten() {
            // All who wrote are gone, so this ends, at the latest when the client does.
            let _ = output.await;
        }
        Ok(code)
    }
}

/// Passes on what the shell says, until nobody can say any more.
async fn pass_on(reader: Reader, kind: Kind, tell: Tell) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = reader.read(&mut buffer).await {
        if tell.send((kind, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Does what the client says, until it is gone or says what makes no sense. Whether the shell takes its input or not, the
/// end of the client is noticed.
async fn attend(from: &mut ReadHalf<Stream>, input: Writer, terminal: Option<&Pty>, tell: &Tell) {
    let (queue, queued) = mpsc::unbounded_channel();
    let waiting = AtomicUsize::new(0);
    let hearing = async {
        while let Ok((kind, body)) = hear(from).await {
            match kind {
                // The window bounds what is in the queue.
                Kind::Input if waiting.fetch_add(body.len(), Ordering::Relaxed) <= WINDOW as usize => {
                    if queue.send(body).is_err() {
                        return;
                    }
                }
                Kind::Resize => match (read_size(&body), terminal) {
                    (Ok((rows, columns)), Some(terminal)) => drop(terminal.resize(rows, columns)),
                    _ => return,
                },
                _ => return,
            }
        }
    };
    tokio::select! {
        () = hearing => {}
        () = feed(queued, input, &waiting, tell) => {}
    }
}

/// Gives the shell its input. A terminal has no end of it.
async fn feed(
    mut queued: mpsc::UnboundedReceiver<Vec<u8>>,
    input: Writer,
    waiting: &AtomicUsize,
    tell: &Tell,
) {
    let is_terminal = matches!(input, Writer::Pty(_));
    let mut input = Some(input);
    while let Some(bytes) = queued.recv().await {
        let is_over = match &input {
            Some(_) if bytes.is_empty() => !is_terminal,
            // Who reads no more has had enough.
            Some(writer) => writer.write_all(&bytes).await.is_err(),
            None => false,
        };
        if is_over {
            input = None;
        }
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if tell.send((Kind::Allow, length.to_be_bytes().to_vec())).await.is_err() {
            return;
        }
    }
}
