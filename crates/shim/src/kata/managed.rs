//! A sandbox as the management socket knows it. It does not keep the sandbox alive.

use std::path::PathBuf;

use async_trait::async_trait;
use kata_sandbox::{Interface, Route, Sandbox, VolumeStats, WeakSandbox};

use super::sandbox::failure;
use crate::backend::Failure;
use crate::management::Managed;

/// Implements the seam.
pub(super) struct Live(pub(super) WeakSandbox);

impl Live {
    fn sandbox(&self) -> Result<Sandbox, Failure> {
        self.0.upgrade().ok_or_else(|| failure(&kata_sandbox::Error::Closed))
    }
}

#[async_trait]
impl Managed for Live {
    async fn agent_url(&self) -> Result<String, Failure> {
        self.sandbox()?.agent_address().await.map_err(|error| failure(&error))
    }

    async fn packet_filter(&self, v6: bool) -> Result<Vec<u8>, Failure> {
        self.sandbox()?.packet_filter(v6).await.map_err(|error| failure(&error))
    }

    async fn set_packet_filter(&self, v6: bool, rules: Vec<u8>) -> Result<Vec<u8>, Failure> {
        self.sandbox()?.set_packet_filter(v6, rules).await.map_err(|error| failure(&error))
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
}
