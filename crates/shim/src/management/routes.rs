//! The table of endpoints, and how one is found and answered.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::call::{Answer, Call, Content};
use super::{
    Managed, agent, console, direct_volume, events, inspection, log_level, metrics, network, packet_filter,
};
use crate::backend::{Failure, Kind};

type Answering = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;
type Handler = fn(Call) -> Answering;
type Endpoint = (&'static str, Method, Handler);

/// All endpoints. In a path, a last part `*` is any name.
static ENDPOINTS: &[Endpoint] = &[
    ("/agent-url", Method::GET, |call| Box::pin(agent::url(call))),
    ("/console", Method::GET, |call| Box::pin(console::refuse(call))),
    ("/direct-volume/resize", Method::POST, |call| Box::pin(direct_volume::resize(call))),
    ("/direct-volume/stats", Method::GET, |call| Box::pin(direct_volume::stats(call))),
    ("/direct-volume/stats", Method::POST, |call| Box::pin(direct_volume::stats(call))),
    ("/direct-volume/stats/*", Method::GET, |call| Box::pin(direct_volume::stats(call))),
    ("/events", Method::GET, |call| Box::pin(events::stream(call))),
    ("/inspect", Method::GET, |call| Box::pin(inspection::sandbox(call))),
    ("/iptables", Method::GET, |call| Box::pin(packet_filter::get(call, false))),
    ("/iptables", Method::PUT, |call| Box::pin(packet_filter::set(call, false))),
    ("/ip6tables", Method::GET, |call| Box::pin(packet_filter::get(call, true))),
    ("/ip6tables", Method::PUT, |call| Box::pin(packet_filter::set(call, true))),
    ("/metrics", Method::GET, |call| Box::pin(metrics::get(call))),
    ("/log-level", Method::GET, |call| Box::pin(log_level::get(call))),
    ("/log-level", Method::PUT, |call| Box::pin(log_level::set(call))),
    ("/log-level/agent", Method::GET, |call| Box::pin(log_level::get_agents(call))),
    ("/log-level/agent", Method::PUT, |call| Box::pin(log_level::set_agents(call))),
    ("/network/interfaces", Method::GET, |call| Box::pin(network::interfaces(call))),
    ("/network/interfaces", Method::POST, |call| Box::pin(network::add(call))),
    ("/network/interfaces/*", Method::DELETE, |call| Box::pin(network::remove(call))),
    ("/network/routes", Method::GET, |call| Box::pin(network::routes(call))),
    ("/network/routes", Method::PUT, |call| Box::pin(network::set_routes(call))),
    ("/network/routes", Method::DELETE, |call| Box::pin(network::reset_routes(call))),
    ("/policy", Method::PUT, |_| Box::pin(agent::set_policy())),
    ("/processes/*", Method::GET, |call| Box::pin(inspection::processes(call))),
];

/// How large a body may be, and how long its sender may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// Why a request gets no answer of an endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("There is no {0} here")]
    Path(String),
    #[error("There is no {0} here: it tells of programs written in Go, which this shim is not; try /metrics")]
    OfGo(String),
    #[error("{path} is for {allowed} only")]
    Method { path: String, allowed: String },
    #[error("The body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("The body did not come within {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("The body did not come whole")]
    Broken,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Path(_) | Self::OfGo(_) => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }
}

/// Answers one request.
pub(super) async fn answer<B>(
    sandbox: Arc<dyn Managed>,
    request: Request<B>,
    limits: BodyLimits,
) -> Response<Content>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    if console::is_asked_for(&request) {
        return console::open(sandbox.as_ref(), request).await;
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let found = match find(request.method(), request.uri().path()) {
        Ok((endpoint, name)) => receive(request.into_body(), limits).await.map(|body| (endpoint, name, body)),
        Err(refusal) => Err(refusal),
    };
    match found {
        Ok((endpoint, name, body)) => match endpoint(Call { sandbox, name, query, body }).await {
            Ok(Answer { media, body }) => response(StatusCode::OK, media, body),
            Err(failure) => failed(&failure),
        },
        Err(refusal) => {
            let mut response = words(refusal.status(), &refusal.to_string());
            if let Refusal::Method { allowed, .. } = &refusal
                && let Ok(allowed) = HeaderValue::from_str(allowed)
            {
                response.headers_mut().insert(ALLOW, allowed);
            }
            response
        }
    }
}

/// The endpoint of a path and a method, and the name in the path.
fn find(method: &Method, path: &str) -> Result<(Handler, String), Refusal> {
    let named = |pattern: &str| match pattern.strip_suffix('*') {
        None => (pattern == path).then(String::new),
        Some(head) => {
            let name = path.strip_prefix(head).filter(|name| !name.is_empty() && !name.contains('/'))?;
            Some(percent_decode_str(name).decode_utf8_lossy().into_owned())
        }
    };
    let there: Vec<_> =
        ENDPOINTS.iter().filter_map(|row| named(row.0).map(|name| (&row.1, row.2, name))).collect();
    if there.is_empty() {
        let path = path.to_owned();
        return Err(if path.starts_with("/debug/") { Refusal::OfGo(path) } else { Refusal::Path(path) });
    }
    let allowed = || there.iter().map(|(method, ..)| method.as_str()).collect::<Vec<_>>().join(", ");
    match there.iter().find(|(there, ..)| *there == method) {
        Some((_, endpoint, name)) => Ok((*endpoint, name.clone())),
        None => Err(Refusal::Method { path: path.to_owned(), allowed: allowed() }),
    }
}

/// The whole body, unless it is too much. What announces itself as too large is not waited for.
async fn receive<B>(body: B, limits: BodyLimits) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    if body.size_hint().lower() > limits.bytes as u64 {
        return Err(Refusal::TooLarge(limits.bytes));
    }
    let body = Box::pin(Limited::new(body, limits.bytes).collect());
    match timeout(limits.time, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge(limits.bytes)),
        Ok(Err(_)) => Err(Refusal::Broken),
        Err(_) => Err(Refusal::TooSlow(limits.time)),
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::AlreadyExists | Kind::FailedPrecondition => StatusCode::CONFLICT,
        Kind::InvalidArgument => StatusCode::BAD_REQUEST,
        Kind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Kind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer when an endpoint could not do what it was asked for.
pub(super) fn failed(failure: &Failure) -> Response<Content> {
    words(status(failure.kind), &failure.text)
}

/// An error is a line of text.
fn words(status: StatusCode, text: &str) -> Response<Content> {
    response(status, "text/plain; charset=utf-8", Content::whole(format!("{text}\n").into_bytes()))
}

fn response(status: StatusCode, media: &'static str, body: Content) -> Response<Content> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
