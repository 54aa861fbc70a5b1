//! Connections that are carried to the guest's loopback, which is that of the machine here.

use std::io::ErrorKind;
use std::net::SocketAddr;

use kata_protocol::forward::{Answer, destination, read_answer};
use kata_protocol::ports;
use kata_transport::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::guest::{Guest, read_to_end, skips};

/// A server of the test's, and the stream that leads there.
struct Forwarded {
    server: TcpStream,
    stream: Stream,
}

async fn ask(guest: &Guest, to: SocketAddr) -> (Stream, std::io::Result<()>) {
    let mut stream = guest.dialer.connect(ports::FORWARD).await.expect("the agent listens").stream;
    stream.write_all(&destination(to)).await.expect("is read");
    let mut answer = Answer::default();
    stream.read_exact(&mut answer).await.expect("an answer");
    (stream, read_answer(answer))
}

async fn forwarded(guest: &Guest) -> Forwarded {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (stream, answer) = ask(guest, listener.local_addr().expect("is bound")).await;
    answer.expect("connected");
    Forwarded { server: listener.accept().await.expect("a connection").0, stream }
}

agent_test!(bytes_are_carried_to_a_port_and_back, |guest| {
    let Forwarded { mut server, mut stream } = forwarded(&guest).await;
    stream.write_all(b"question").await.expect("is read");
    let mut heard = [0; 8];
    server.read_exact(&mut heard).await.expect("comes");
    assert_eq!(&heard, b"question");
    server.write_all(b"answer").await.expect("is read");
    drop(server);
    assert_eq!(read_to_end(&mut stream).await, b"answer");
});

agent_test!(the_end_of_the_question_leaves_the_answer_open, |guest| {
    let Forwarded { mut server, mut stream } = forwarded(&guest).await;
    stream.write_all(b"question").await.expect("is read");
    stream.shutdown().await.expect("can be ended");
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.expect("comes to its end");
    assert_eq!(heard, b"question");
    server.write_all(b"answer").await.expect("is read");
    server.shutdown().await.expect("can be ended");
    assert_eq!(read_to_end(&mut stream).await, b"answer");
});

agent_test!(a_host_that_drops_a_stream_resets_the_connection, |guest| {
    let Forwarded { mut server, mut stream } = forwarded(&guest).await;
    stream.write_all(b"!").await.expect("is read");
    assert_eq!(server.read_u8().await.expect("comes"), b'!');
    drop(stream);
    assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
});

/// A port of IPv4 that nobody listens on, and that nobody else can have.
fn taken() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    socket
}

agent_test!(a_port_that_nobody_listens_on_is_refused, |guest| {
    let taken = taken();
    let (mut stream, answer) = ask(&guest, taken.local_addr().expect("is bound")).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(read_to_end(&mut stream).await, b"");
});

agent_test!(
    /// Who connects to `localhost` would try IPv6 after a refusal, but on the host IPv4 is never refused.
    a_server_on_ipv6_only_is_found,
    |guest| {
        let taken = taken();
        let port = taken.local_addr().expect("is bound").port();
        let listener = TcpListener::bind(("::1", port)).await.expect("a free port");
        for ip in ["127.0.0.1", "::1"] {
            let (_stream, answer) = ask(&guest, SocketAddr::new(ip.parse().expect("is one"), port)).await;
            answer.expect("connected");
            listener.accept().await.expect("a connection");
        }
    }
);

agent_test!(nothing_but_the_loopback_is_connected_to, |guest| {
    for address in ["10.0.2.2:80", "[fe80::1]:80", "0.0.0.0:80", "[::]:80"] {
        let (_, answer) = ask(&guest, address.parse().expect("is one")).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::AddrNotAvailable, "{address}");
    }
});
