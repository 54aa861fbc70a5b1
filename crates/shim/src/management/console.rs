//! A console in the guest: the connection of the request becomes its stream.

use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kata_sandbox::{CONSOLE_PROTOCOL, Stream, exchange};

use super::Managed;
use super::call::{Answer, Call, Content};
use super::routes;
use crate::backend::{Failure, Kind};

const PATH: &str = "/console";

/// Whether a request is `GET /console` that wants to upgrade.
pub(super) fn is_asked_for<B>(request: &Request<B>) -> bool {
    let wanted = request.headers().get(UPGRADE);
    request.method() == Method::GET
        && request.uri().path() == PATH
        && wanted.is_some_and(|protocol| protocol == CONSOLE_PROTOCOL)
}

/// `GET /console` that does not.
pub(super) async fn refuse(_: Call) -> Result<Answer, Failure> {
    let words = format!("A console needs `Connection: Upgrade` and `Upgrade: {CONSOLE_PROTOCOL}`");
    Err(Failure::new(Kind::InvalidArgument, words))
}

/// Opens a console, or says why there is none.
pub(super) async fn open<B>(sandbox: &dyn Managed, mut request: Request<B>) -> Response<Content> {
    let stream = match sandbox.console().await {
        Ok(stream) => stream,
        Err(failure) => return routes::failed(&failure),
    };
    tokio::spawn(carry(hyper::upgrade::on(&mut request), stream));
    let mut response = Response::new(Content::whole(Vec::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(CONSOLE_PROTOCOL));
    response
}

/// Copies both ways. When the client is gone, the agent learns it by the end of the stream, and ends it in turn.
async fn carry(upgrade: OnUpgrade, stream: Stream) {
    let ended = match upgrade.await {
        Ok(client) => exchange(TokioIo::new(client), stream).await,
        Err(error) => Err(std::io::Error::other(error)),
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "a console was broken off");
    }
}
