//! One console, spoken as [`kata_protocol::console`] says.

use std::io;
use std::time::Duration;

use kata_protocol::console::{
    Breach, HEADER, Kind, MAX_BODY, Size, Start, header, read_header, read_number, size,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::ShellSource;
use super::shell::ShellError;

/// Bytes of standard input that are sent at once.
const CHUNK: usize = 32 * 1024;

/// Messages that wait to be sent.
const QUEUE: usize = 4;

/// An agent that speaks this says something by then.
const FIRST_WORD: Duration = Duration::from_secs(60);

/// A console did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// No agent that knows it.
    #[error("The agent in the guest says nothing on its console; is the guest image that of this release?")]
    Silence,
    /// The agent says why.
    #[error("{0}")]
    Refused(String),
    /// The stream ended.
    #[error("The connection to the guest ended before the shell did; does the sandbox still run?")]
    Lost(#[source] io::Error),
    /// It speaks something else.
    #[error(transparent)]
    Breach(#[from] Breach),
    /// Too much to say.
    #[error("The command is too long, or has a zero byte")]
    Command,
    /// There is nothing to run there.
    #[error(transparent)]
    Shell(#[from] ShellError),
    /// Our own side.
    #[error("Cannot {0}")]
    Local(&'static str, #[source] io::Error),
}

/// Our ends of a console.
pub(crate) struct Ends<I, O, E> {
    pub(crate) input: I,
    pub(crate) output: O,
    pub(crate) errors: E,
    /// The terminal's size, as it changes.
    pub(crate) sizes: watch::Receiver<Size>,
}

type Outbox = mpsc::Sender<(Kind, Vec<u8>)>;

/// Runs a shell in the guest to its end; its exit status. Dropped, it hangs the shell up.
pub(crate) async fn run<S, I, O, E>(
    stream: S,
    start: &Start,
    shell: &ShellSource,
    ends: Ends<I, O, E>,
) -> Result<u32, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let (from, to) = tokio::io::split(stream);
    let (outbox, queue) = mpsc::channel(QUEUE);
    let start = start.encode().ok_or(SessionError::Command)?;
    // The channel is empty.
    let _ = outbox.send((Kind::Start, start)).await;
    let window = Semaphore::new(0);
    let (started, wait) = watch::channel(false);
    let Ends { input, output, errors, sizes } = ends;
    let mut hearer = Hearer { from, output, errors, outbox: outbox.clone(), shell, window: &window, started };
    tokio::select! {
        ended = hearer.hear() => ended,
        error = transmit(to, queue) => Err(error),
        error = feed(input, &outbox, &window, wait.clone()) => Err(error),
        never = follow(sizes, &outbox, wait) => match never {},
    }
}

/// What comes from the agent, and where it goes.
struct Hearer<'a, R, O, E> {
    from: R,
    output: O,
    errors: E,
    outbox: Outbox,
    shell: &'a ShellSource,
    window: &'a Semaphore,
    started: watch::Sender<bool>,
}

impl<R, O, E> Hearer<'_, R, O, E>
where
    R: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    /// Does what the agent says, to the last word.
    async fn hear(&mut self) -> Result<u32, SessionError> {
        let mut message = timeout(FIRST_WORD, self.next()).await.map_err(|_| SessionError::Silence)??;
        loop {
            let (kind, body) = message;
            match kind {
                Kind::WantShell => self.bring().await?,
                Kind::Allow => {
                    self.window.add_permits(read_number(&body)? as usize);
                    self.started.send_replace(true);
                }
                Kind::Output => put(&mut self.output, &body).await?,
                Kind::Errors => put(&mut self.errors, &body).await?,
                Kind::Exit => return Ok(read_number(&body)?),
                Kind::Refused => {
                    return Err(SessionError::Refused(String::from_utf8_lossy(&body).into_owned()));
                }
                Kind::Start | Kind::Shell | Kind::Input | Kind::Resize => return Err(Breach.into()),
            }
            message = self.next().await?;
        }
    }

    async fn next(&mut self) -> Result<(Kind, Vec<u8>), SessionError> {
        let mut head = [0; HEADER];
        self.from.read_exact(&mut head).await.map_err(SessionError::Lost)?;
        let (kind, length) = read_header(head)?;
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).await.map_err(SessionError::Lost)?;
        Ok((kind, body))
    }

    async fn bring(&mut self) -> Result<(), SessionError> {
        let shell = self.shell.read()?;
        for piece in shell.chunks(MAX_BODY).chain([&[][..]]) {
            // Fails when the stream is lost, which is noticed by who writes to it.
            let _ = self.outbox.send((Kind::Shell, piece.to_vec())).await;
        }
        Ok(())
    }
}

async fn put(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), SessionError> {
    let put = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    put.await.map_err(|source| SessionError::Local("write what the guest says", source))
}

/// Sends messages; ends only by an error. A stream that takes no more may still hold the agent's last words, which are read.
async fn transmit(
    mut to: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<(Kind, Vec<u8>)>,
) -> SessionError {
    while let Some((kind, body)) = queue.recv().await {
        let sent = async {
            to.write_all(&header(kind, body.len())).await?;
            to.write_all(&body).await?;
            to.flush().await
        };
        if sent.await.is_err() {
            break;
        }
    }
    drop(queue);
    std::future::pending().await
}

/// Sends standard input, no faster than the shell reads it, and its end.
async fn feed(
    mut input: impl AsyncRead + Unpin,
    outbox: &Outbox,
    window: &Semaphore,
    mut started: watch::Receiver<bool>,
) -> SessionError {
    // Whoever hears ends all of it.
    let _ = started.wait_for(|started| *started).await;
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = match input.read(&mut buffer).await {
            Ok(length) => length,
            Err(source) => return SessionError::Local("read standard input", source),
        };
        if let Ok(permits) = window.acquire_many(u32::try_from(length).unwrap_or(u32::MAX)).await {
            permits.forget();
        }
        let sent = outbox.send((Kind::Input, buffer[..length].to_vec())).await;
        if length == 0 || sent.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Tells of each new size of the terminal.
async fn follow(
    mut sizes: watch::Receiver<Size>,
    outbox: &Outbox,
    mut started: watch::Receiver<bool>,
) -> std::convert::Infallible {
    // As above.
    let _ = started.wait_for(|started| *started).await;
    while sizes.changed().await.is_ok() {
        let new = *sizes.borrow_and_update();
        let _ = outbox.send((Kind::Resize, size(new).to_vec())).await;
    }
    std::future::pending().await
}
