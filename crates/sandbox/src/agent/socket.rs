//! The agent for others than this process, where the VM's serial port is this process's alone: a unix socket in the state
//! directory, on which hybrid vsock is spoken, as upstream's tools know it from other VMMs. It is there from the first time
//! that somebody asks for the agent's address, and goes with the directory.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kata_protocol::ports;
use kata_transport::{Dialer, Port, exchange, hybrid};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::{Result, SandboxError as Error};
use crate::gone::Gone;
use crate::jobs::Site;

/// In the state directory.
const AGENT_SOCKET: &str = "agent.hvsock";

/// Where somebody listens in every guest; a stream to another port would wait for ever.
const PORTS: [Port; 1] = [ports::AGENT];

/// Clients at a time; more wait.
const CLIENTS: usize = 4;

/// Within this a client says what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client that could not be taken is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Site {
    /// Where the agent is reached. `dialer` leads to it.
    pub(crate) fn agent_address(&self, dialer: Dialer) -> Result<String> {
        let own = |dialer| {
            // The console is in the state directory, too.
            let path = self.console.with_file_name(AGENT_SOCKET);
            address(&path, dialer, self.gone.clone()).map_err(|source| Error::State { path, source })
        };
        dialer.address().map_or_else(|| own(dialer), Ok)
    }
}

/// The socket's address, as upstream's tools write it. Must be called inside a tokio runtime.
fn address(path: &Path, dialer: Dialer, gone: Gone) -> io::Result<String> {
    match UnixListener::bind(path) {
        Ok(listener) => {
            // The directory lets nobody but root in, so nobody is there before the mode is.
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            tokio::spawn(async move { drop(gone.unless(serve(listener, dialer)).await) });
        }
        // The directory is this process's: it listens already.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => return Err(error),
    }
    Ok(format!("hvsock://{}:{}", path.display(), ports::AGENT))
}

async fn serve(listener: UnixListener, dialer: Dialer) {
    let free = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let dialer = dialer.clone();
                tokio::spawn(async move {
                    if let Err(error) = join(client, &dialer).await {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(error, "A client of the agent was broken off");
                    }
                    drop(place);
                });
            }
            // Most likely there is no descriptor left; who is in the socket's queue waits until one may be there.
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "A client of the agent is not taken yet"
                );
                drop(place);
                timeout(ACCEPT_PAUSE, std::future::pending::<()>()).await.ok();
            }
        }
    }
}

/// One client. It is hung up on, as a VMM does, if it wants what is not there.
async fn join(mut client: UnixStream, dialer: &Dialer) -> io::Result<()> {
    let asked = timeout(PATIENCE, hybrid::requested_port(&mut client)).await??;
    let Some(port) = asked.filter(|port| PORTS.contains(port)) else { return Ok(()) };
    let guest = dialer.connect(port).await.map_err(io::Error::other)?;
    hybrid::accept(&mut client, guest.local_port).await?;
    exchange(client, guest.stream).await
}

#[cfg(test)]
mod tests {
    use kata_transport::{Dialer, Listener};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{AGENT_SOCKET, address};
    use crate::gone;

    /// A guest whose agent says what it hears, and a way to it for others.
    async fn scene() -> (tempfile::TempDir, Dialer, gone::Announcer) {
        let temp = tempfile::tempdir().unwrap();
        let agent = temp.path().join("agent");
        let listener = Listener::unix(&agent).await.unwrap();
        let mut incoming = listener.bind(1024).await.unwrap();
        tokio::spawn(async move {
            let _listener = listener;
            while let Ok(mut accepted) = incoming.accept().await {
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    accepted.stream.read_to_end(&mut heard).await.ok();
                    accepted.stream.write_all(&heard).await.ok();
                });
            }
        });
        let (announcer, gone) = gone::channel();
        let (path, guest) = (temp.path().join(AGENT_SOCKET), Dialer::unix(agent));
        let url = address(&path, guest.clone(), gone.clone()).unwrap();
        assert_eq!(url, format!("hvsock://{}:1024", path.display()));
        assert_eq!(address(&path, guest, gone).unwrap(), url, "asked again");
        (temp, Dialer::hybrid(path), announcer)
    }

    #[tokio::test]
    async fn others_reach_the_agent_as_through_a_vmms_socket() {
        let (_temp, others, _living) = scene().await;
        for _ in 0..6 {
            let mut stream = others.connect(1024).await.unwrap().stream;
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut echo = String::new();
            stream.read_to_string(&mut echo).await.unwrap();
            assert_eq!(echo, "hello");
        }
    }

    #[tokio::test]
    async fn nobody_is_led_to_another_port() {
        let (_temp, others, _living) = scene().await;
        assert!(matches!(others.connect(1027).await, Err(kata_transport::Error::Refused { .. })));
    }

    #[tokio::test]
    async fn the_way_ends_with_the_sandbox() {
        let (_temp, others, announcer) = scene().await;
        others.connect(1024).await.unwrap();
        announcer.announce(&"over".into());
        while others.connect(1024).await.is_ok() {}
    }
}
