//! The figures of agent and guest, by upstream's request.

use std::time::Duration;

use kata_protocol::agent as grpc;

use super::action::Action;
use super::{Agent, within};
use crate::command::{GuestMetrics, GuestUse};
use crate::error::Result;

impl Agent {
    /// The families that these words select. Another agent than ours tells all that it has, and not what its containers use.
    pub(crate) async fn metrics(&self, families: Vec<String>, patience: Duration) -> Result<GuestMetrics> {
        let request = grpc::GetMetricsRequest { families, ..Default::default() };
        let rpc = self.grpc.get_metrics(within(patience), &request);
        let answer = self.call(Action::Metrics, patience, rpc).await?;
        let containers = match (answer.containers_cpu_usec, answer.containers_memory_bytes) {
            (Some(cpu), Some(memory_bytes)) => {
                Some(GuestUse { cpu: Duration::from_micros(cpu), memory_bytes })
            }
            _ => None,
        };
        Ok(GuestMetrics { text: answer.metrics, containers })
    }
}
