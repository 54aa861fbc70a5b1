//! What can go wrong between the two ends.

use std::io;
use std::path::PathBuf;

use crate::Port;

/// A stream could not be opened, accepted or prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Opening a stream to a port of the guest failed.
    #[error("Cannot connect to port {port} of the guest; see the guest's console log for the agent's state")]
    Connect {
        /// The port asked for.
        port: Port,
        /// Why.
        source: io::Error,
    },
    /// A hybrid vsock socket answered something else than `OK <n>`.
    #[error("The VMM refused a connection to port {port} of the guest with {reply:?}; is the agent running?")]
    Refused {
        /// The port asked for.
        port: Port,
        /// The first line of the answer.
        reply: String,
    },
    /// The carrier of all streams is gone, so the VM (or the agent) has ended.
    #[error("The connection to the guest is closed; the VM has ended, see the guest's console log")]
    Closed,
    /// A port could not be listened on.
    #[error("Cannot listen on port {port}; is another listener bound to it?")]
    Bind {
        /// The port asked for.
        port: Port,
        /// Why.
        source: io::Error,
    },
    /// The next stream of a port could not be accepted.
    #[error("Cannot accept a stream on port {port}")]
    Accept {
        /// The port.
        port: Port,
        /// Why.
        source: io::Error,
    },
    /// The virtio-serial device could not be opened or made ready.
    #[error("Cannot use the virtio-serial port {}; is it there in /sys/class/virtio-ports?", device.display())]
    Device {
        /// The device's path.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This carrier has no streams from the guest to the host.
    #[error("This transport cannot connect to port {port} of the host; only vsock can")]
    Unsupported {
        /// The port asked for.
        port: Port,
    },
}
