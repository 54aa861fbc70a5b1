//! The publisher against a containerd that comes and goes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::shim_async::{Events, create_events};
use tokio::sync::mpsc;
use tokio::time::timeout;
use ttrpc::r#async::{Server, TtrpcContext};

use super::{Publisher, Route};
use crate::events;

const LONG: Duration = Duration::from_secs(20);

/// Records what is forwarded; refuses the first `refuse` of a topic that ends in "oom".
struct Fake {
    seen: mpsc::UnboundedSender<ForwardRequest>,
    refuse: AtomicU32,
}

#[async_trait]
impl Events for Fake {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let left = self.refuse.load(Ordering::Relaxed);
        if left > 0 && request.envelope.topic.ends_with("oom") {
            self.refuse.store(left - 1, Ordering::Relaxed);
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "no")));
        }
        self.seen.send(request).unwrap();
        Ok(Empty::default())
    }
}

async fn serve(socket: &Path, refuse: u32) -> (Server, mpsc::UnboundedReceiver<ForwardRequest>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let services: HashMap<_, _> = create_events(Arc::new(Fake { seen, refuse: refuse.into() }));
    let _ = std::fs::remove_file(socket);
    let mut server =
        Server::new().bind(&format!("unix://{}", socket.display())).unwrap().register_service(services);
    server.start().await.unwrap();
    (server, requests)
}

async fn next(requests: &mut mpsc::UnboundedReceiver<ForwardRequest>) -> String {
    let request = timeout(LONG, requests.recv()).await.expect("no event came").unwrap();
    assert_eq!(request.envelope.namespace, "k8s.io");
    assert_ne!(request.envelope.timestamp.seconds, 0);
    format!("{} {}", request.envelope.topic, String::from_utf8_lossy(&request.envelope.event.value[2..]))
}

fn publisher(socket: &Path) -> Publisher {
    Publisher::start(Route::Ttrpc { socket: socket.to_owned() }, "k8s.io")
}

#[tokio::test]
async fn events_wait_for_containerd_and_arrive_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ttrpc");
    let publisher = publisher(&socket);
    for name in ["a", "b", "c"] {
        publisher.publish(events::paused(name));
    }
    let (mut server, mut requests) = serve(&socket, 0).await;
    for name in ["a", "b", "c"] {
        assert_eq!(next(&mut requests).await, format!("/tasks/paused {name}"));
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ttrpc");
    let publisher = publisher(&socket);
    let (mut server, mut requests) = serve(&socket, 0).await;
    publisher.publish(events::paused("before"));
    assert_eq!(next(&mut requests).await, "/tasks/paused before");
    server.shutdown().await.unwrap();
    drop(server);
    publisher.publish(events::paused("during"));
    publisher.publish(events::resumed("during"));
    let (_server, mut requests) = serve(&socket, 0).await;
    publisher.publish(events::paused("after"));
    assert_eq!(next(&mut requests).await, "/tasks/paused during");
    assert_eq!(next(&mut requests).await, "/tasks/resumed during");
    assert_eq!(next(&mut requests).await, "/tasks/paused after");
}

#[tokio::test]
async fn a_refused_event_is_retried_then_given_up_for_the_sake_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ttrpc");
    let publisher = publisher(&socket);
    let (_server, mut requests) = serve(&socket, super::REFUSALS + 1).await;
    publisher.publish(events::out_of_memory("poison"));
    publisher.publish(events::out_of_memory("taken"));
    publisher.publish(events::paused("next"));
    assert_eq!(next(&mut requests).await, "/tasks/oom taken");
    assert_eq!(next(&mut requests).await, "/tasks/paused next");
}

#[tokio::test]
async fn flush_waits_for_the_queue_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ttrpc");
    let publisher = publisher(&socket);
    publisher.publish(events::paused("a"));
    publisher.flush(Duration::from_millis(50)).await;
    let (_server, mut requests) = serve(&socket, 0).await;
    publisher.flush(LONG).await;
    assert_eq!(requests.try_recv().unwrap().envelope.topic, "/tasks/paused");
}

#[tokio::test]
async fn without_an_address_the_binary_publishes() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (program, log) = (dir.path().join("containerd"), dir.path().join("log"));
    let script = format!("#!/bin/sh\necho \"$@\" >> {0}; cat >> {0}; echo >> {0}\n", log.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let route = Route::choose(None, program.to_str().unwrap(), "/c.sock");
    let publisher = Publisher::start(route, "k8s.io");
    publisher.publish(events::paused("web"));
    publisher.flush(LONG).await;
    let text = std::fs::read_to_string(log).unwrap();
    assert!(
        text.starts_with("--address /c.sock publish --topic /tasks/paused --namespace k8s.io\n"),
        "{text}"
    );
    assert!(text.contains("containerd.events.TaskPaused"), "{text}");
}

#[test]
fn routes() {
    let ttrpc = Route::Ttrpc { socket: "/run/c.ttrpc".into() };
    assert_eq!(Route::choose(Some("/run/c.ttrpc"), "/bin/c", "/c"), ttrpc);
    assert_eq!(Route::choose(Some("unix:///run/c.ttrpc"), "", ""), ttrpc);
    assert_eq!(Route::choose(Some(""), "", "/c"), Route::Nowhere);
    assert_eq!(Route::choose(None, "/usr/bin/crio", ""), Route::Nowhere, "once a second, for ever");
}
