//! `kata-runtime direct-volume add`

use clap::Args;
use kata_storage::direct_volume::{DirectVolumeError, MountInfo};

use super::{Host, Which};

/// Arguments of `direct-volume add`.
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    which: Which,

    /// The device and how it is mounted: {"volume-type": "block", "device": "/dev/sdf", "fstype": "ext4",
    /// "metadata": {"fsGroup": "1000", "fsGroupChangePolicy": "OnRootMismatch"}, "options": ["noatime"]}
    #[arg(long, value_name = "JSON")]
    mount_info: String,
}

pub(super) fn run(args: &AddArgs, host: &Host<'_>) -> anyhow::Result<()> {
    let volume = &args.which.volume_path;
    let about = |source| DirectVolumeError::Info { volume: volume.clone(), source };
    let info = MountInfo::parse(args.mount_info.as_bytes()).map_err(about)?;
    info.open_device().map_err(about)?;
    Ok(host.volumes.add(volume, &info)?)
}
