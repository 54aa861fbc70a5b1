//! A span for each request of containerd's, and the one of the sandbox's start, if anybody traces the sandbox.

use std::collections::HashMap;
use std::time::Duration;

use kata_config::Config;
use kata_trace::{BadEndpoint, Context, Endpoint, Open, Tracer};
use ttrpc::Code;
use ttrpc::proto::Response;

use crate::environment::Environment;

/// How long the end of the server waits for a collector.
pub(crate) const LAST_SPANS: Duration = Duration::from_millis(500);

/// Who traces the sandbox, as its configuration has it, and the environment where that says nothing.
pub(crate) fn tracer(config: &Config, environment: &Environment, sandbox: &str) -> Option<Tracer> {
    let tracing = &config.runtime.tracing;
    if !tracing.is_on {
        return None;
    }
    let given = tracing.endpoint.clone().or_else(|| of_environment(environment));
    let credentials = Some(tracing.credentials.clone()).filter(|who| !who.user.is_empty());
    let endpoint = Endpoint { credentials, ..given.unwrap_or_default() };
    tracing::info!(%endpoint, "tracing");
    Some(Tracer::new(endpoint, sandbox))
}

fn of_environment(environment: &Environment) -> Option<Endpoint> {
    let url = environment.collector.as_deref()?;
    match Endpoint::parse(url) {
        Ok(endpoint) => Some(endpoint),
        Err(BadEndpoint(words)) => {
            tracing::warn!(
                url,
                "OTEL_EXPORTER_OTLP_ENDPOINT {words}; the collector of this host is used instead"
            );
            None
        }
    }
}

/// What a request means for the sandbox's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// With the first of these it is known who wants the sandbox.
    Makes,
    /// With the first of these it is started.
    Starts,
    /// Nothing.
    Other,
}

/// A request under way.
pub(crate) struct Traced {
    span: Open,
    role: Role,
    tracer: Tracer,
}

impl Traced {
    /// Begins the span of a request for a container, or for a process in it. It is below the caller's, if the caller says
    /// which that is, or else part of the sandbox's start as long as that lasts. `None`: one that lasts as long as what it
    /// waits for.
    pub(crate) fn begin(
        tracer: &Tracer,
        method: &str,
        metadata: &HashMap<String, Vec<String>>,
        (container, exec): (&str, &str),
    ) -> Option<Self> {
        if matches!(method, "Wait" | "WaitSandbox") {
            return None;
        }
        let role = match method {
            "Create" | "CreateSandbox" => Role::Makes,
            "StartSandbox" => Role::Starts,
            "Start" if exec.is_empty() => Role::Starts,
            _ => Role::Other,
        };
        let caller = kata_trace::of_metadata(metadata);
        if role == Role::Makes {
            tracer.join(caller);
        }
        let mut span = tracer.open(format!("task.{method}"), caller.or_else(|| tracer.starting())).serving();
        span.attribute("container", container.to_owned());
        span.attribute("exec", exec.to_owned());
        Some(Self { span, role, tracer: tracer.clone() })
    }

    /// For those who work for it.
    pub(crate) fn context(&self) -> Option<Context> {
        self.span.context()
    }

    /// It is answered.
    pub(crate) fn end(self, result: &ttrpc::Result<Response>) {
        let error = match result {
            Ok(response) if response.status.code.enum_value() == Ok(Code::OK) => None,
            Ok(response) => Some(response.status.message.clone()),
            Err(error) => Some(error.to_string()),
        };
        self.span.end(error.clone());
        match (self.role, &error) {
            (Role::Starts, _) | (Role::Makes, Some(_)) => self.tracer.started(error),
            (Role::Makes, None) | (Role::Other, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use kata_config::Config;
    use kata_trace::testing::Collector;
    use kata_trace::{Context, Span, TRACEPARENT, Tracer};
    use ttrpc::proto::Response;
    use ttrpc::{Code, get_status};

    use super::{Traced, tracer};
    use crate::environment::Environment;

    type Metadata = HashMap<String, Vec<String>>;

    fn begin(tracer: &Tracer, method: &str, metadata: &Metadata) -> Traced {
        Traced::begin(tracer, method, metadata, ("web", "")).unwrap()
    }

    fn answer(code: Code, message: &str) -> ttrpc::Result<Response> {
        let mut response = Response::new();
        response.set_status(get_status(code, message));
        Ok(response)
    }

    fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
        spans.iter().find(|span| span.name == name).unwrap()
    }

    #[tokio::test]
    async fn the_requests_of_a_start_are_part_of_it_and_later_ones_are_not() {
        let collector = Collector::new().await;
        let tracer = Tracer::new(collector.endpoint.clone(), "web");
        for method in ["Create", "Start", "Kill"] {
            begin(&tracer, method, &Metadata::new()).end(&answer(Code::OK, ""));
        }
        let spans = collector.spans(&tracer).await;
        let start = named(&spans, "kata.sandbox.start");
        assert_eq!((start.parent, &start.error), (None, &None));
        for method in ["task.Create", "task.Start"] {
            assert_eq!(named(&spans, method).parent, Some(start.context.span));
        }
        let kill = named(&spans, "task.Kill");
        assert!(kill.parent.is_none() && kill.context.trace != start.context.trace);
        assert_eq!(kill.attributes, [("container".into(), "web".to_owned())]);
    }

    #[tokio::test]
    async fn the_callers_span_is_the_parent_and_garbage_is_none() {
        let collector = Collector::new().await;
        let tracer = Tracer::new(collector.endpoint.clone(), "web");
        let caller = Context::root();
        let metadata = |text: String| Metadata::from([(TRACEPARENT.to_owned(), vec![text])]);
        begin(&tracer, "Create", &metadata(caller.to_string())).end(&answer(Code::OK, ""));
        begin(&tracer, "Start", &metadata("garbage".to_owned())).end(&answer(Code::OK, ""));
        let spans = collector.spans(&tracer).await;
        assert!(spans.iter().all(|span| span.context.trace == caller.trace), "{spans:#?}");
        let start = named(&spans, "kata.sandbox.start");
        assert_eq!(start.parent, Some(caller.span));
        assert_eq!(named(&spans, "task.Create").parent, Some(caller.span));
        assert_eq!(named(&spans, "task.Start").parent, Some(start.context.span));
    }

    #[tokio::test]
    async fn a_container_that_cannot_be_made_ends_the_start_as_a_failure() {
        let collector = Collector::new().await;
        let tracer = Tracer::new(collector.endpoint.clone(), "web");
        begin(&tracer, "Create", &Metadata::new()).end(&answer(Code::FAILED_PRECONDITION, "no kernel"));
        drop(begin(&tracer, "Delete", &Metadata::new()));
        let spans = collector.spans(&tracer).await;
        for name in ["kata.sandbox.start", "task.Create"] {
            assert_eq!(named(&spans, name).error.as_deref(), Some("no kernel"));
        }
        assert_eq!(named(&spans, "task.Delete").error.as_deref(), Some("Given up before it was over"));
    }

    #[tokio::test]
    async fn what_waits_for_a_process_has_no_span() {
        let tracer = Tracer::new(kata_trace::Endpoint::default(), "web");
        assert!(Traced::begin(&tracer, "Wait", &Metadata::new(), ("web", "")).is_none());
    }

    #[tokio::test]
    async fn nobody_traces_unless_the_configuration_says_so() {
        let mut config = Config::built_in(1);
        assert!(tracer(&config, &Environment::default(), "web").is_none());
        config.runtime.tracing.is_on = true;
        assert!(tracer(&config, &Environment::default(), "web").is_some());
    }

    #[test]
    fn the_environment_names_a_collector_that_can_be_spoken_to() {
        let of = |url: &str| {
            let environment = Environment { collector: Some(url.to_owned()), ..Environment::default() };
            super::of_environment(&environment).map(|endpoint| endpoint.to_string())
        };
        assert_eq!(of("http://collector:4318/v1/traces").as_deref(), Some("http://collector:4318/v1/traces"));
        assert_eq!(of("https://collector:4318/v1/traces"), None);
    }
}
