//! What every RPC gets: a span, a deadline, a count in the metrics, and safety from being cut off half-way. One decorator over the
//! ttRPC method map, so that no handler can forget it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use containerd_shim_protos::sandbox_async::{Sandbox, create_sandbox};
use containerd_shim_protos::shim_async::{Task, create_task};
use kata_trace::Tracer;
use protobuf::CodedInputStream;
use tokio::time::timeout;
use tracing::Instrument;
use ttrpc::r#async::{MethodHandler, Service, TtrpcContext};
use ttrpc::proto::{Request, Response};
use ttrpc::{Code, get_status};

use crate::kills::Kills;
use crate::rpcs::{self, Rpcs};
use crate::traces::Traced;

/// containerd 1.3 to 2.x; the messages are those of v3.
const TASK_V2: &str = "containerd.task.v2.Task";
/// containerd 2.0 and later.
const TASK_V3: &str = "containerd.task.v3.Task";

type Handler = Arc<dyn MethodHandler + Send + Sync>;

/// The task API under both names that containerd uses, and the Sandbox API.
#[must_use]
pub(crate) fn services<T>(
    service: &Arc<T>,
    rpcs: &Arc<Rpcs>,
    tracer: Option<&Tracer>,
) -> HashMap<String, Service>
where
    T: Task + Sandbox + Send + Sync + 'static,
{
    let tasks = [TASK_V2, TASK_V3].into_iter().flat_map(|name| {
        create_task(service.clone()).into_values().map(move |service| (name.to_owned(), service))
    });
    let all = tasks.chain(create_sandbox(service.clone()));
    let common = Common { rpcs: Arc::clone(rpcs), kills: Arc::default(), tracer: tracer.cloned() };
    all.map(|(name, service)| (name, decorate(service, &common))).collect()
}

/// What all methods share.
#[derive(Clone, Default)]
struct Common {
    rpcs: Arc<Rpcs>,
    kills: Arc<Kills>,
    tracer: Option<Tracer>,
}

fn decorate(service: Service, common: &Common) -> Service {
    let methods = service.methods.into_iter().map(|(name, handler)| {
        let (action, common) = (rpcs::action(&name), common.clone());
        let (limits, handler) = (limits(&name), Arc::from(handler));
        let decorated = Decorated { limits, name: name.clone(), action, handler, common };
        (name, Box::new(decorated) as Box<dyn MethodHandler + Send + Sync>)
    });
    Service { methods: methods.collect(), streams: service.streams }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// After this the caller gets an answer, whatever the guest does. The sandbox has shorter limits of its
    /// own, with better messages: this one is the last.
    deadline: Option<Duration>,
    /// The work goes on if the caller goes away: a container that containerd asked for before it restarted
    /// must become whole, with all its events.
    detached: bool,
}

fn limits(method: &str) -> Limits {
    let seconds = |seconds, detached| Limits { deadline: Some(Duration::from_secs(seconds)), detached };
    match method {
        "Wait" | "WaitSandbox" => Limits { deadline: None, detached: false },
        "Create" | "StartSandbox" | "StopSandbox" => seconds(600, true),
        "State" | "Pids" | "Stats" | "Connect" => seconds(60, false),
        "Platform" | "SandboxStatus" | "PingSandbox" | "SandboxMetrics" => seconds(60, false),
        _ => seconds(120, true),
    }
}

struct Decorated {
    name: String,
    /// Its name in the metrics.
    action: String,
    limits: Limits,
    handler: Handler,
    common: Common,
}

#[async_trait]
impl MethodHandler for Decorated {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let (container, exec) = subject(&self.name, &request.payload);
        let _kill = (self.name == "Kill").then(|| self.common.kills.begin(&container, &exec));
        let result = self.spanned(context, request, (&container, &exec)).await;
        if matches!(self.name.as_str(), "Wait" | "Delete") {
            self.common.kills.answered(&container, &exec).await;
        }
        result
    }
}

impl Decorated {
    async fn spanned(
        &self,
        context: TtrpcContext,
        request: Request,
        (container, exec): (&str, &str),
    ) -> ttrpc::Result<Response> {
        let begin = |tracer| Traced::begin(tracer, &self.name, &context.metadata, (container, exec));
        let traced = self.common.tracer.as_ref().and_then(begin);
        let span = tracing::info_span!("rpc", rpc = self.name, container, exec = tracing::field::Empty);
        if !exec.is_empty() {
            span.record("exec", exec);
        }
        let Some(traced) = traced else { return self.bounded(context, request).instrument(span).await };
        let work = self.bounded(context, request).instrument(span);
        let result = kata_trace::scope(traced.context(), work).await;
        traced.end(&result);
        result
    }

    async fn bounded(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let begun = Instant::now();
        tracing::debug!("request");
        let handler = self.handler.clone();
        // The task that a detached request becomes works for the same span.
        let span = kata_trace::current();
        let work = kata_trace::scope(span, async move { handler.handler(context, request).await });
        let result = match self.limits {
            Limits { deadline: None, .. } => work.await,
            Limits { deadline: Some(limit), detached: false } => {
                timeout(limit, work).await.unwrap_or_else(|_| Ok(late(&self.name, limit)))
            }
            Limits { deadline: Some(limit), detached: true } => {
                match timeout(limit, tokio::spawn(work.in_current_span())).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(failed)) => Err(ttrpc::Error::Others(failed.to_string())),
                    Err(_) => Ok(late(&self.name, limit)),
                }
            }
        };
        let elapsed = begun.elapsed();
        self.common.rpcs.record(&self.action, elapsed);
        report(&result, elapsed);
        result
    }
}

fn late(method: &str, limit: Duration) -> Response {
    let text = format!(
        "{method} did not finish within {} s; the log of the shim (journalctl -t kata) says what it waits for",
        limit.as_secs()
    );
    let mut response = Response::new();
    response.set_status(get_status(Code::DEADLINE_EXCEEDED, text));
    response
}

fn report(result: &ttrpc::Result<Response>, elapsed: Duration) {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(response) if response.status.code.enum_value() == Ok(Code::OK) => {
            tracing::debug!(elapsed_ms, "answered");
        }
        // A question about what is gone is an everyday event, not a failure.
        Ok(response) if response.status.code.enum_value() == Ok(Code::NOT_FOUND) => {
            tracing::debug!(elapsed_ms, reason = response.status.message, "not found");
        }
        Ok(response) => {
            let code = format!("{:?}", response.status.code);
            tracing::warn!(elapsed_ms, code, reason = response.status.message, "refused");
        }
        Err(error) => tracing::warn!(elapsed_ms, reason = error.to_string(), "failed"),
    }
}

/// The container and process that a request is about: in all of them field 1 is the container's id, and in
/// those that can be about a process field 2 is its id.
pub(crate) fn subject(method: &str, payload: &[u8]) -> (String, String) {
    let has_exec =
        matches!(method, "State" | "Start" | "Delete" | "Exec" | "Kill" | "ResizePty" | "CloseIO" | "Wait");
    let mut input = CodedInputStream::from_bytes(payload);
    let mut field = |tag| match input.read_raw_tag_or_eof() {
        Ok(Some(found)) if found == tag => input.read_string().unwrap_or_default(),
        _ => String::new(),
    };
    let container = field(0x0a);
    (container, if has_exec { field(0x12) } else { String::new() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;
    use containerd_shim_protos::api::{CreateTaskRequest, KillRequest, StateRequest};
    use kata_trace::Tracer;
    use kata_trace::testing::Collector;
    use protobuf::Message;
    use tokio::sync::{Notify, mpsc};
    use ttrpc::Code;
    use ttrpc::r#async::{MethodHandler, TtrpcContext};
    use ttrpc::proto::{Request, Response};

    use super::{Common, Decorated, Limits, subject};

    /// Works until it is told to end, then says so.
    #[derive(Default)]
    struct Slow {
        go: Notify,
        done: Notify,
    }

    struct Method(Arc<Slow>);

    #[async_trait]
    impl MethodHandler for Method {
        async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
            self.0.go.notified().await;
            self.0.done.notify_one();
            Ok(Response::new())
        }
    }

    fn decorated(slow: &Arc<Slow>, limits: Limits) -> Decorated {
        let (name, action) = ("Create".into(), "create".into());
        Decorated { name, action, limits, handler: Arc::new(Method(slow.clone())), common: Common::default() }
    }

    #[test]
    fn requests_tell_whom_they_are_about() {
        let kill =
            KillRequest { id: "web".into(), exec_id: "sh".into(), signal: 9, ..KillRequest::default() };
        assert_eq!(subject("Kill", &kill.write_to_bytes().unwrap()), ("web".into(), "sh".into()));
        let state = StateRequest { id: "web".into(), ..StateRequest::default() };
        assert_eq!(subject("State", &state.write_to_bytes().unwrap()), ("web".into(), String::new()));
        let create =
            CreateTaskRequest { id: "web".into(), bundle: "/b".into(), ..CreateTaskRequest::default() };
        assert_eq!(subject("Create", &create.write_to_bytes().unwrap()), ("web".into(), String::new()));
        assert_eq!(subject("Shutdown", &[]), (String::new(), String::new()));
    }

    #[tokio::test]
    async fn a_late_answer_is_a_deadline_and_the_work_goes_on() {
        let slow = Arc::new(Slow::default());
        let limits = Limits { deadline: Some(Duration::from_millis(20)), detached: true };
        let response =
            decorated(&slow, limits).handler(TtrpcContext::default(), Request::new()).await.unwrap();
        assert_eq!(response.status.code.enum_value(), Ok(Code::DEADLINE_EXCEEDED));
        slow.go.notify_one();
        slow.done.notified().await;
    }

    /// Says for which span it works.
    struct Asks(mpsc::UnboundedSender<Option<kata_trace::Context>>);

    #[async_trait]
    impl MethodHandler for Asks {
        async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
            self.0.send(kata_trace::current()).unwrap();
            Ok(Response::new())
        }
    }

    #[tokio::test]
    async fn a_request_works_for_its_span_also_when_it_is_detached() {
        let collector = Collector::new().await;
        let tracer = Tracer::new(collector.endpoint.clone(), "web");
        let (asked, mut answers) = mpsc::unbounded_channel();
        for detached in [false, true] {
            let limits = Limits { deadline: Some(Duration::from_secs(60)), detached };
            let common = Common { tracer: Some(tracer.clone()), ..Common::default() };
            let (name, action) = ("Kill".into(), "kill".into());
            let method = Decorated { name, action, limits, handler: Arc::new(Asks(asked.clone())), common };
            method.handler(TtrpcContext::default(), Request::new()).await.unwrap();
        }
        let worked_for =
            [answers.recv().await, answers.recv().await].map(|context| context.unwrap().unwrap());
        let spans = collector.spans(&tracer).await;
        let kills = spans.iter().filter(|span| span.name == "task.Kill").map(|span| span.context);
        assert_eq!(kills.collect::<Vec<_>>(), worked_for);
    }

    /// containerd closes the connection after the `Delete`: who had asked for the kill was told "ttrpc: closed".
    #[tokio::test]
    async fn a_kill_is_answered_before_a_deletion() {
        let [killed, deleted] = [Arc::new(Slow::default()), Arc::new(Slow::default())];
        let common = Common::default();
        let limits = Limits { deadline: None, detached: false };
        let [kill, delete] = [("Kill", &killed), ("Delete", &deleted)].map(|(name, slow)| Decorated {
            name: name.into(),
            action: name.into(),
            limits,
            handler: Arc::new(Method(slow.clone())),
            common: common.clone(),
        });
        let mut kill = Box::pin(kill.handler(TtrpcContext::default(), Request::new()));
        assert!(futures::poll!(&mut kill).is_pending());
        let mut delete = Box::pin(delete.handler(TtrpcContext::default(), Request::new()));
        deleted.go.notify_one();
        assert!(futures::poll!(&mut delete).is_pending());
        deleted.done.notified().await;
        assert!(futures::poll!(&mut delete).is_pending());
        killed.go.notify_one();
        kill.await.unwrap();
        delete.await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_cut_the_work_off() {
        let slow = Arc::new(Slow::default());
        let limits = Limits { deadline: Some(Duration::from_secs(60)), detached: true };
        let decorated = decorated(&slow, limits);
        let call = decorated.handler(TtrpcContext::default(), Request::new());
        assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
        slow.go.notify_one();
        slow.done.notified().await;
    }
}
