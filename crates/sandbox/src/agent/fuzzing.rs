//! What the guest's answers mean, for fuzz targets.

use kata_protocol::{agent as grpc, kata};
use ttrpc::Status;

use super::{answers, measured};
use crate::command::PidInfo;
use crate::stats::Stats;

/// The user's words for an answer that is an error.
#[must_use]
pub fn refusal(status: &Status) -> String {
    let error = answers::refusal("start the sandbox", status);
    // Either way it is told to the user.
    let _ = answers::is_foreign(&error);
    error.to_string()
}

/// The phases and the agent's version in the answer to `StartSandbox`.
#[must_use]
pub fn started(answer: kata::StartSandboxResponse) -> (Vec<kata::Phase>, Option<String>) {
    let started = answers::started(answer);
    (started.phases, started.version)
}

/// A container's processes.
#[must_use]
pub fn pids(answer: kata::PidsResponse) -> Vec<PidInfo> {
    answers::pids(answer)
}

/// A container's consumption.
#[must_use]
pub fn stats(answer: kata::StatsResponse) -> Stats {
    measured::stats(answer)
}

/// A container's consumption as told by an agent that is not ours.
#[must_use]
pub fn upstream_stats(answer: grpc::StatsContainerResponse) -> Stats {
    measured::upstream_stats(answer)
}
