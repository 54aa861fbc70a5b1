//! A sandbox as the management socket knows it. It does not keep the sandbox alive.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use hyper::body::Bytes;
use kata_metrics::Selection;
use kata_sandbox::{
    IdError, Inspection, Interface, PidInfo, Route, Sandbox, Stream, VolumeStats, WeakSandbox,
};
use tokio::sync::mpsc;

use super::metrics::Watched;
use super::sandbox::failure;
use crate::backend::{Failure, Kind};
use crate::logging::Control;
use crate::management::{Feed, Managed};
use crate::rpcs::Rpcs;

/// Implements the seam.
pub(super) struct Live {
    pub(super) sandbox: WeakSandbox,
    /// The agent gives shells; see `Config::has_debug_console`.
    pub(super) has_console: bool,
    pub(super) rpcs: Arc<Rpcs>,
    pub(super) feed: Arc<Feed>,
    /// This process's log.
    pub(super) log: Option<Control>,
    /// When the sandbox was launched.
    pub(super) since: Instant,
}

/// Nobody listens in the guest, and a serial port would not tell.
const CONSOLE_OFF: &str = "The debug console of this sandbox is off: set `debug_console_enabled = true` in [agent.kata] of \
                           configuration.toml, and start the pod anew";

impl Live {
    fn sandbox(&self) -> Result<Sandbox, Failure> {
        self.sandbox.upgrade().ok_or_else(|| failure(&kata_sandbox::Error::Closed))
    }
}

#[async_trait]
impl Managed for Live {
    async fn agent_url(&self) -> Result<String, Failure> {
        self.sandbox()?.agent_address().await.map_err(|error| failure(&error))
    }

    async fn console(&self) -> Result<Stream, Failure> {
        if !self.has_console {
            return Err(Failure::new(Kind::FailedPrecondition, CONSOLE_OFF));
        }
        self.sandbox()?.console().await.map_err(|error| failure(&error))
    }

    async fn metrics(&self, selection: Selection) -> Result<String, Failure> {
        let watched = Watched { sandbox: &self.sandbox, rpcs: &self.rpcs, since: self.since };
        Ok(watched.text(selection).await)
    }

    async fn packet_filter(&self, v6: bool) -> Result<Vec<u8>, Failure> {
        self.sandbox()?.packet_filter(v6).await.map_err(|error| failure(&error))
    }

    async fn set_packet_filter(&self, v6: bool, rules: Vec<u8>) -> Result<Vec<u8>, Failure> {
        self.sandbox()?.set_packet_filter(v6, rules).await.map_err(|error| failure(&error))
    }

    async fn inspect(&self) -> Result<Inspection, Failure> {
        self.sandbox()?.inspect().await.map_err(|error| failure(&error))
    }

    async fn processes(&self, container: &str) -> Result<Vec<PidInfo>, Failure> {
        let id = container.parse().map_err(|error: IdError| Failure::of(Kind::InvalidArgument, &error))?;
        self.sandbox()?.pids(&id).await.map_err(|error| failure(&error))
    }

    async fn guest_log_level(&self, level: Option<String>) -> Result<String, Failure> {
        self.sandbox()?.guest_log_level(level).await.map_err(|error| failure(&error))
    }

    fn log_level(&self) -> &'static str {
        self.log.as_ref().map_or("off", Control::level)
    }

    fn set_log_level(&self, level: &str) -> Result<(), Failure> {
        let Some(log) = &self.log else { return Ok(()) };
        log.set_level(level).map_err(|error| Failure::of(Kind::InvalidArgument, &error))
    }

    async fn interfaces(&self) -> Result<Vec<Interface>, Failure> {
        self.sandbox()?.interfaces().await.map_err(|error| failure(&error))
    }

    async fn add_interface(&self, interface: Interface) -> Result<(), Failure> {
        self.sandbox()?.add_interface(interface).await.map_err(|error| failure(&error))
    }

    async fn remove_interface(&self, name: &str) -> Result<(), Failure> {
        self.sandbox()?.remove_interface(name).await.map_err(|error| failure(&error))
    }

    async fn routes(&self) -> Result<Vec<Route>, Failure> {
        self.sandbox()?.routes().await.map_err(|error| failure(&error))
    }

    async fn set_routes(&self, routes: Option<Vec<Route>>) -> Result<(), Failure> {
        self.sandbox()?.set_routes(routes).await.map_err(|error| failure(&error))
    }

    async fn volume_stats(&self, volume: PathBuf) -> Result<VolumeStats, Failure> {
        self.sandbox()?.volume_stats(&volume).await.map_err(|error| failure(&error))
    }

    async fn resize_volume(&self, volume: PathBuf, bytes: u64) -> Result<(), Failure> {
        self.sandbox()?.resize_volume(&volume, bytes).await.map_err(|error| failure(&error))
    }

    fn events(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.feed.listen()
    }
}
