//! The management socket: HTTP/1.1 on `shim-monitor.sock` in the sandbox's state directory, for `kata-runtime` and upstream's
//! tools. `listener.rs` lets in whom it may and bounds what one can do; `routes.rs` has the table of endpoints; the other
//! files have the endpoints, one file for each family. A new endpoint is a line of the table and a function.
//!
//! The pod owes nothing to this socket: a failure here is logged, and the pod runs on. The socket goes with the state
//! directory, after any crash.

mod agent;
mod call;
mod console;
mod direct_volume;
mod events;
mod inspection;
mod listener;
mod log_level;
mod metrics;
mod network;
mod packet_filter;
mod routes;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use async_trait::async_trait;
use hyper::body::Bytes;
use kata_metrics::Selection;
use kata_sandbox::{Inspection, Interface, PidInfo, Route, Stream, VolumeStats};
use tokio::sync::mpsc;

use crate::backend::Failure;

pub(crate) use events::{Feed, Happening};
pub(crate) use listener::start;

/// What can be managed of a sandbox: the seam between the endpoints and the sandbox. The product has one implementation
/// (`kata/managed.rs`); tests have another.
#[async_trait]
pub(crate) trait Managed: Send + Sync {
    /// Where the agent is reached.
    async fn agent_url(&self) -> Result<String, Failure>;
    /// A console in the guest.
    async fn console(&self) -> Result<Stream, Failure>;
    /// Figures, as Prometheus text.
    async fn metrics(&self, selection: Selection) -> Result<String, Failure>;
    /// The guest's rules, as iptables-save(8) writes them.
    async fn packet_filter(&self, v6: bool) -> Result<Vec<u8>, Failure>;
    /// Sets them; what the guest's program says of it.
    async fn set_packet_filter(&self, v6: bool, rules: Vec<u8>) -> Result<Vec<u8>, Failure>;
    /// What the host knows of the sandbox and its containers.
    async fn inspect(&self) -> Result<Inspection, Failure>;
    /// A container's processes in the guest.
    async fn processes(&self, container: &str) -> Result<Vec<PidInfo>, Failure>;
    /// How much the agent logs; `Some` changes it.
    async fn guest_log_level(&self, level: Option<String>) -> Result<String, Failure>;
    /// How much is logged.
    fn log_level(&self) -> &'static str;
    /// Changes that.
    fn set_log_level(&self, level: &str) -> Result<(), Failure>;
    /// The guest's interfaces.
    async fn interfaces(&self) -> Result<Vec<Interface>, Failure>;
    /// Attaches or changes one.
    async fn add_interface(&self, interface: Interface) -> Result<(), Failure>;
    /// Takes one out.
    async fn remove_interface(&self, name: &str) -> Result<(), Failure>;
    /// The guest's routes.
    async fn routes(&self) -> Result<Vec<Route>, Failure>;
    /// Sets them; `None`: to those of the namespace.
    async fn set_routes(&self, routes: Option<Vec<Route>>) -> Result<(), Failure>;
    /// How full a direct-assigned volume is.
    async fn volume_stats(&self, volume: PathBuf) -> Result<VolumeStats, Failure>;
    /// Lets one grow to so many bytes.
    async fn resize_volume(&self, volume: PathBuf, bytes: u64) -> Result<(), Failure>;
    /// What happens from now on, as lines; `None`: there are enough who listen.
    fn events(&self) -> Option<mpsc::Receiver<Bytes>>;
}
