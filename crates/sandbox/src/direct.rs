//! The direct-assigned volumes of a sandbox that runs: how it gets them, how full they are, and how they grow.

mod assigning;

use std::fs;
use std::path::{Path, PathBuf};

use kata_storage::direct_volume::DirectVolumes;
use kata_storage::processes::start_ticks;
use kata_vmm::VmmError;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result, SandboxError as Error};
use crate::intent_log::{INTENTS_FILE, owners, text};
use crate::jobs::{Reach, Site};

pub(crate) use assigning::{Assigning, Claimed};

/// Where direct-assigned volumes are written down, below it.
const RUN: &str = "/run";

/// What a volume has, as the Container Storage Interface says it; the keys are its and upstream's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeStats {
    /// In each unit.
    pub usage: Vec<VolumeUsage>,
    /// Whether it is in order, if the guest says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_condition: Option<VolumeCondition>,
}

/// What a volume has of one thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeUsage {
    /// For whoever is not privileged.
    pub available: u64,
    /// All of it.
    pub total: u64,
    /// What is in use.
    pub used: u64,
    /// 1: bytes, 2: inodes.
    pub unit: i32,
}

/// Whether a volume is in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeCondition {
    /// It is not.
    pub abnormal: bool,
    /// In words.
    pub message: String,
}

/// A direct-assigned volume in the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// Its disk, as the VMM knows it, once it has it.
    pub(crate) disk: Option<String>,
    /// Where it is mounted in the guest.
    pub(crate) guest_path: PathBuf,
}

/// The direct-assigned volumes of this host, for sandboxes that have their state below `state_root`.
#[must_use]
pub fn direct_volumes(state_root: &Path) -> DirectVolumes {
    direct_volumes_below(Path::new(RUN), state_root)
}

/// The same, written down below another directory than `/run`.
#[must_use]
pub fn direct_volumes_below(run_dir: &Path, state_root: &Path) -> DirectVolumes {
    let state_root = state_root.to_owned();
    DirectVolumes::below(run_dir, move |id| is_alive(&state_root, id))
}

/// Whether the sandbox has an owner who lives. What cannot be read may be anybody's, and counts as alive.
fn is_alive(state_root: &Path, id: &str) -> bool {
    match fs::File::open(state_root.join(id).join(INTENTS_FILE)).and_then(|file| text(&file)) {
        // Whoever is just ending still counts: nobody waits here for that.
        Ok(log) => owners(&log).any(|(pid, start)| start_ticks(pid) == Some(start)),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

impl Site {
    /// How full a volume is, by the guest that has mounted it.
    pub(crate) async fn volume_stats(self, reach: &Reach, volume: &Path) -> Result<VolumeStats> {
        let Assigned { guest_path, .. } = self.assigned(volume)?;
        reach.agent.volume_stats(&guest_path).await
    }

    /// Lets a volume grow: its disk in the VM, and then its file system in the guest.
    pub(crate) async fn resize_volume(self, reach: &Reach, volume: &Path, bytes: u64) -> Result<()> {
        let Assigned { disk, guest_path } = self.assigned(volume)?;
        let failed =
            |source: VmmError| Error::Volume { volume: volume.to_owned(), kind: kind(&source), source };
        let (Some(vmm), Some(disk)) = (reach.machine.vmm.disk_hotplug(), disk) else {
            return Err(Error::NoResize { volume: volume.to_owned() });
        };
        match vmm.resize_disk(&disk, bytes).await {
            // A device may be larger than was asked for, as its storage rounds up. If the guest could not follow the last time,
            // it does now; whether it would have to shrink it knows.
            Ok(()) | Err(VmmError::DiskShrinks { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        reach.agent.resize_volume(&guest_path, bytes).await
    }

    fn assigned(&self, volume: &Path) -> Result<Assigned> {
        let assigned = self.host.assigned(volume);
        assigned.ok_or_else(|| Error::NoVolume { volume: volume.to_owned() })
    }
}

fn kind(error: &VmmError) -> ErrorKind {
    match error {
        VmmError::NoDisk { .. } => ErrorKind::NotFound,
        _ => ErrorKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use kata_storage::direct_volume::{DirectVolumeError, MountInfo};

    use super::direct_volumes_below;
    use crate::intent_log::IntentLog;

    #[test]
    fn a_sandbox_is_alive_as_long_as_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        for id in ["mine", "unborn"] {
            std::fs::create_dir_all(state.join(id)).unwrap();
        }
        let mine = IntentLog::open(&state.join("mine")).unwrap();
        mine.own(None).unwrap();
        let volumes = direct_volumes_below(dir.path(), &state);
        let info =
            MountInfo::parse(br#"{"volume-type":"block","device":"/dev/sdf","fstype":"ext4"}"#).unwrap();
        volumes.add("/volume".as_ref(), &info).unwrap();
        let log: std::sync::Arc<dyn kata_intent::Intents> = std::sync::Arc::new(mine);
        for (sandbox, user) in [("gone", None), ("unborn", None), ("mine", Some("mine".to_owned()))] {
            volumes.claim("/volume".as_ref(), sandbox, &log).unwrap();
            assert_eq!(volumes.user("/volume".as_ref()).unwrap(), user);
        }
        let refused = volumes.claim("/volume".as_ref(), "other", &log);
        assert!(matches!(refused, Err(DirectVolumeError::InUse { sandbox, .. }) if sandbox == "mine"));
    }
}
