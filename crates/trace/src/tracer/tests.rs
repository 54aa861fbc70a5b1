//! What a collector gets.

use std::time::Duration;

use tokio::net::TcpListener;

use super::Tracer;
use crate::testing::Collector;
use crate::{Context, Endpoint, Span};

const PATIENCE: Duration = Duration::from_secs(20);

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

#[tokio::test]
async fn a_start_is_one_trace_below_whoever_asked_for_it() {
    let collector = Collector::new().await;
    let tracer = Tracer::new(collector.endpoint.clone(), "s");
    let asker = Context::root();
    tracer.began(1000);
    tracer.phase("vmm spawned", 2000, 3000);
    let root = tracer.join(Some(asker));
    tracer.phase("container files", 3000, 4000);
    tracer.started(None);

    let spans = collector.spans(&tracer).await;
    let start = named(&spans, "kata.sandbox.start");
    assert_eq!((start.context, start.parent, &start.error), (root, Some(asker.span), &None));
    assert!(spans.iter().all(|span| span.context.trace == asker.trace) && spans.len() == 3);
    for phase in ["vmm spawned", "container files"] {
        let phase = named(&spans, phase);
        assert_eq!((phase.parent, phase.end - phase.start), (Some(root.span), 1_000_000));
        assert!(start.start <= phase.start && phase.end <= start.end);
    }
}

#[tokio::test]
async fn a_start_that_nobody_asked_for_or_ended_is_a_failed_trace_of_its_own() {
    let collector = Collector::new().await;
    let tracer = Tracer::new(collector.endpoint.clone(), "s");
    tracer.phase("vmm spawned", 2000, 3000);
    let spans = collector.spans(&tracer).await;
    let start = named(&spans, "kata.sandbox.start");
    assert_eq!((start.parent, named(&spans, "vmm spawned").parent), (None, Some(start.context.span)));
    assert_eq!(start.error.as_deref(), Some("The sandbox ended before its start was over"));
}

#[tokio::test]
async fn a_span_that_is_dropped_has_ended_as_a_failure() {
    let collector = Collector::new().await;
    let tracer = Tracer::new(collector.endpoint.clone(), "s");
    let mut open = tracer.open("task.Kill", None).serving();
    open.attribute("container", "web".to_owned());
    open.attribute("exec", String::new());
    drop(open);
    let spans = collector.spans(&tracer).await;
    let kill = named(&spans, "task.Kill");
    assert_eq!(kill.error.as_deref(), Some("Given up before it was over"));
    assert_eq!(kill.attributes, [("container".into(), "web".to_owned())]);
    assert!(kill.start <= kill.end);
}

#[tokio::test]
async fn what_its_asker_does_not_record_is_not_sent() {
    let collector = Collector::new().await;
    let tracer = Tracer::new(collector.endpoint.clone(), "s");
    tracer.join(Some(Context { sampled: false, ..Context::root() }));
    tracer.phase("container files", 3000, 4000);
    assert_eq!(collector.spans(&tracer).await, []);
}

#[tokio::test]
async fn a_phase_after_the_start_belongs_to_the_request_it_is_for() {
    let collector = Collector::new().await;
    let tracer = Tracer::new(collector.endpoint.clone(), "s");
    tracer.started(None);
    let request = tracer.open("task.Create", None);
    let later = super::now_us() + 1;
    crate::scope(request.context(), async { tracer.phase("container files", later, later + 1) }).await;
    tracer.phase("for nobody", later, later + 1);
    request.end(None);
    let spans = collector.spans(&tracer).await;
    let request = named(&spans, "task.Create");
    assert_eq!(named(&spans, "container files").parent, Some(request.context.span));
    assert_eq!(spans.len(), 3, "{spans:#?}");
}

#[tokio::test]
async fn the_guests_spans_lie_within_those_they_answer() {
    let collector = Collector::new().await;
    let tracer = Tracer::new(collector.endpoint.clone(), "s");
    let guests = |name: &'static str, parent: &Context, (start, end): (u64, u64)| Span {
        context: parent.child(),
        parent: Some(parent.span),
        name: name.into(),
        kind: crate::Kind::Server,
        start: start * 1000,
        end: end * 1000,
        attributes: Vec::new(),
        error: None,
    };
    let root = Context::root();
    let zero = super::now_us();
    let mut answers = Vec::new();
    // The answer to the first was late on its way: by that alone the guest's clock would be 90 ahead.
    for (name, asked, answered) in [("one", (0, 490), (100, 400)), ("two", (500, 520), (505, 510))] {
        let open = tracer.open(name, Some(root));
        let answer = guests(name, &open.context().unwrap(), answered);
        answers.extend([guests("phase", &answer.context, answered), answer]);
        let mut open = open;
        open.span.as_mut().unwrap().start = zero + asked.0;
        open.end_at(zero + asked.1, None);
    }
    tracer.guest(answers, zero + 90);
    let spans = collector.spans(&tracer).await;
    for inner in
        spans.iter().filter(|span| span.parent != Some(root.span) && span.name != "kata.sandbox.start")
    {
        let outer = spans.iter().find(|span| Some(span.context.span) == inner.parent).unwrap();
        assert!(outer.start <= inner.start && inner.end <= outer.end, "{inner:#?}\nnot within\n{outer:#?}");
    }
    assert_eq!(spans.len(), 7);
}

#[tokio::test]
async fn without_a_collector_spans_are_lost_and_nobody_waits() {
    // Bound, so that nobody else has the port, and not listening.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = Endpoint { port: nobody.local_addr().unwrap().port(), ..Endpoint::default() };
    let tracer = Tracer::new(endpoint, "s");
    for _ in 0..3000 {
        tracer.open("task.Stats", None).end(None);
    }
    let begun = std::time::Instant::now();
    tracer.finish(PATIENCE).await;
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint { port: listener.local_addr().unwrap().port(), ..Endpoint::default() };
    let tracer = Tracer::new(endpoint, "s");
    let begun = tokio::time::Instant::now();
    tracer.finish(Duration::from_millis(500)).await;
    assert!(begun.elapsed() <= Duration::from_secs(1));
}
