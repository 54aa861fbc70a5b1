//! A container manager that lists pods over the Container Runtime Interface, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use hyper::body::Bytes;
use hyper::http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

#[derive(Clone, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, Message)]
struct Pod {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
}

#[derive(Clone, Message)]
struct Pods {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Pod>,
}

/// The manager; it and its socket go with this.
pub(crate) struct Manager {
    pods: Arc<Mutex<Pods>>,
    socket: PathBuf,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    pub(crate) fn start(socket: &Path) -> Self {
        let pods: Arc<Mutex<Pods>> = Arc::default();
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (end, ended) = oneshot::channel();
        let shared = pods.clone();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = listen(listener, shared) => {}
                    _ = ended => {}
                }
            });
        });
        Self { pods, socket: socket.to_owned(), end: Some(end), thread: Some(thread) }
    }

    /// Knows a pod, by the id of its sandbox, from now on.
    pub(crate) fn add(&self, id: &str, name: &str) {
        let metadata =
            Metadata { name: name.to_owned(), uid: format!("uid-{name}"), namespace: "default".to_owned() };
        self.pods.lock().unwrap().items.push(Pod { id: id.to_owned(), metadata: Some(metadata) });
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn listen(listener: std::os::unix::net::UnixListener, pods: Arc<Mutex<Pods>>) {
    let listener = UnixListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, pods.clone()));
    }
}

async fn serve(stream: tokio::net::UnixStream, pods: Arc<Mutex<Pods>>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/runtime.v1.RuntimeService/ListPodSandbox");
        let message = pods.lock().unwrap().encode_to_vec();
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&message);
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from(frame), false).unwrap();
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
        body.send_trailers(trailers).unwrap();
    }
}
