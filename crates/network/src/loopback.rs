//! Connections to the loopback of a pod's namespace, where nobody listens because the workload is in the guest.
//!
//! A container manager that forwards a port (`kubectl port-forward`) enters the namespace and connects to `localhost`. A
//! program at the kernel's socket lookup (BPF `sk_lookup`, Linux 5.9) hands each TCP connection to 127.0.0.0/8 or `::1`,
//! whatever its port, to a listening socket of ours; the address that the accepted socket has tells which port was meant.
//! No rule of a packet filter is made, and nothing has a name: with the descriptors all of it is gone, also when this
//! process is killed.

mod program;
mod sys;

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::{set_ip_freebind, set_ipv6_freebind};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::{TcpListener, TcpStream};

use crate::netns;

/// Connections that may wait to be accepted; more are tried again by their clients' kernel.
const BACKLOG: i32 = 128;

/// The loopback of a namespace could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// The namespace is not there.
    #[error("Cannot enter the network namespace {}; is the pod's network still there?", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No socket.
    #[error("Cannot listen in the network namespace {}; see the kernel's log", path.display())]
    Listen {
        /// The namespace's path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refuses the program.
    #[error(
        "Cannot {step} for the loopback of the network namespace {}; it takes Linux 5.9 with CONFIG_BPF_SYSCALL, and \
         CAP_BPF and CAP_NET_ADMIN (before 5.8 CAP_SYS_ADMIN)",
        path.display()
    )]
    Divert {
        /// The namespace's path.
        path: PathBuf,
        /// What failed, in the words of the message.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The loopback of a namespace, as far as TCP goes. Dropping it gives it back; connections that were accepted stay.
#[derive(Debug)]
pub struct Loopback {
    v4: TcpListener,
    /// None where the kernel has no IPv6.
    v6: Option<TcpListener>,
    /// Keeps the program where it is.
    _link: OwnedFd,
}

impl Loopback {
    /// Takes over the loopback of the namespace `netns`: from now on who listens there himself gets no connections from the
    /// namespace itself.
    ///
    /// # Errors
    /// See [`LoopbackError`]. Nothing is changed then.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn take(netns: &Path) -> Result<Self, LoopbackError> {
        let path = || netns.to_owned();
        let sockets = netns::run_in(netns, sockets).await;
        let sockets = sockets.map_err(|source| LoopbackError::Namespace { path: path(), source })?;
        let refused = |source| LoopbackError::Listen { path: path(), source };
        let (v4, v6) = sockets.map_err(refused)?;
        let link = divert(netns, &v4, v6.as_ref()).map_err(|(step, source)| LoopbackError::Divert {
            path: path(),
            step,
            source,
        })?;
        let v4 = listener(v4).map_err(refused)?;
        let v6 = v6.map(listener).transpose().map_err(refused)?;
        Ok(Self { v4, v6, _link: link })
    }

    /// The next connection, and where it was meant to go. Nothing is lost if the future is dropped before it is ready.
    ///
    /// # Errors
    /// The connection, or the means for it, are not there; the next may be.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accepted = match &self.v6 {
            None => self.v4.accept().await,
            Some(v6) => tokio::select! {
                accepted = self.v4.accept() => accepted,
                accepted = v6.accept() => accepted,
            },
        };
        let (socket, _) = accepted?;
        let destination = socket.local_addr()?;
        Ok((socket, destination))
    }
}

/// A listening socket of each family, in the namespace that the thread is in.
fn sockets() -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let v4 = open(AddressFamily::INET)?;
    // The loopback may be down still.
    set_ip_freebind(&v4, true)?;
    bind(&v4, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    listen(&v4, BACKLOG)?;
    let v6 = match open(AddressFamily::INET6) {
        Ok(v6) => v6,
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => return Ok((v4, None)),
        Err(error) => return Err(error),
    };
    set_ipv6_freebind(&v6, true)?;
    bind(&v6, &SocketAddr::from((Ipv6Addr::LOCALHOST, 0)))?;
    listen(&v6, BACKLOG)?;
    Ok((v4, Some(v6)))
}

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    TcpListener::from_std(socket.into())
}

/// Sets the program on the namespace's lookups, with the listeners in its map.
fn divert(netns: &Path, v4: &OwnedFd, v6: Option<&OwnedFd>) -> Result<OwnedFd, (&'static str, io::Error)> {
    let step = |step| move |error| (step, error);
    let map = sys::socket_map(program::SLOTS).map_err(step("make a map of sockets"))?;
    let put = |slot, socket: &OwnedFd| {
        sys::put_socket(&map, slot, socket.as_fd()).map_err(step("put a socket into a map"))
    };
    put(program::V4, v4)?;
    if let Some(v6) = v6 {
        put(program::V6, v6)?;
    }
    let program = sys::load(&program::instructions(&map)).map_err(step("load a BPF program"))?;
    let netns = File::open(netns).map_err(step("find the socket lookup"))?;
    sys::attach(&program, netns.as_fd()).map_err(step("attach a BPF program"))
}
