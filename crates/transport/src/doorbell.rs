//! The doorbell: over vsock, the guest's agent connects out to the host when it is about to serve.

use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::{Error, Port, Result};

/// `linux/vm_sockets.h`: let the kernel choose a free port.
const VMADDR_PORT_ANY: Port = u32::MAX;

/// Listens for one guest's call on a vsock port of the host.
#[derive(Debug)]
pub struct Doorbell {
    listener: VsockListener,
    port: Port,
}

impl Doorbell {
    /// Listens on a free port, to be given to the guest as `agent.doorbell_port=`.
    ///
    /// # Errors
    /// [`Error::Bind`] if the host has no vsock.
    pub fn hang() -> Result<Self> {
        let bind = |source| Error::Bind { port: VMADDR_PORT_ANY, source };
        let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, VMADDR_PORT_ANY)).map_err(bind)?;
        let port = listener.local_addr().map_err(bind)?.port();
        Ok(Self { listener, port })
    }

    /// The port to call.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Waits for the call of the guest with this context id; other guests' calls are not answered.
    ///
    /// # Errors
    /// [`Error::Accept`] if the socket failed.
    pub async fn rung_by(&self, cid: u32) -> Result<()> {
        loop {
            let accepted = self.listener.accept().await;
            let (_, peer) = accepted.map_err(|source| Error::Accept { port: self.port, source })?;
            if peer.cid() == cid {
                return Ok(());
            }
        }
    }
}
