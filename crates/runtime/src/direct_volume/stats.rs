//! `kata-runtime direct-volume stats`

use anyhow::Context;
use hyper::Method;
use kata_sandbox::VolumeStats;

use super::{Host, Which};
use crate::management::part;
use crate::output;

/// CSI drivers read what it prints, which is upstream's.
pub(super) fn run(which: &Which, host: &Host<'_>) -> anyhow::Result<()> {
    let volume = which.volume_path.to_str().context("The volume's path is no text")?;
    let path = format!("/direct-volume/stats?path={}", part(volume));
    let answer = host.sandbox_of(&which.volume_path)?.ask(Method::GET, &path, Vec::new())?;
    let stats: VolumeStats = serde_json::from_slice(&answer).context("The shim's answer is no statistics")?;
    output::json(&stats)
}
