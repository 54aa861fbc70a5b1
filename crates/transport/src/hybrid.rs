//! The handshake of hybrid vsock, spoken on the unix socket of Firecracker, Cloud Hypervisor and StratoVirt:
//! the host writes `CONNECT <port>\n` and reads `OK <host port>\n`. Both ends of it are here: where the carrier to the guest
//! is this process's alone, others reach the guest through this process in the same way.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{Error, Port, Result};

/// The longest answer that can be right: `OK ` and a number of 32 bits.
const MAX_REPLY: usize = 13;

/// The longest request that can be right.
const MAX_REQUEST: usize = 18;

/// Asks for `port` on a fresh connection; returns the host port that the guest will see as its peer.
pub(crate) async fn handshake<S>(socket: &mut S, port: Port) -> Result<Port>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connect = |source| Error::Connect { port, source };
    socket.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(connect)?;
    let reply = read_line(socket, MAX_REPLY).await.map_err(connect)?;
    parse_reply(&reply).ok_or(Error::Refused { port, reply })
}

/// What a client's first line asks for; `None`: it is no request. The line is not answered yet.
///
/// # Errors
/// The socket's.
pub async fn requested_port<S: AsyncRead + Unpin>(client: &mut S) -> io::Result<Option<Port>> {
    Ok(parse_request(&read_line(client, MAX_REQUEST).await?))
}

/// Tells a client that the bytes from now on are the guest's.
///
/// # Errors
/// The socket's.
pub async fn accept<S: AsyncWrite + Unpin>(client: &mut S, host_port: Port) -> io::Result<()> {
    client.write_all(format!("OK {host_port}\n").as_bytes()).await
}

/// Reads up to a line feed, byte by byte: what follows it belongs to the stream. `most`: what a right line has.
async fn read_line<S: AsyncRead + Unpin>(socket: &mut S, most: usize) -> io::Result<String> {
    let mut line = Vec::with_capacity(most);
    // One more than a right line has, so that a longer one is not taken for it.
    while line.len() <= most {
        match socket.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            // The VMM closes the socket when nobody listens on the port.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// `OK <number>`, without its line feed.
pub(crate) fn parse_reply(line: &str) -> Option<Port> {
    parse(line, "OK ", MAX_REPLY)
}

/// `CONNECT <number>`, without its line feed.
pub(crate) fn parse_request(line: &str) -> Option<Port> {
    parse(line, "CONNECT ", MAX_REQUEST)
}

fn parse(line: &str, word: &str, most: usize) -> Option<Port> {
    let number = line.strip_prefix(word)?;
    let plain = line.len() <= most && number.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{accept, handshake, parse_reply, parse_request, requested_port};
    use crate::Error;

    #[test]
    fn only_ok_and_a_number_is_accepted() {
        assert_eq!(parse_reply("OK 1073741824"), Some(1_073_741_824));
        assert_eq!(parse_reply("OK 4294967295"), Some(u32::MAX));
        for bad in ["", "OK", "OK ", "OK x", "OK +1", "OK 1 ", "OK 4294967296", "ok 1", "ERR 1"] {
            assert_eq!(parse_reply(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_connect_and_a_number_is_a_request() {
        assert_eq!(parse_request("CONNECT 4294967295"), Some(u32::MAX));
        for bad in ["", "CONNECT", "CONNECT ", "CONNECT -1", "CONNECT 1 ", "CONNECT 00000000001", "OK 1"] {
            assert_eq!(parse_request(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn both_ends_understand_each_other() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let served = async {
            assert_eq!(requested_port(&mut server).await.unwrap(), Some(1024));
            accept(&mut server, 5).await.unwrap();
        };
        let (host_port, ()) = tokio::join!(handshake(&mut client, 1024), served);
        assert_eq!(host_port.unwrap(), 5);
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_without_panic(line in ".{0,40}") {
            let _ = (parse_reply(&line), parse_request(&line));
        }

        #[test]
        fn every_port_is_understood(port: u32) {
            prop_assert_eq!(parse_reply(&format!("OK {port}")), Some(port));
        }
    }

    #[tokio::test]
    async fn bytes_after_the_answer_belong_to_the_stream() {
        let (mut host, mut vmm) = tokio::io::duplex(64);
        vmm.write_all(b"OK 77\nhello").await.unwrap();
        assert_eq!(handshake(&mut host, 1024).await.unwrap(), 77);
        let mut asked = [0; 13];
        vmm.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"CONNECT 1024\n");
        let mut rest = [0; 5];
        host.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[tokio::test]
    async fn a_closed_socket_and_a_long_answer_are_refusals() {
        let (mut host, vmm) = tokio::io::duplex(64);
        drop(vmm);
        assert!(matches!(handshake(&mut host, 1).await, Err(Error::Refused { .. } | Error::Connect { .. })));
        let (mut host, mut vmm) = tokio::io::duplex(64);
        vmm.write_all(b"OK 00000000000000000000000001\n").await.unwrap();
        assert!(matches!(handshake(&mut host, 1).await, Err(Error::Refused { .. })));
    }
}
