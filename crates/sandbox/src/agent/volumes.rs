//! Volumes that the guest has mounted, by upstream's requests.

use std::path::Path;

use kata_protocol::agent as grpc;
use kata_protocol::csi;

use super::action::Action;
use super::{Agent, answers, within};
use crate::direct::{VolumeCondition, VolumeStats, VolumeUsage};
use crate::error::Result;

/// The most units that a guest is believed to count a volume in.
const MAX_UNITS: usize = 16;

impl Agent {
    /// How full the volume on `guest_path` is.
    pub(crate) async fn volume_stats(&self, guest_path: &Path) -> Result<VolumeStats> {
        let request = grpc::VolumeStatsRequest { volume_guest_path: text(guest_path), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.get_volume_stats(within(deadline), &request);
        Ok(stats(&self.call(Action::VolumeStats, deadline, rpc).await?))
    }

    /// Lets the file system on `guest_path` grow to the size of its disk.
    pub(crate) async fn resize_volume(&self, guest_path: &Path, bytes: u64) -> Result<()> {
        let request = grpc::ResizeVolumeRequest {
            volume_guest_path: text(guest_path),
            size: bytes,
            ..Default::default()
        };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.resize_volume(within(deadline), &request);
        self.call(Action::ResizeVolume, deadline, rpc).await.map(drop)
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn stats(answer: &csi::VolumeStatsResponse) -> VolumeStats {
    let usage = |usage: &csi::VolumeUsage| VolumeUsage {
        available: usage.available,
        total: usage.total,
        used: usage.used,
        unit: usage.unit.value(),
    };
    let condition = answer.volume_condition.as_ref();
    VolumeStats {
        usage: answer.usage.iter().take(MAX_UNITS).map(usage).collect(),
        volume_condition: condition.map(|condition| VolumeCondition {
            abnormal: condition.abnormal,
            message: answers::words(&condition.message),
        }),
    }
}
