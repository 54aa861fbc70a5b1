//! Who may speak on the management socket, how many at a time, and for how long.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kata_sandbox::{MANAGEMENT_BODY, MANAGEMENT_SOCKET};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Managed;
use super::call::Content;
use super::routes::{self, BodyLimits};

/// What a client can cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time; more wait.
    pub(super) connections: usize,
    /// A request's head must be whole by then.
    pub(super) head: Duration,
    /// Its body.
    pub(super) body: BodyLimits,
    /// A connection is over by then, answered or not.
    pub(super) connection: Duration,
}

const LIMITS: Limits = Limits {
    connections: 8,
    head: Duration::from_secs(5),
    body: BodyLimits { bytes: MANAGEMENT_BODY, time: Duration::from_secs(10) },
    // Longer than an ordinary request to the agent may take.
    connection: Duration::from_secs(300),
};

/// The head of a request, in bytes, and its fields.
const HEAD_BYTES: usize = 16 << 10;
const HEAD_FIELDS: usize = 64;

/// After an error that may last, such as too many open files.
const BREAK: Duration = Duration::from_secs(1);

/// Serves `sandbox` on the management socket in its state directory, from now on. Must be called inside a tokio runtime.
pub(crate) fn start(state_dir: &Path, sandbox: Arc<dyn Managed>) {
    let path = state_dir.join(MANAGEMENT_SOCKET);
    match bind(&path) {
        Ok(listener) => drop(tokio::spawn(serve(listener, sandbox, LIMITS))),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, socket = %path.display(), "no management socket");
        }
    }
}

/// The directory lets nobody else in, so nobody is there before the mode is.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the listener's runtime ends.
pub(super) async fn serve(listener: UnixListener, sandbox: Arc<dyn Managed>, limits: Limits) {
    let free = Arc::new(Semaphore::new(limits.connections));
    let own = rustix::process::geteuid().as_raw();
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| may_speak(peer.uid(), own)) => {
                let sandbox = Arc::clone(&sandbox);
                tokio::spawn(async move {
                    converse(stream, sandbox, limits).await;
                    drop(place);
                });
            }
            Ok(_) => tracing::warn!("somebody who is not root has called the management socket"),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the management socket cannot be answered"
                );
                pause().await;
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "nobody waits for it: it bounds how often a lasting error is met"
)]
async fn pause() {
    sleep(BREAK).await;
}

/// Root, and whoever this process runs as.
pub(super) fn may_speak(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

/// One connection, one request.
async fn converse(stream: UnixStream, sandbox: Arc<dyn Managed>, limits: Limits) {
    let streams = AtomicBool::new(false);
    let service = service_fn(|request| {
        let answer = Box::pin(routes::answer(Arc::clone(&sandbox), request, limits.body));
        async {
            let answer = answer.await;
            streams.store(matches!(answer.body(), Content::Stream(_)), Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(limits.head).keep_alive(false);
    connection.max_buf_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
    let mut connection = Box::pin(connection.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = match timeout(limits.connection, &mut connection).await {
        // Who listens may do so for ever.
        Err(_) if streams.load(Ordering::Relaxed) => Ok(connection.await),
        ended => ended,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "a connection of the management socket has ended early");
        }
        Err(_) => tracing::debug!("a connection of the management socket took too long"),
    }
}
