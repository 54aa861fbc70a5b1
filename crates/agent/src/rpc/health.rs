//! `grpc.Health`.

use async_trait::async_trait;
use kata_protocol::health::{
    CheckRequest, HealthCheckResponse, VersionCheckResponse, health_check_response::ServingStatus,
};
use kata_protocol::health_ttrpc::Health;
use ttrpc::asynchronous::TtrpcContext;

/// Upstream's version of the agent protocol.
const PROTOCOL_VERSION: &str = "0.0.1";

/// The service.
#[derive(Debug)]
pub(super) struct Service;

#[async_trait]
impl Health for Service {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
        Ok(HealthCheckResponse { status: ServingStatus::SERVING.into(), ..Default::default() })
    }

    async fn version(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<VersionCheckResponse> {
        Ok(VersionCheckResponse {
            grpc_version: PROTOCOL_VERSION.to_owned(),
            agent_version: super::VERSION.to_owned(),
            ..Default::default()
        })
    }
}
