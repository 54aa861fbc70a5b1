//! Spans of the agent's requests and their phases, for a host that traces. Without `agent.trace` there are none.

use std::collections::HashMap;
use std::time::Duration;

use kata_protocol::kata::Phase;
use kata_protocol::ports;
use kata_trace::{Batch, Context, Kind, Span, TRACEPARENT, encode, frame, of_metadata};
use kata_transport::{Incoming, Listener, Stream};
use nix::time::{ClockId, clock_gettime};
use protobuf::CodedInputStream;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

/// Spans that may wait until the host reads; more are lost.
const QUEUE: usize = 256;

/// Spans in a message.
const BATCH: usize = 32;

/// Bytes of an error that are told: the answer to the request has all of it.
const ERROR: usize = 512;

/// Takes spans, if anybody wants them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Option<Taker>);

#[derive(Clone, Debug)]
struct Taker {
    queue: mpsc::Sender<Span>,
    /// Also of requests that belong to no trace.
    all: bool,
}

impl Spans {
    /// For the host that reads `port`; without one, for who listens on the host's port for that over vsock.
    pub(crate) async fn start(listener: &Listener, port: Option<u32>) -> kata_transport::Result<Self> {
        let (queue, spans) = mpsc::channel(QUEUE);
        let all = port.is_none();
        match port {
            Some(port) => drop(tokio::spawn(serve(listener.bind(port).await?, spans))),
            None => {
                let connection = listener.connect_host(ports::TRACE_FORWARDER).await?;
                tokio::spawn(forward(connection.stream, spans));
            }
        }
        Ok(Self(Some(Taker { queue, all })))
    }

    /// Begins the span of a request, which takes the caller's place in its metadata.
    pub(crate) fn begin(
        &self,
        method: &str,
        metadata: &mut HashMap<String, Vec<String>>,
        payload: &[u8],
    ) -> Option<Open> {
        let taker = self.0.as_ref()?;
        let caller = of_metadata(&*metadata);
        let context = match caller {
            Some(caller) => caller.child(),
            None if taker.all => Context::root(),
            None => return None,
        };
        if !context.sampled {
            return None;
        }
        metadata.insert(TRACEPARENT.to_owned(), vec![context.to_string()]);
        let span = Span {
            context,
            parent: caller.map(|caller| caller.span),
            name: method.to_owned().into(),
            kind: Kind::Server,
            start: now(),
            end: 0,
            attributes: subject(method, payload),
            error: Some("Given up before it was over".to_owned()),
        };
        Some(Open { span: Some(span), queue: taker.queue.clone() })
    }

    /// The phases of a request that came with this metadata.
    pub(crate) fn phases<'p>(
        &self,
        metadata: &HashMap<String, Vec<String>>,
        phases: impl IntoIterator<Item = &'p Phase>,
    ) {
        let Some(taker) = &self.0 else { return };
        let Some(parent) = of_metadata(metadata).filter(|parent| parent.sampled) else { return };
        for phase in phases {
            let span = Span {
                context: parent.child(),
                parent: Some(parent.span),
                name: phase.name.clone().into(),
                kind: Kind::Internal,
                start: phase.start_us.saturating_mul(1000),
                end: phase.end_us.saturating_mul(1000),
                attributes: Vec::new(),
                error: None,
            };
            // A host that does not read loses them.
            let _ = taker.queue.try_send(span);
        }
    }
}

/// The span of a request under way. It ends when it is dropped: as a failure, unless [`end`](Self::end) says how.
#[derive(Debug)]
pub(crate) struct Open {
    span: Option<Span>,
    queue: mpsc::Sender<Span>,
}

impl Open {
    /// It is answered.
    pub(crate) fn end(mut self, error: Option<&str>) {
        if let Some(span) = self.span.as_mut() {
            span.error = error.map(|error| error.chars().take(ERROR).collect());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            // A host that does not read loses it.
            let _ = self.queue.try_send(Span { end: now(), ..span });
        }
    }
}

/// To one host after the other, in the guest's time: the host knows how its own differs.
async fn serve(mut incoming: Incoming, mut spans: mpsc::Receiver<Span>) {
    while let Ok(accepted) = incoming.accept().await {
        if send(accepted.stream, &mut spans, || 0).await {
            return;
        }
    }
}

async fn forward(stream: Stream, mut spans: mpsc::Receiver<Span>) {
    send(stream, &mut spans, since_1970).await;
}

/// Sends spans until the host does not read any more. True: there will be no more of them.
async fn send(mut stream: Stream, spans: &mut mpsc::Receiver<Span>, zero: impl Fn() -> u64) -> bool {
    let resource = [("service.name", "kata-agent".to_owned())];
    let mut batch = Vec::new();
    while spans.recv_many(&mut batch, BATCH).await > 0 {
        let zero = zero();
        for span in &mut batch {
            (span.start, span.end) = (span.start.saturating_add(zero), span.end.saturating_add(zero));
        }
        let message = encode(Batch { resource: &resource, spans: &batch });
        if stream.write_all(&frame(&message)).await.is_err() || stream.flush().await.is_err() {
            return false;
        }
        batch.clear();
    }
    true
}

/// Nanoseconds since the guest's kernel started.
fn now() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

/// When that was, in nanoseconds since 1970, by the clock that the host has set.
fn since_1970() -> u64 {
    read(ClockId::CLOCK_REALTIME).saturating_sub(now())
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or_default()
}

/// The container and the process that a request is about, where these are its first two fields.
fn subject(method: &str, payload: &[u8]) -> Vec<(std::borrow::Cow<'static, str>, String)> {
    let fields: &[(u32, &'static str)] = match method.rsplit('/').next() {
        Some(
            "CreateContainer" | "StartContainer" | "RemoveContainer" | "UpdateContainer" | "StatsContainer"
            | "PauseContainer" | "ResumeContainer" | "Pids" | "Stats",
        ) => &[(0x0a, "container")],
        Some("ExecProcess" | "Exec" | "SignalProcess" | "WaitProcess" | "TtyWinResize" | "CloseStdin") => {
            &[(0x0a, "container"), (0x12, "exec")]
        }
        _ => &[],
    };
    let mut input = CodedInputStream::from_bytes(payload);
    let mut found = Vec::new();
    for (tag, name) in fields {
        match input.read_raw_tag_or_eof() {
            Ok(Some(read)) if read == *tag => {
                found.extend(input.read_string().map(|value| ((*name).into(), value)));
            }
            _ => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use kata_protocol::agent::SignalProcessRequest;
    use kata_protocol::kata::Phase;
    use kata_trace::{Context, Span, TRACEPARENT};
    use protobuf::Message;
    use tokio::sync::mpsc;

    use super::{Spans, Taker};

    fn spans(all: bool) -> (Spans, mpsc::Receiver<Span>) {
        let (queue, taken) = mpsc::channel(8);
        (Spans(Some(Taker { queue, all })), taken)
    }

    fn metadata(context: Context) -> HashMap<String, Vec<String>> {
        HashMap::from([(TRACEPARENT.to_owned(), vec![context.to_string()])])
    }

    #[test]
    fn a_request_is_below_its_caller_and_its_phases_are_below_it() {
        let (spans, mut taken) = spans(false);
        let caller = Context::root();
        let mut metadata = metadata(caller);
        let request = SignalProcessRequest {
            container_id: "web".into(),
            exec_id: "sh".into(),
            signal: 9,
            ..Default::default()
        };
        let payload = request.write_to_bytes().unwrap();
        let open = spans.begin("grpc.AgentService/SignalProcess", &mut metadata, &payload).unwrap();
        let phase = Phase { name: "kill".into(), start_us: 3, end_us: 5, ..Default::default() };
        spans.phases(&metadata, [&phase]);
        open.end(None);
        let (phase, request) = (taken.try_recv().unwrap(), taken.try_recv().unwrap());
        assert_eq!((request.parent, request.context.trace), (Some(caller.span), caller.trace));
        assert_eq!(request.attributes, [("container".into(), "web".into()), ("exec".into(), "sh".into())]);
        assert!(request.error.is_none() && request.start <= request.end);
        assert_eq!((phase.parent, phase.start, phase.end), (Some(request.context.span), 3000, 5000));
    }

    #[test]
    fn a_request_that_is_refused_or_given_up_has_ended_as_a_failure() {
        let (spans, mut taken) = spans(true);
        let begin = || spans.begin("grpc.AgentService/StartContainer", &mut HashMap::new(), &[]).unwrap();
        begin().end(Some("There is no container web"));
        drop(begin());
        let error = |span: Span| span.error.unwrap();
        assert_eq!(error(taken.try_recv().unwrap()), "There is no container web");
        assert_eq!(error(taken.try_recv().unwrap()), "Given up before it was over");
    }

    #[test]
    fn a_request_that_nobody_traces_has_no_span() {
        let (listening, _taken) = spans(false);
        assert!(listening.begin("a/b", &mut HashMap::new(), &[]).is_none());
        let (forwarding, mut taken) = spans(true);
        let mut unsampled = metadata(Context { sampled: false, ..Context::root() });
        assert!(forwarding.begin("a/b", &mut unsampled, &[]).is_none());
        forwarding.phases(&unsampled, [&Phase::default()]);
        assert!(taken.try_recv().is_err());
        assert!(Spans::default().begin("a/b", &mut metadata(Context::root()), &[]).is_none());
    }
}
