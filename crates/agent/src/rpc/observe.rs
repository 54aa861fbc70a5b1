//! What every RPC needs: a span, a deadline, metrics, and a clear answer when it is not implemented.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kata_metrics::{Exposition, Family, Told};
use tracing::Instrument;
use ttrpc::asynchronous::{MethodHandler, Service, TtrpcContext};
use ttrpc::proto::{Request, Response};
use ttrpc::{Code, get_status};

use crate::spans::Spans;

/// Wraps every method of `services`.
pub(super) fn all(
    services: HashMap<String, Service>,
    metrics: &Metrics,
    spans: &Spans,
) -> HashMap<String, Service> {
    let observed = services.into_iter().map(|(name, service)| {
        let methods = service.methods.into_iter().map(|(method, handler)| {
            let path = format!("{name}/{method}");
            let counters = metrics.of(&path);
            let observed: Box<dyn MethodHandler + Send + Sync> =
                Box::new(Observed { path, handler, counters, spans: spans.clone() });
            (method, observed)
        });
        (name.clone(), Service { methods: methods.collect(), streams: service.streams })
    });
    observed.collect()
}

struct Observed {
    path: String,
    handler: Box<dyn MethodHandler + Send + Sync>,
    counters: Arc<Counters>,
    spans: Spans,
}

#[async_trait]
impl MethodHandler for Observed {
    async fn handler(&self, mut context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let begin = Instant::now();
        tracing::trace!(method = self.path, "Begun");
        let deadline = u64::try_from(context.timeout_nano).ok().filter(|nanoseconds| *nanoseconds > 0);
        let traced = self.spans.begin(&self.path, &mut context.metadata, &request.payload);
        let span = tracing::debug_span!("rpc", method = self.path);
        let handling = self.handler.handler(context, request).instrument(span);
        let result = match deadline {
            None => handling.await,
            Some(nanoseconds) => {
                let limit = Duration::from_nanos(nanoseconds);
                tokio::time::timeout(limit, handling).await.unwrap_or_else(|_| Ok(self.too_late(limit)))
            }
        };
        let result = result.map(|response| self.explain(response));
        let failure = failure(&result);
        if let Some(traced) = traced {
            traced.end(failure.as_deref());
        }
        self.record(begin.elapsed(), failure);
        result
    }
}

impl Observed {
    fn too_late(&self, limit: Duration) -> Response {
        let message = format!("{} did not finish within the caller's {} ms", self.path, limit.as_millis());
        Response {
            status: protobuf::MessageField::some(get_status(Code::DEADLINE_EXCEEDED, message)),
            ..Default::default()
        }
    }

    /// The generated service says "not found" for a method that nobody wrote.
    fn explain(&self, mut response: Response) -> Response {
        let status = response.status.get_or_default();
        if status.code() == Code::NOT_FOUND && status.message == format!("/{} is not supported", self.path) {
            let message = format!("{} is not implemented by this agent yet", self.path);
            response.status = protobuf::MessageField::some(get_status(Code::UNIMPLEMENTED, message));
        }
        response
    }

    fn record(&self, took: Duration, failure: Option<String>) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        self.counters.microseconds.fetch_add(microseconds, Ordering::Relaxed);
        match failure {
            None => tracing::debug!(method = self.path, microseconds, "Done"),
            Some(error) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(method = self.path, microseconds, error, "Refused");
            }
        }
    }
}

/// Why a request was refused.
fn failure(result: &ttrpc::Result<Response>) -> Option<String> {
    match result {
        Ok(response) if response.status.get_or_default().code() == Code::OK => None,
        Ok(response) => Some(response.status.get_or_default().message.clone()),
        Err(error) => Some(error.to_string()),
    }
}

/// One of the counters.
type Pick = fn(&Counters) -> &AtomicU64;

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    failures: AtomicU64,
    microseconds: AtomicU64,
}

static SCRAPES: Family =
    Family::counter("kata_agent_scrape_count", "How often the agent's metrics were read.", Told::WhenAsked);
static CALLS: Family = Family::counter("kata_agent_rpc_calls_total", "Requests.", Told::WhenAsked);
static FAILURES: Family =
    Family::counter("kata_agent_rpc_failures_total", "Refused requests.", Told::WhenAsked);
static MICROSECONDS: Family =
    Family::counter("kata_agent_rpc_microseconds_total", "Time that requests took.", Told::WhenAsked);

/// Counters of all methods.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Arc<All>);

#[derive(Debug, Default)]
struct All {
    methods: Mutex<BTreeMap<String, Arc<Counters>>>,
    scrapes: AtomicU64,
}

impl Metrics {
    fn of(&self, path: &str) -> Arc<Counters> {
        let mut methods = self.0.methods.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(methods.entry(path.to_owned()).or_default())
    }

    /// Writes what is wanted of them; methods that were never called are left out.
    pub(super) fn write(&self, text: &mut Exposition) {
        let scrapes = self.0.scrapes.fetch_add(1, Ordering::Relaxed) + 1;
        text.one(&SCRAPES, || Some(scrapes));
        let rows: [(&'static Family, Pick); 3] = [
            (&CALLS, |counters| &counters.calls),
            (&FAILURES, |counters| &counters.failures),
            (&MICROSECONDS, |counters| &counters.microseconds),
        ];
        let methods = self.0.methods.lock().unwrap_or_else(PoisonError::into_inner);
        for (family, pick) in rows {
            let Some(mut samples) = text.family(family) else { continue };
            for (path, counters) in &*methods {
                if counters.calls.load(Ordering::Relaxed) > 0 {
                    samples.add(&[("method", path)], pick(counters).load(Ordering::Relaxed));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kata_metrics::Selection;

    use super::*;

    struct Answers(Code, &'static str);

    #[async_trait]
    impl MethodHandler for Answers {
        async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
            let status = protobuf::MessageField::some(get_status(self.0, self.1));
            Ok(Response { status, ..Default::default() })
        }
    }

    fn observed(answer: Answers, metrics: &Metrics) -> Observed {
        let path = "grpc.AgentService/AddSwap".to_owned();
        Observed { counters: metrics.of(&path), path, handler: Box::new(answer), spans: Spans::default() }
    }

    #[tokio::test]
    async fn a_method_that_nobody_wrote_is_unimplemented_by_name() {
        let metrics = Metrics::default();
        let observed =
            observed(Answers(Code::NOT_FOUND, "/grpc.AgentService/AddSwap is not supported"), &metrics);
        let response = observed.handler(TtrpcContext::default(), Request::default()).await.expect("answered");
        assert_eq!(response.status.code(), Code::UNIMPLEMENTED);
        assert!(response.status.message.contains("grpc.AgentService/AddSwap"));
    }

    #[tokio::test]
    async fn a_container_that_is_not_there_stays_not_found() {
        let metrics = Metrics::default();
        let observed = observed(Answers(Code::NOT_FOUND, "There is no container x"), &metrics);
        let response = observed.handler(TtrpcContext::default(), Request::default()).await.expect("answered");
        assert_eq!(response.status.code(), Code::NOT_FOUND);
    }

    #[tokio::test]
    async fn calls_are_counted() {
        let metrics = Metrics::default();
        let observed = observed(Answers(Code::OK, ""), &metrics);
        observed.handler(TtrpcContext::default(), Request::default()).await.expect("answered");
        let mut text = Exposition::new(Selection::all());
        metrics.write(&mut text);
        let text = text.finish();
        assert!(
            text.contains("kata_agent_rpc_calls_total{method=\"grpc.AgentService/AddSwap\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("kata_agent_rpc_failures_total{method=\"grpc.AgentService/AddSwap\"} 0"),
            "{text}"
        );
        assert!(text.contains("\nkata_agent_scrape_count 1\n"), "{text}");
    }
}
