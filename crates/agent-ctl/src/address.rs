//! Where an agent listens, and the connection to it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use kata_protocol::ports;
use kata_transport::Dialer;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;

use crate::command::UsageError;

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    /// A unix socket; an abstract one begins with a zero byte.
    Unix(PathBuf),
    /// A port of a VM.
    Vsock { cid: u32, port: u32 },
    /// A port of a VM, through its VMM's unix socket.
    Hybrid { path: PathBuf, port: u32 },
}

/// The text is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address of an agent; write unix://PATH, unix://@NAME, vsock://CID:PORT or hvsock://PATH:PORT"
)]
pub(crate) struct AddressError(String);

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parsed = text.split_once("://").and_then(|(scheme, rest)| match scheme {
            "unix" => unix_path(rest).map(Self::Unix),
            "vsock" => {
                let (cid, port) = with_port(rest);
                Some(Self::Vsock { cid: cid.parse().ok()?, port: port? })
            }
            "hvsock" => {
                let (path, port) = with_port(rest);
                Some(Self::Hybrid { path: unix_path(path)?, port: port? })
            }
            _ => None,
        });
        parsed.ok_or_else(|| AddressError(text.to_owned()))
    }
}

/// `@NAME` is in the abstract namespace.
fn unix_path(text: &str) -> Option<PathBuf> {
    match text.strip_prefix('@') {
        _ if text.is_empty() || text == "@" => None,
        Some(name) => Some(format!("\0{name}").into()),
        None => Some(text.into()),
    }
}

/// Without a port: the agent's usual one. `None` if what follows the colon is no port.
fn with_port(text: &str) -> (&str, Option<u32>) {
    match text.rsplit_once(':') {
        Some((rest, port)) => (rest, port.parse().ok()),
        None => (text, Some(ports::AGENT)),
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &Path| path.to_string_lossy().replacen('\0', "@", 1);
        match self {
            Self::Unix(path) => write!(f, "unix://{}", shown(path)),
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Hybrid { path, port } => write!(f, "hvsock://{}:{port}", shown(path)),
        }
    }
}

impl ServerAddress {
    /// The port of a VM whose VMM has this unix socket.
    pub(crate) fn hybrid(self, port: u32) -> anyhow::Result<Self> {
        match self {
            Self::Unix(path) => Ok(Self::Hybrid { path, port }),
            Self::Hybrid { .. } => Ok(self),
            Self::Vsock { .. } => {
                let refusal = format!("--hybrid-vsock goes with unix://PATH, not with {self}");
                Err(UsageError(refusal).into())
            }
        }
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let (dialer, port) = match self {
            // Over a unix socket the agent's port is the socket itself.
            Self::Unix(path) => (Dialer::unix(path.clone()), ports::AGENT),
            Self::Vsock { cid, port } => (Dialer::vsock(*cid), *port),
            Self::Hybrid { path, port } => (Dialer::hybrid(path.clone()), *port),
        };
        let connected = dialer.connect(port).await;
        let connection = connected.with_context(|| format!("No agent is reached at {self}; does it run?"))?;
        tracing::debug!(address = %self, "connected");
        Ok(Client::new(Socket::new(connection.stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::ServerAddress;

    fn parse(text: &str) -> Option<ServerAddress> {
        text.parse().ok()
    }

    #[test]
    fn every_form_of_an_address_is_understood_and_written_back() {
        for text in
            ["unix:///run/agent.sock", "unix://@agent", "vsock://3:1024", "hvsock:///run/vm/kata.hvsock:1024"]
        {
            assert_eq!(parse(text).expect(text).to_string(), text);
        }
        assert_eq!(parse("unix://@a"), Some(ServerAddress::Unix("\0a".into())));
    }

    #[test]
    fn the_agents_usual_port_may_be_left_out() {
        assert_eq!(parse("vsock://3"), parse("vsock://3:1024"));
        assert_eq!(parse("hvsock:///a"), parse("hvsock:///a:1024"));
    }

    #[test]
    fn anything_else_is_no_address() {
        for text in [
            "",
            "/run/agent.sock",
            "unix://",
            "unix://@",
            "vsock://x:1",
            "vsock://3:x",
            "tcp://a:1",
            "hvsock://:1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_unix_socket_can_be_hybrid() {
        let unix = parse("unix:///a").expect("an address").hybrid(77).expect("can be");
        assert_eq!(unix.to_string(), "hvsock:///a:77");
        assert!(parse("vsock://3:1024").expect("an address").hybrid(77).is_err());
    }
}
