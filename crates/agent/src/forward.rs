//! Connections to ports of the pod that the host has taken on, such as those of `kubectl port-forward`: each is a stream,
//! and is made anew on the guest's loopback. Containers have the guest's network, so their servers are there.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use kata_protocol::forward::{Destination, answer, read_destination};
use kata_transport::{Incoming, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Carries connections until the carrier is gone.
pub(crate) async fn serve(mut incoming: Incoming) {
    loop {
        match incoming.accept().await {
            Ok(accepted) => {
                tokio::spawn(async move {
                    if let Err(error) = carry(accepted.stream).await {
                        tracing::debug!(%error, "A forwarded connection was broken off");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "No more connections are forwarded");
                return;
            }
        }
    }
}

async fn carry(mut stream: Stream) -> io::Result<()> {
    let mut destination = Destination::default();
    stream.read_exact(&mut destination).await?;
    let connected = connect(read_destination(destination)).await;
    stream.write_all(&answer(&connected)).await?;
    match connected {
        Ok(socket) => stream.join(socket).await,
        // The host has been told.
        Err(_) => Ok(()),
    }
}

/// Whoever connects to `localhost` tries IPv4 first and gives IPv6 a chance when that is refused. On the host it is taken on
/// before the server is asked, so the chance is given here.
async fn connect(destination: SocketAddr) -> io::Result<TcpStream> {
    if !destination.ip().is_loopback() {
        return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
    }
    let refused = match TcpStream::connect(destination).await {
        Err(error) if destination.ip() == Ipv4Addr::LOCALHOST => error,
        connected => return connected,
    };
    let second = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), destination.port());
    TcpStream::connect(second).await.map_err(|_| refused)
}
