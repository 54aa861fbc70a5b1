//! `kata-runtime direct-volume remove`

use super::{Host, Which};

pub(super) fn run(which: &Which, host: &Host<'_>) -> anyhow::Result<()> {
    Ok(host.volumes.remove(&which.volume_path)?)
}
