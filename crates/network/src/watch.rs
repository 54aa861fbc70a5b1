//! Changes of a pod's network while its VM runs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::unix::AsyncFd;

use crate::NetworkError;
use crate::netlink;
use crate::netns;
use crate::sys;

/// Tells when the links, addresses or routes of a network namespace change. Made before the first [`crate::look`] or
/// [`crate::attach`], it misses nothing. It keeps the namespace alive.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Watches from now on.
    ///
    /// # Errors
    /// [`NetworkError::Namespace`].
    pub async fn new(netns: &Path) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Namespace { path: netns.to_owned(), source };
        let socket =
            netns::run_in(netns, netlink::changes).await.and_then(|opened| opened).map_err(failed)?;
        Ok(Self { socket: sys::watch(socket).map_err(failed)? })
    }

    /// Returns once something has changed since the last call. What, a new look has to show; it may be nothing that
    /// matters, such as a device of the VM itself. Nothing is lost if the future is dropped before it is ready.
    ///
    /// # Errors
    /// The kernel's messages cannot be read.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.socket.readable().await?;
        netlink::drain(ready.get_inner())?;
        ready.clear_ready();
        Ok(())
    }
}
