//! Connections: how many at a time, and for how long.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::door::Door;
use super::pace::{Pace, Paced, paced};
use super::routes::{self, App};

/// Connections at a time; more wait.
const CONNECTIONS: usize = 64;
/// A request's head must be whole by then, the first one after a handshake that takes as long at most. An idle connection
/// ends by it, too.
const HEAD: Duration = Duration::from_secs(90);
/// A handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of a request, in bytes, and its fields.
const HEAD_BYTES: usize = 16 << 10;
const HEAD_FIELDS: usize = 64;
/// After an error that may last, such as too many open files.
const BREAK: Duration = Duration::from_secs(1);

/// What serves.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) listener: TcpListener,
    /// Who may speak.
    pub(crate) door: Door,
    /// What is served.
    pub(crate) app: Arc<App>,
}

/// Serves for ever.
pub(crate) async fn serve(server: Server) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let Server { listener, door, app } = server;
    loop {
        let Ok(place) = free.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (door, app) = (door.clone(), app.clone());
                tokio::spawn(async move {
                    if let Err(error) = welcome(stream, door, app).await {
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "a connection has ended early"
                        );
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection cannot be taken");
                // Nobody waits for it: it bounds how often a lasting error is met.
                let _ = timeout(BREAK, std::future::pending::<()>()).await;
            }
        }
    }
}

/// A conversation has broken.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("The handshake failed")]
    Handshake(#[source] io::Error),
    #[error("The conversation broke")]
    Http(#[source] hyper::Error),
}

async fn welcome(stream: TcpStream, door: Door, app: Arc<App>) -> Result<(), Broken> {
    match door.tls.clone() {
        None => converse(stream, door, app).await,
        Some(tls) => {
            let shaken = timeout(HANDSHAKE, tls.accept(stream)).await.map_err(io::Error::from).flatten();
            converse(shaken.map_err(Broken::Handshake)?, door, app).await
        }
    }
}

async fn converse<S>(stream: S, door: Door, app: Arc<App>) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pace = Pace::default();
    let service = service_fn(|request| {
        let answered = routes::answer(app.clone(), door.clone(), request);
        let pace = pace.clone();
        async {
            let response = answered.await;
            pace.begin();
            Ok::<_, Infallible>(response.map(|body| paced(body, pace)))
        }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(HEAD);
    connection.max_buf_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
    let stream = TokioIo::new(Paced::new(stream, pace.clone()));
    connection.serve_connection(stream, service).await.map_err(Broken::Http)
}
