//! The table of endpoints, and what each answers.

use std::sync::Arc;

use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue,
    VARY, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::body::Answer;
use super::door::Door;
use super::{negotiate, page};
use crate::discovery::{Registry, Sandbox, Sandboxes};
use crate::exposition::{self, Merge, Told};
use crate::feed::{Feed, Form};
use crate::own::Own;
use crate::scrape::{NoFigures, Patience, Scraper};
use crate::shim::{self, ShimError};

/// What the endpoints know.
pub(crate) struct App {
    /// Which sandboxes there are.
    pub(crate) registry: Arc<Registry>,
    /// Asks them.
    pub(crate) scraper: Scraper,
    /// The monitor's own figures.
    pub(crate) own: Arc<Own>,
    /// What happens.
    pub(crate) feed: Arc<Feed>,
    /// How long a shim may take.
    pub(crate) patience: Patience,
}

/// A request.
struct Call {
    app: Arc<App>,
    headers: HeaderMap,
    query: String,
}

/// What an endpoint answers.
struct Reply {
    media: &'static str,
    body: Answer,
}

impl Reply {
    fn text(text: impl Into<String>) -> Self {
        Self { media: "text/plain; charset=utf-8", body: Answer::whole(text.into()) }
    }

    fn html(text: String) -> Self {
        Self { media: "text/html; charset=utf-8", body: Answer::whole(text) }
    }
}

/// Why a request gets none; each is a status and a line of text.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("There is no {0} here; / lists what there is")]
    Path(String),
    #[error("Only GET is understood")]
    Method,
    #[error("A token is needed: Authorization: Bearer TOKEN")]
    Token,
    #[error("Which sandbox? Add ?sandbox= with its id, or a beginning of it")]
    NoSandbox,
    #[error("No sandbox has an id that begins with {0:?}; /sandboxes lists those that run")]
    Unknown(String),
    #[error("{0:?} is the beginning of several ids; give more of it")]
    Ambiguous(String),
    #[error("As many listen already as may; try again later")]
    Listeners,
    #[error(transparent)]
    Figures(#[from] NoFigures),
    #[error("The shim of the sandbox does not tell: {0}")]
    Shim(#[from] ShimError),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Path(_) | Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::NoSandbox | Self::Ambiguous(_) => StatusCode::BAD_REQUEST,
            Self::Listeners | Self::Figures(NoFigures::Busy) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Figures(NoFigures::Shim(_)) | Self::Shim(_) => StatusCode::BAD_GATEWAY,
            Self::Figures(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// Answers one request.
pub(super) async fn answer<B>(app: Arc<App>, door: Door, request: Request<B>) -> Response<Answer> {
    let (head, _) = request.into_parts();
    let gzip = negotiate::takes_gzip(&head.headers);
    let answered = if !door.admits(&head.headers) {
        Err(Refusal::Token)
    } else if head.method != Method::GET {
        Err(Refusal::Method)
    } else {
        let query = head.uri.query().unwrap_or_default().to_owned();
        Box::pin(endpoint(head.uri.path(), Call { app, headers: head.headers, query })).await
    };
    match answered {
        Ok(reply) => response(reply, gzip),
        Err(refusal) => refused(&refusal),
    }
}

async fn endpoint(path: &str, call: Call) -> Result<Reply, Refusal> {
    match path {
        "/" => index(&call).await,
        "/metrics" => metrics(&call).await,
        "/sandboxes" => Ok(sandboxes(&call)),
        "/agent-url" => agent_url(&call).await,
        "/events" => events(&call).await,
        other => Err(Refusal::Path(other.to_owned())),
    }
}

/// `GET /`
async fn index(call: &Call) -> Result<Reply, Refusal> {
    if !negotiate::wants_html(&call.headers) {
        return Ok(Reply::text(page::plain()));
    }
    let scraper = &call.app.scraper;
    let _place = scraper.place().await?;
    Ok(Reply::html(page::html(&scraper.all("").await)))
}

/// `GET /metrics`, of all sandboxes or of one. What else is in the query is for the shims.
async fn metrics(call: &Call) -> Result<Reply, Refusal> {
    let (asked, query) = parameters(&call.query);
    let app = &call.app;
    let mut place = None;
    let (head, told) = match asked {
        None => {
            place = Some(app.scraper.place().await?);
            app.scraper.all(&query).await.into_parts(&app.own)
        }
        Some(id) => {
            let sandboxes = app.registry.named().await;
            let sandbox = find(&sandboxes, &id)?.clone();
            let labels = sandbox.labels();
            let text = app.scraper.one(sandbox, &query).await?;
            (String::new(), vec![Told { labels, text }])
        }
    };
    let merged = Merge::new(told, app.own.unfit());
    let pieces =
        std::iter::once(head.into()).filter(|head: &hyper::body::Bytes| !head.is_empty()).chain(merged);
    // The figures are there until they have been taken.
    let pieces = pieces.inspect(move |_| _ = &place);
    Ok(Reply { media: exposition::MEDIA, body: Answer::Pieces(Box::new(pieces)) })
}

/// `GET /sandboxes`
fn sandboxes(call: &Call) -> Reply {
    let sandboxes = call.app.registry.sandboxes();
    if negotiate::wants_html(&call.headers) {
        return Reply::html(page::list(sandboxes.keys()));
    }
    Reply::text(sandboxes.keys().map(|id| format!("{id}\n")).collect::<String>())
}

/// `GET /agent-url?sandbox=`
async fn agent_url(call: &Call) -> Result<Reply, Refusal> {
    let id = parameters(&call.query).0.ok_or(Refusal::NoSandbox)?;
    let sandbox = find(&call.app.registry.sandboxes(), &id)?.clone();
    let Patience(patience) = call.app.patience;
    let socket = sandbox.socket();
    let asked = timeout(patience, shim::ask(&socket, "/agent-url")).await;
    let url = asked.map_err(|_| NoFigures::Slow(patience))??;
    Ok(Reply::text(String::from_utf8_lossy(&url)))
}

/// `GET /events`
async fn events(call: &Call) -> Result<Reply, Refusal> {
    let form = if negotiate::wants_server_sent(&call.headers) { Form::ServerSent } else { Form::Lines };
    let sandboxes = call.app.registry.named().await;
    let events = call.app.feed.clone().listen(sandboxes.values(), form).ok_or(Refusal::Listeners)?;
    Ok(Reply { media: form.media(), body: Answer::Events(events) })
}

/// The sandbox that is asked for, and what else is.
fn parameters(query: &str) -> (Option<String>, String) {
    let mut sandbox = None;
    let mut others = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.strip_prefix("sandbox=") {
            Some("") => {}
            Some(id) => sandbox = Some(percent_decode_str(id).decode_utf8_lossy().into_owned()),
            None => others.push(pair),
        }
    }
    (sandbox, others.join("&"))
}

/// The one whose id is, or alone begins with, `id`.
fn find<'s>(sandboxes: &'s Sandboxes, id: &str) -> Result<&'s Sandbox, Refusal> {
    if let Some(sandbox) = sandboxes.get(id) {
        return Ok(sandbox);
    }
    let mut matching = sandboxes.values().filter(|sandbox| sandbox.id.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(Refusal::Ambiguous(id.to_owned())),
        (None, _) => Err(Refusal::Unknown(id.to_owned())),
    }
}

fn response(reply: Reply, gzip: bool) -> Response<Answer> {
    let gzip = gzip && matches!(reply.body, Answer::Pieces(_));
    let body = if gzip { reply.body.compressed() } else { reply.body };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn refused(refusal: &Refusal) -> Response<Answer> {
    let mut response = response(Reply::text(format!("{refusal}\n")), false);
    *response.status_mut() = refusal.status();
    let field = match refusal {
        Refusal::Method => Some((ALLOW, "GET")),
        Refusal::Token => Some((WWW_AUTHENTICATE, "Bearer realm=\"kata-monitor\"")),
        _ => None,
    };
    response.headers_mut().extend(field.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}
