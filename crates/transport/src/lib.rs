//! Byte streams between the host and the agent in the guest, by port number.
//!
//! The host end is a [`Dialer`], the guest end a [`Listener`]. Four carriers give the same streams:
//!
//! | carrier | host end | guest end | when |
//! |---|---|---|---|
//! | vsock | [`Dialer::vsock`] | [`Listener::vsock`] | the host has vhost-vsock |
//! | hybrid vsock | [`Dialer::hybrid`] | [`Listener::vsock`] | Firecracker, Cloud Hypervisor, StratoVirt |
//! | virtio-serial | [`Dialer::serial`] | [`Listener::serial`] | QEMU without vhost-vsock; a multiplexer on one port |
//! | unix socket | [`Dialer::unix`] | [`Listener::unix`] | tests without a VM |
//!
//! Every stream has back-pressure of its own: a stream that nobody reads stops its writer and no other
//! stream, and holds a bounded amount of memory.

mod carrier;
mod device;
mod dial;
mod doorbell;
mod error;
mod exchange;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod header;
pub mod hybrid;
mod join;
mod listen;
mod mux;
mod outflow;
mod stream;
mod sys;

#[cfg(test)]
mod tests;

pub use dial::{Connection, Dialer};
pub use doorbell::Doorbell;
pub use error::TransportError as Error;
pub use exchange::exchange;
pub use listen::{Accepted, Incoming, Listener};
pub use stream::Stream;

/// A port of the guest (or of the host, for the peer's identity), as in vsock.
pub type Port = u32;

/// The port that carries ttRPC; over unix sockets it is the one without a suffix and without a header.
const AGENT_PORT: Port = 1024;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
