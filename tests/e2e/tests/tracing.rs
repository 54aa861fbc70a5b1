//! Spans of the shim and of the agent in the guest, as a collector gets them. Its messages are read by descriptions of their
//! own here, not by the product's.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kata_e2e::{Container, Containerd, eventually, fail, kata_test};
use prost::Message;

const LIMIT: Duration = Duration::from_secs(30);
/// How well the guest's clock is known on the host, in nanoseconds.
const CLOCK: u64 = 2_000_000;
const SHIM: &str = "containerd-shim-kata-v2";
const AGENT: &str = "kata-agent";

/// Parts of OTLP 1.x that are looked at, by their numbers there.
mod otlp {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Request {
        #[prost(message, repeated, tag = "1")]
        pub(super) resource_spans: Vec<ResourceSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResourceSpans {
        #[prost(message, optional, tag = "1")]
        pub(super) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) scope_spans: Vec<ScopeSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AnyValue {
        #[prost(string, optional, tag = "1")]
        pub(super) string_value: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ScopeSpans {
        #[prost(message, repeated, tag = "2")]
        pub(super) spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) span_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) parent_span_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub(super) name: String,
        #[prost(fixed64, tag = "7")]
        pub(super) start: u64,
        #[prost(fixed64, tag = "8")]
        pub(super) end: u64,
        #[prost(message, repeated, tag = "9")]
        pub(super) attributes: Vec<KeyValue>,
        #[prost(message, optional, tag = "15")]
        pub(super) status: Option<Status>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {
        #[prost(string, tag = "2")]
        pub(super) message: String,
        #[prost(int32, tag = "3")]
        pub(super) code: i32,
    }
}

/// A span, and what its resource says.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    sandbox: String,
    attributes: HashMap<String, String>,
    span: otlp::Span,
}

impl Span {
    fn is_within(&self, outer: &Self, tolerance: u64) -> bool {
        let (inner, outer) = (&self.span, &outer.span);
        inner.trace_id == outer.trace_id
            && outer.start <= inner.start + tolerance
            && inner.end <= outer.end + tolerance
    }

    #[track_caller]
    fn assert_child_of(&self, parent: &Self, tolerance: u64) {
        assert_eq!(self.span.parent_span_id, parent.span.span_id, "{self:#?}\nis not below {parent:#?}");
        assert!(self.is_within(parent, tolerance), "{self:#?}\nis not within {parent:#?}");
    }

    fn failure(&self) -> Option<&str> {
        self.span.status.as_ref().filter(|status| status.code == 2).map(|status| status.message.as_str())
    }
}

/// A collector, in the test's network.
#[derive(Clone)]
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
        let url = format!("http://{}/v1/traces", listener.local_addr().expect("it is bound"));
        let collector = Self { url, spans: Arc::default() };
        let spans = Arc::clone(&collector.spans);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let body = take(stream.expect("a shim connects"));
                let request = otlp::Request::decode(&*body).expect("it is OTLP");
                spans
                    .lock()
                    .expect("no test panics with it")
                    .extend(request.resource_spans.into_iter().flat_map(flat));
            }
        });
        collector
    }

    fn all(&self) -> Vec<Span> {
        self.spans.lock().expect("no test panics with it").clone()
    }

    /// The spans so far, once one of this name is there that the test wants.
    #[track_caller]
    fn with(&self, service: &str, name: &str, wanted: impl Fn(&Span) -> bool) -> (Span, Vec<Span>) {
        let find = || self.all().into_iter().find(|span| is(span, service, name) && wanted(span));
        let mut found = None;
        eventually(&format!("a span {name} of {service}"), LIMIT, || {
            found = find();
            found.is_some()
        });
        (found.expect("it has been found"), self.all())
    }
}

fn is(span: &Span, service: &str, name: &str) -> bool {
    span.service == service && span.span.name == name
}

/// The body of the request on a connection, which is answered.
fn take(stream: TcpStream) -> Vec<u8> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a shim sends a request");
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", number)) => length = number.parse().expect("it is a number"),
            Some(("content-type", kind)) => assert_eq!(kind, "application/x-protobuf"),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => assert_eq!(line.trim_end(), "POST /v1/traces HTTP/1.1"),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a shim sends all of its request");
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("it reads the answer");
    body
}

fn flat(of: otlp::ResourceSpans) -> Vec<Span> {
    let resource = texts(of.resource.unwrap_or_default().attributes);
    let told = |key: &str| resource.get(key).cloned().unwrap_or_default();
    let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
    let span = |span: otlp::Span| Span {
        service: told("service.name"),
        sandbox: told("kata.sandbox.id"),
        attributes: texts(span.attributes.clone()),
        span,
    };
    spans.map(span).collect()
}

fn texts(attributes: Vec<otlp::KeyValue>) -> HashMap<String, String> {
    let pair = |pair: otlp::KeyValue| Some((pair.key, pair.value?.string_value?));
    attributes.into_iter().filter_map(pair).collect()
}

/// Sandboxes that start from now on are traced.
fn trace(containerd: &Containerd, url: &str) {
    containerd.reconfigure(|text| {
        assert_eq!(text.matches("\nenable_tracing = false\n").count(), 2, "the shipped file:\n{text}");
        let text = text.replace("\nenable_tracing = false\n", "\nenable_tracing = true\n");
        text.replace("\njaeger_endpoint = \"\"\n", &format!("\njaeger_endpoint = \"{url}\"\n"))
    });
}

fn sleeper(containerd: &Containerd) -> Container<'_> {
    containerd.container().command(["/bin/sleep", "1000"]).start()
}

fn named<'s>(spans: &'s [Span], service: &str, name: &str) -> &'s Span {
    let mut found = spans.iter().filter(|span| is(span, service, name));
    let first = found.next().unwrap_or_else(|| fail(format_args!("no {name} of {service} in {spans:#?}")));
    assert!(found.next().is_none(), "{name} is there twice");
    first
}

#[test]
fn a_start_is_one_trace_of_shim_and_agent() {
    kata_test(|containerd| {
        let collector = Collector::new();
        trace(containerd, &collector.url);
        let container = sleeper(containerd);
        let (root, _) = collector.with(SHIM, "kata.sandbox.start", |_| true);
        let (_, spans) = collector.with(AGENT, "grpc.AgentService/StartContainer", |_| true);

        assert!(root.span.parent_span_id.is_empty() && root.failure().is_none(), "{root:#?}");
        assert!(spans.iter().all(|span| span.sandbox == container.id()), "{spans:#?}");
        let shim = |name| named(&spans, SHIM, name);
        let agent = |name| named(&spans, AGENT, name);
        for phase in
            ["process and configuration", "vmm spawned", "container files", "task.Create", "task.Start"]
        {
            shim(phase).assert_child_of(&root, 0);
        }
        assert_eq!(shim("task.Create").attributes["container"], container.id());
        let request = shim("StartSandbox");
        request.assert_child_of(&root, 0);
        let answered = agent("kata.v1.Sandbox/StartSandbox");
        answered.assert_child_of(request, CLOCK);
        agent("configure guest").assert_child_of(answered, CLOCK);
        agent("grpc.AgentService/StartContainer").assert_child_of(shim("task.Start"), CLOCK);
        container.remove();
    });
}

#[test]
fn a_request_that_fails_ends_its_span_as_a_failure() {
    kata_test(|containerd| {
        let collector = Collector::new();
        trace(containerd, &collector.url);
        let container = sleeper(containerd);
        container.exec(["/no/such/program"]).id("wrong").run().fails_because("/no/such/program");
        let is_exec = |span: &Span| span.attributes.get("exec").is_some_and(|exec| exec == "wrong");
        let (shim, _) = collector.with(SHIM, "task.Start", is_exec);
        let (agent, _) = collector.with(AGENT, "kata.v1.Sandbox/Exec", is_exec);
        for span in [&shim, &agent] {
            assert!(span.failure().is_some_and(|why| why.contains("/no/such/program")), "{span:#?}");
        }
        agent.assert_child_of(&shim, CLOCK);
        assert!(shim.span.parent_span_id.is_empty(), "the start is over: {shim:#?}");
        container.remove();
        // The last requests are told of before the shim ends.
        collector.with(SHIM, "task.Delete", |span| !is_exec(span));
    });
}

#[test]
fn without_a_collector_all_else_works() {
    kata_test(|containerd| {
        let nobody = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
        let url = format!("http://{}/v1/traces", nobody.local_addr().expect("it is bound"));
        drop(nobody);
        trace(containerd, &url);
        let container = sleeper(containerd);
        assert_eq!(container.shell("echo works"), "works");
        container.remove();
    });
}
