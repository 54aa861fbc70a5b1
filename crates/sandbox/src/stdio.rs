//! A process's streams: opened to the guest, and pumped to and from what the caller gave.
//!
//! Bytes are copied as they are, in large pieces. A consumer that is slow stops its producer and nothing else.
//!
//! When a process's end may be reported: containerd's shim for runc reports it at once and lets `delete` wait
//! for the output (10 s at most). Here the end is reported when the output that the process wrote is delivered,
//! so that who waits for the end has it all: at end-of-file of its streams; or, if a process left behind
//! holds them open, when nothing has come from the guest for [`QUIET`]; or when the consumer has not taken a byte
//! for [`STUCK`]. The end of a container's first process ends all others, so its streams are sure to end
//! ([`QUIET_CONTAINER`] is for a guest that is not well). What comes later is still copied until `delete`.

use std::io;
use std::time::Duration;

use kata_protocol::{kata, ports};
use kata_transport::{Dialer, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::Agent;
use crate::command::{Input, Key, Output, Stdio};
use crate::error::Result;

/// Size of a pump's buffer in bytes: as much as the agent sends at a time, and two pipes of the host.
const BUFFER: usize = 128 * 1024;

/// After an added process's end: how long nothing may come from the guest before its output counts as delivered.
pub(crate) const QUIET: Duration = Duration::from_secs(3);

/// The same for a container's first process.
pub(crate) const QUIET_CONTAINER: Duration = Duration::from_secs(10);

/// After a process's end: how long a consumer may take nothing before its output counts as abandoned.
pub(crate) const STUCK: Duration = Duration::from_secs(10);

/// Which streams a process needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    terminal: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl From<&Stdio> for Needs {
    fn from(stdio: &Stdio) -> Self {
        Self {
            terminal: stdio.terminal,
            stdin: stdio.stdin.is_some(),
            stdout: stdio.stdout.is_some(),
            stderr: stdio.stderr.is_some() && !stdio.terminal,
        }
    }
}

/// The guest's ends of a process's streams, and their names there.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    names: kata::Stdio,
}

impl Streams {
    /// Opens what is needed.
    pub(crate) async fn open(dialer: &Dialer, needs: Needs) -> Result<Self> {
        let mut streams = Self::default();
        streams.names.terminal = needs.terminal;
        if needs.stdin {
            (streams.stdin, streams.names.stdin_port) = open(dialer).await?;
        }
        if needs.stdout {
            (streams.stdout, streams.names.stdout_port) = open(dialer).await?;
        }
        if needs.stderr {
            (streams.stderr, streams.names.stderr_port) = open(dialer).await?;
        }
        Ok(streams)
    }

    /// How the guest finds them.
    pub(crate) fn names(&self) -> &kata::Stdio {
        &self.names
    }
}

async fn open(dialer: &Dialer) -> Result<(Option<Stream>, u32)> {
    let connection = dialer.connect(ports::STDIO).await?;
    Ok((Some(connection.stream), connection.local_port))
}

/// What an output pump is doing. Each change is progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Waiting for bytes from the guest.
    Reading,
    /// Waiting for the consumer.
    Writing,
    /// At end-of-file, everything delivered; or the consumer is gone.
    Done,
}

/// The tasks that copy a process's streams. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Pumps {
    outputs: Vec<watch::Receiver<Step>>,
    input: Option<AbortHandle>,
    close_input: watch::Sender<bool>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// Tells when a process's output is delivered, and ends its input.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    outputs: Vec<watch::Receiver<Step>>,
    input: Option<AbortHandle>,
}

impl Pumps {
    /// Copies between `stdio` and the streams.
    pub(crate) fn start(stdio: Stdio, streams: Streams) -> Self {
        let mut pumps = Self::default();
        if let (Some(input), Some(stream)) = (stdio.stdin, streams.stdin) {
            let closed = pumps.close_input.subscribe();
            pumps.input(async move { drop(copy_input(input, stream, closed).await) });
        }
        for (stream, output) in [(streams.stdout, stdio.stdout), (streams.stderr, stdio.stderr)] {
            if let (Some(stream), Some(output)) = (stream, output) {
                pumps.output(|step| copy_output(stream, output, step));
            }
        }
        pumps
    }

    /// Copies by the requests of an agent that has no raw streams.
    pub(crate) fn poll(stdio: Stdio, agent: &Agent, key: &Key) -> Self {
        let mut pumps = Self::default();
        if let Some(input) = stdio.stdin {
            let (agent, key, closed) = (agent.clone(), key.clone(), pumps.close_input.subscribe());
            pumps.input(async move { drop(poll_input(input, &agent, &key, closed).await) });
        }
        for (stderr, output) in [(false, stdio.stdout), (true, stdio.stderr.filter(|_| !stdio.terminal))] {
            if let Some(output) = output {
                let (agent, key) = (agent.clone(), key.clone());
                pumps.output(|step| async move { poll_output(output, &agent, &key, stderr, &step).await });
            }
        }
        pumps
    }

    fn input(&mut self, copy: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(copy);
        self.input = Some(task.abort_handle());
        self._tasks.push(AbortOnDropHandle::new(task));
    }

    fn output<F>(&mut self, copy: impl FnOnce(watch::Sender<Step>) -> F)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (step, progress) = watch::channel(Step::Reading);
        let copy = copy(step);
        let task = tokio::spawn(async move {
            // An output that fails (its consumer is gone) ends: the process then gets SIGPIPE, as it would
            // without a VM.
            if let Err(error) = copy.await {
                tracing::debug!(%error, "An output stream ended early");
            }
        });
        self.outputs.push(progress);
        self._tasks.push(AbortOnDropHandle::new(task));
    }

    /// Ends the input after what can be read of it now.
    pub(crate) fn close_input(&self) {
        self.close_input.send_replace(true);
    }

    pub(crate) fn drain(&self) -> Drain {
        Drain { outputs: self.outputs.clone(), input: self.input.clone() }
    }
}

impl Drain {
    /// To be called after the process's end: resolves when its output is delivered (see the module's text).
    pub(crate) async fn finish(mut self, key: &Key) {
        if let Some(input) = &self.input {
            input.abort();
        }
        let quiet = if key.exec.is_some() { QUIET } else { QUIET_CONTAINER };
        for progress in &mut self.outputs {
            delivered(progress, quiet).await;
        }
    }
}

async fn delivered(progress: &mut watch::Receiver<Step>, quiet: Duration) {
    loop {
        let patience = match *progress.borrow_and_update() {
            Step::Reading => quiet,
            Step::Writing => STUCK,
            Step::Done => return,
        };
        match timeout(patience, progress.changed()).await {
            Ok(Ok(())) => {}
            // The pump has ended, or there is no progress.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// From the guest to the consumer until end-of-file.
async fn copy_output(mut from: Stream, mut to: Output, step: watch::Sender<Step>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => break,
            n => deliver(&mut to, &buffer[..n], &step).await?,
        }
    }
    // Until the consumer has it.
    step.send_replace(Step::Writing);
    to.shutdown().await?;
    step.send_replace(Step::Done);
    Ok(())
}

/// Writes all of `bytes`, and shows each piece that the consumer takes as progress.
async fn deliver(to: &mut Output, mut bytes: &[u8], step: &watch::Sender<Step>) -> io::Result<()> {
    while !bytes.is_empty() {
        step.send_replace(Step::Writing);
        match to.write(bytes).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => bytes = &bytes[n..],
        }
    }
    to.flush().await?;
    step.send_replace(Step::Reading);
    Ok(())
}

/// From the caller to the guest until end-of-file, which becomes end-of-file there.
async fn copy_input(
    mut from: Input,
    mut to: impl AsyncWrite + Unpin,
    mut closed: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match read_unless_closed(&mut from, &mut buffer, &mut closed).await? {
            0 => return to.shutdown().await,
            n => {
                to.write_all(&buffer[..n]).await?;
                to.flush().await?;
            }
        }
    }
}

/// Reads; once the input was closed, only what is there already.
async fn read_unless_closed(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    closed: &mut watch::Receiver<bool>,
) -> io::Result<usize> {
    tokio::select! {
        biased;
        result = from.read(buffer) => result,
        _ = closed.wait_for(|closed| *closed) => Ok(0),
    }
}

async fn poll_input(
    mut from: Input,
    agent: &Agent,
    key: &Key,
    mut closed: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = read_unless_closed(&mut from, &mut buffer, &mut closed).await?;
        let mut bytes = &buffer[..n];
        if bytes.is_empty() {
            return agent.close_input(key).await.map_err(io::Error::other);
        }
        while !bytes.is_empty() {
            match agent.write_input(key, bytes).await.map_err(io::Error::other)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => bytes = &bytes[taken..],
            }
        }
    }
}

/// Upstream's agent ends an output with an error or with no bytes.
async fn poll_output(
    mut to: Output,
    agent: &Agent,
    key: &Key,
    stderr: bool,
    step: &watch::Sender<Step>,
) -> io::Result<()> {
    while let Ok(bytes) = agent.read_output(key, stderr).await {
        if bytes.is_empty() {
            break;
        }
        deliver(&mut to, &bytes, step).await?;
    }
    // Until the consumer has it.
    step.send_replace(Step::Writing);
    to.shutdown().await?;
    step.send_replace(Step::Done);
    Ok(())
}
