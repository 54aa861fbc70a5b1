//! Where agents connect to.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kata_trace::Endpoint;
use tokio::io::AsyncRead;
use tokio::net::UnixListener;
use tokio::time::timeout;
use tokio_vsock::{VsockAddr, VsockListener};

use crate::args::Args;
use crate::connection;

/// Connections at a time, each of which may have another one to the collector: a process may usually open 1,024 files.
const CONNECTIONS: usize = 400;
/// Connections of one guest; an agent has one.
const OF_A_GUEST: usize = 8;
/// When the kernel gives no connection it is asked again so much later.
const PAUSE: Duration = Duration::from_millis(200);

/// Nobody can connect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// No vsock.
    #[error(
        "Cannot listen on vsock port {port}; it takes the kernel's module vhost_vsock, and only one forwarder on a port"
    )]
    Vsock {
        /// The port.
        port: u32,
        /// Why not.
        source: io::Error,
    },
    /// No socket.
    #[error("Cannot listen on {}; its directory must be there, and no other forwarder", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The socket.
pub(crate) enum Listener {
    Vsock { listener: VsockListener, port: u32 },
    Unix { listener: UnixListener, file: SocketFile },
}

/// Removed when nobody listens any more.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone with its directory.
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    pub(crate) fn bind(args: &Args) -> Result<Self, ListenError> {
        let port = args.vsock_port;
        match &args.socket_path {
            Some(path) => Self::bind_unix(&hybrid_path(path, port)),
            None => {
                let listener = VsockListener::bind(VsockAddr::new(args.vsock_cid, port));
                let listener = listener.map_err(|source| ListenError::Vsock { port, source })?;
                Ok(Self::Vsock { listener, port })
            }
        }
    }

    pub(crate) fn bind_unix(path: &Path) -> Result<Self, ListenError> {
        let listener = UnixListener::bind(path);
        let listener = listener.map_err(|source| ListenError::Unix { path: path.to_owned(), source })?;
        Ok(Self::Unix { listener, file: SocketFile(path.to_owned()) })
    }

    /// Serves all that connect, for ever.
    pub(crate) async fn run(self, endpoint: &Endpoint) {
        let guests = Guests::default();
        loop {
            let accepted = match &self {
                Self::Vsock { listener, .. } => listener.accept().await.map(|(stream, peer)| {
                    guests.serve(stream, format!("vsock://{}", peer.cid()), endpoint);
                }),
                Self::Unix { listener, file } => listener.accept().await.map(|(stream, _)| {
                    guests.serve(stream, format!("unix://{}", file.0.display()), endpoint);
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!(error = &error as &dyn std::error::Error, "A connection is not taken");
                // Nothing tells when there is room again.
                let _ = timeout(PAUSE, pending::<()>()).await;
            }
        }
    }
}

/// How many connections each guest has.
#[derive(Clone, Default)]
struct Guests(Arc<Mutex<HashMap<String, usize>>>);

/// One of them.
struct Place {
    guests: Guests,
    guest: String,
}

impl Guests {
    /// Closes the connection if there are too many.
    fn serve(&self, stream: impl AsyncRead + Unpin + Send + 'static, guest: String, endpoint: &Endpoint) {
        let Some(place) = self.admit(guest) else { return };
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            connection::serve(stream, place.guest.clone(), endpoint).await;
            drop(place);
        });
    }

    fn admit(&self, guest: String) -> Option<Place> {
        let mut counts = self.lock();
        let (all, own) = (counts.values().sum::<usize>(), counts.get(&guest).copied().unwrap_or(0));
        if all >= CONNECTIONS || own >= OF_A_GUEST {
            tracing::debug!(guest, all, own, "Too many connections");
            return None;
        }
        counts.insert(guest.clone(), own + 1);
        Some(Place { guests: self.clone(), guest })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.guests.lock();
        if let Some(count) = counts.get_mut(&self.guest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.guest);
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { port, .. } => write!(f, "vsock port {port}"),
            Self::Unix { file, .. } => write!(f, "{}", file.0.display()),
        }
    }
}

/// Where a VMM with hybrid vsock takes a guest's connection to a port of the host.
fn hybrid_path(socket: &Path, port: u32) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

#[cfg(test)]
mod tests {
    use super::{CONNECTIONS, Guests, OF_A_GUEST};

    /// One guest took all connections that the process may have, which ended with that.
    #[test]
    fn a_guest_has_few_connections_and_all_have_a_bound() {
        let guests = Guests::default();
        let mut places: Vec<_> = (0..OF_A_GUEST).map(|_| guests.admit("a".into()).unwrap()).collect();
        assert!(guests.admit("a".into()).is_none());
        let others = (OF_A_GUEST..CONNECTIONS).map(|number| guests.admit(number.to_string()).unwrap());
        places.extend(others);
        assert!(guests.admit("b".into()).is_none());
        places.clear();
        assert!(guests.lock().is_empty());
    }
}
