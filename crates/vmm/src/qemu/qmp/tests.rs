//! The client against a fake server on a socket pair.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use proptest::prelude::*;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}}"#;

/// The server's side.
pub(in crate::qemu) struct Server {
    socket: BufReader<UnixStream>,
}

impl Server {
    pub(in crate::qemu) fn pair() -> (OwnedFd, Self) {
        let (client, server) = StdUnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let socket = BufReader::new(UnixStream::from_std(server).unwrap());
        (client.into(), Self { socket })
    }

    pub(in crate::qemu) async fn say(&mut self, line: &str) {
        self.socket.write_all(line.as_bytes()).await.unwrap();
        self.socket.write_all(b"\r\n").await.unwrap();
    }

    /// The next command: its name and id.
    pub(in crate::qemu) async fn hear(&mut self) -> (String, u64) {
        let mut line = String::new();
        self.socket.read_line(&mut line).await.unwrap();
        let command: Value = serde_json::from_str(&line).unwrap();
        (command["execute"].as_str().unwrap().to_owned(), command["id"].as_u64().unwrap())
    }

    pub(in crate::qemu) async fn answer(&mut self, id: u64, result: Value) {
        self.say(&json!({"return": result, "id": id}).to_string()).await;
    }

    /// Greets and accepts the negotiation.
    pub(in crate::qemu) async fn greet(&mut self) {
        self.say(GREETING).await;
        let (name, id) = self.hear().await;
        assert_eq!(name, "qmp_capabilities");
        self.answer(id, json!({})).await;
    }
}

async fn connected(deadline: Duration) -> (Connected, Server) {
    let (socket, mut server) = Server::pair();
    let (connected, ()) = tokio::join!(connect(socket, deadline), server.greet());
    (connected.unwrap(), server)
}

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn the_greeting_tells_the_version() {
    let (connected, _server) = connected(LONG).await;
    assert_eq!(connected.version.to_string(), "7.2.22");
}

#[tokio::test]
async fn answers_are_matched_by_id() {
    let (Connected { client, .. }, mut server) = connected(LONG).await;
    let serve = async {
        let (first, second) = (server.hear().await, server.hear().await);
        assert_eq!((first.0.as_str(), second.0.as_str()), ("query-status", "stop"));
        server.answer(second.1, json!({})).await;
        server.answer(first.1, json!({"status": "paused", "running": false, "new": 1})).await;
    };
    let (status, stopped, ()) = tokio::join!(client.execute(QueryStatus {}), client.execute(Stop {}), serve);
    stopped.unwrap();
    assert_eq!(status.unwrap().status, "paused");
}

#[tokio::test]
async fn a_refusal_carries_the_reason() {
    let (Connected { client, .. }, mut server) = connected(LONG).await;
    let serve = async {
        let (_, id) = server.hear().await;
        let refusal = json!({"error": {"class": "GenericError", "desc": "not now"}, "id": id});
        server.say(&refusal.to_string()).await;
    };
    let (result, ()) = tokio::join!(client.execute(Cont {}), serve);
    assert_eq!(result.unwrap_err().to_string(), "QEMU refused \"cont\": not now (GenericError)");
}

#[tokio::test]
async fn events_are_kept_and_decoded_on_demand() {
    let (Connected { mut events, client: _client, .. }, mut server) = connected(LONG).await;
    server.say(r#"{"event": "FROM_THE_FUTURE", "data": [1, {"x": null}]}"#).await;
    server
        .say(r#"{"timestamp": {"seconds": 5, "microseconds": 6}, "event": "VSERPORT_CHANGE", "data": {"open": true, "id": "agent0", "new": 1}}"#)
        .await;
    server.say(r#"{"event": "SHUTDOWN", "data": {"guest": "not a bool"}}"#).await;

    let unknown = events.recv().await.unwrap();
    assert_eq!((unknown.name.as_str(), &unknown.data), ("FROM_THE_FUTURE", &json!([1, {"x": null}])));
    let change = events.recv().await.unwrap();
    assert_eq!(change.timestamp, Some(Timestamp { seconds: 5, microseconds: 6 }));
    assert_eq!(change.decode(), Some(VserportChange { id: "agent0".into(), open: true }));
    assert_eq!(change.decode::<Shutdown>(), None);
    assert_eq!(events.recv().await.unwrap().decode::<Shutdown>(), None);
}

#[tokio::test]
async fn nonsense_is_skipped() {
    let (Connected { client, mut events, .. }, mut server) = connected(LONG).await;
    let serve = async {
        let (_, id) = server.hear().await;
        for line in ["", "not json", "[]", "{\"id\": -1}", "{\"return\": 1, \"id\": 999}", "\u{0}"] {
            server.say(line).await;
        }
        server.say(r#"{"event": "STOP"}"#).await;
        server.answer(id, json!({})).await;
    };
    let (stopped, ()) = tokio::join!(client.execute(Stop {}), serve);
    stopped.unwrap();
    assert_eq!(events.recv().await.unwrap().name, "STOP");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_server_is_given_up_and_later_answers_do_no_harm() {
    let (Connected { client, .. }, mut server) = connected(SHORT).await;
    let late = client.execute(Stop {}).await.unwrap_err();
    assert!(matches!(late, QmpError::Timeout { command: "stop", .. }), "{late}");
    let serve = async {
        let (_, old) = server.hear().await;
        let (_, new) = server.hear().await;
        server.answer(old, json!({})).await;
        server.answer(new, json!({"status": "running", "running": true})).await;
    };
    let (status, ()) = tokio::join!(client.execute(QueryStatus {}), serve);
    assert!(status.unwrap().running);
}

#[tokio::test]
async fn the_end_of_the_socket_ends_everything() {
    let (Connected { client, mut events, .. }, mut server) = connected(LONG).await;
    let serve = async {
        server.hear().await;
        drop(server);
    };
    let (quit, ()) = tokio::join!(client.execute(Quit {}), serve);
    assert!(matches!(quit.unwrap_err(), QmpError::Closed { command: "quit" }));
    assert_eq!(events.recv().await, None);
    assert!(matches!(client.execute(Stop {}).await.unwrap_err(), QmpError::Closed { .. }));
}

#[tokio::test]
async fn a_server_may_take_its_time_to_greet_but_not_end_before() {
    let (socket, mut server) = Server::pair();
    let mut connecting = tokio::spawn(connect(socket, SHORT));
    assert!(timeout(3 * SHORT, &mut connecting).await.is_err());
    server.greet().await;
    assert!(connecting.await.unwrap().is_ok());
    let (socket, server) = Server::pair();
    drop(server);
    assert!(matches!(connect(socket, LONG).await, Err(QmpError::Closed { .. })));
}

#[tokio::test]
async fn descriptors_travel_with_their_command() {
    let (Connected { client, .. }, mut server) = connected(LONG).await;
    let (sent, _kept) = StdUnixStream::pair().unwrap();
    let serve = async {
        let socket = server.socket.get_ref();
        let mut line = [0; 200];
        let (count, received) = socket
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut line)];
                let message = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::DONTWAIT)?;
                let messages = ancillary.drain().filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => Some(fds.count()),
                    _ => None,
                });
                Ok((message.bytes, messages.sum::<usize>()))
            })
            .await
            .unwrap();
        let command: Value = serde_json::from_slice(&line[..count]).unwrap();
        assert_eq!(command["arguments"], json!({"fdname": "tap0"}));
        assert_eq!(received, 1);
        server.answer(command["id"].as_u64().unwrap(), json!({})).await;
    };
    let command = Getfd { fdname: "tap0".to_owned() };
    let (passed, ()) = tokio::join!(client.execute_with_fds(command, vec![sent.into()]), serve);
    passed.unwrap();
}

#[tokio::test]
async fn too_many_descriptors_are_refused() {
    let (Connected { client, .. }, _server) = connected(LONG).await;
    let fds = (0..=MAX_FDS).map(|_| StdUnixStream::pair().unwrap().0.into()).collect();
    let refused = client.execute_with_fds(Stop {}, fds).await.unwrap_err();
    assert!(matches!(refused, QmpError::TooManyFds { count: 9 }), "{refused}");
}

#[tokio::test]
async fn long_lines_in_small_pieces_are_joined() {
    let (Connected { mut events, client: _client, .. }, mut server) = connected(LONG).await;
    let text = "x".repeat(300_000);
    let line = json!({"event": "LONG", "data": text}).to_string() + "\n";
    let send = async {
        for piece in line.as_bytes().chunks(777) {
            server.socket.write_all(piece).await.unwrap();
        }
    };
    let (event, ()) = tokio::join!(events.recv(), send);
    assert_eq!(event.unwrap().data, text);
}

proptest! {
    /// No line makes the parser panic, and what is no QMP message is skipped or harmless.
    #[test]
    fn any_line_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        parse(&bytes);
    }

    /// Any event of any shape is kept as it is.
    #[test]
    fn any_event_is_kept(name in "[A-Z_]{1,30}", data in any::<Vec<Option<i32>>>()) {
        let line = json!({"event": name, "data": data}).to_string();
        let incoming = parse(line.as_bytes()).unwrap();
        prop_assert_eq!(incoming.event, Some(name));
        prop_assert_eq!(incoming.data, json!(data));
    }
}
