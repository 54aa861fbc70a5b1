//! How `start` hands its server over to containerd: a pipe on which it says how far it has come. If `start`
//! dies on the way (containerd kills it when its client goes away), containerd will never call `delete`, so
//! the server learns it from the end of the pipe, and undoes everything itself.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

const STEP: &[u8] = b".";

/// `start` ended before it had handed the server over.
#[derive(Debug, thiserror::Error)]
#[error("the start action ended before it had answered containerd")]
pub(crate) struct Abandoned;

/// The end that `start` has. Dropping it abandons the server.
#[derive(Debug)]
pub(crate) struct Giver(PipeWriter);

impl Giver {
    /// Makes a pipe: our end, and what the server gets as its standard output.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new() -> io::Result<(Self, PipeReader)> {
        let (reader, writer) = io::pipe()?;
        Ok((Self(writer), reader))
    }

    /// Tells the server that the next step is done: first its socket listens, then containerd has its address.
    ///
    /// # Errors
    /// The server is gone.
    pub(crate) fn step(&mut self) -> io::Result<()> {
        self.0.write_all(STEP)
    }
}

/// The end that the server has.
#[derive(Debug)]
pub(crate) struct Taker(pipe::Receiver);

impl Taker {
    /// Takes the pipe out of standard output. Only within a tokio runtime.
    ///
    /// # Errors
    /// Standard output is not the reading end of a pipe.
    pub(crate) fn from_stdout() -> io::Result<Self> {
        let pipe: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
        let nothing = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nothing)?;
        Self::new(pipe)
    }

    fn new(pipe: OwnedFd) -> io::Result<Self> {
        pipe::Receiver::from_owned_fd(pipe).map(Self)
    }

    /// Waits for the next step.
    ///
    /// # Errors
    /// `start` has ended before it.
    pub(crate) async fn step(&mut self) -> Result<(), Abandoned> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).await.map(drop).map_err(|_| Abandoned)
    }
}

#[cfg(test)]
mod tests {
    use super::{Giver, Taker};

    #[tokio::test]
    async fn every_step_is_heard_and_the_end_is_too() {
        let (mut giver, reader) = Giver::new().unwrap();
        let mut taker = Taker::new(reader.into()).unwrap();
        giver.step().unwrap();
        taker.step().await.unwrap();
        giver.step().unwrap();
        drop(giver);
        taker.step().await.unwrap();
        taker.step().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_an_error_for_start() {
        let (mut giver, reader) = Giver::new().unwrap();
        drop(Taker::new(reader.into()).unwrap());
        giver.step().unwrap_err();
    }
}
