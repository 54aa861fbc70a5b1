//! Which crate may use which: the rooms of ARCHITECTURE.md as a table.

use anyhow::Result;
use serde::Deserialize;

use crate::process;
use crate::workspace::Workspace;

/// A crate, and those of ours it may use. Tests (dev-dependencies) may use any.
const ROOMS: [(&str, &[&str]); 24] = [
    ("kata-metrics", &[]),
    ("kata-transport", &[]),
    ("kata-protocol", &[]),
    ("kata-seccomp", &["kata-protocol"]),
    ("kata-trace", &[]),
    ("kata-config", &["kata-trace"]),
    ("kata-intent", &[]),
    ("kata-cgroup", &["kata-intent"]),
    ("kata-vmm", &["kata-cgroup"]),
    ("kata-network", &["kata-intent", "kata-protocol"]),
    ("kata-storage", &["kata-cgroup", "kata-intent", "kata-protocol"]),
    (
        "kata-sandbox",
        &[
            "kata-cgroup",
            "kata-config",
            "kata-intent",
            "kata-metrics",
            "kata-network",
            "kata-protocol",
            "kata-seccomp",
            "kata-storage",
            "kata-trace",
            "kata-transport",
            "kata-vmm",
        ],
    ),
    (
        "containerd-shim-kata-v2",
        &["kata-config", "kata-metrics", "kata-protocol", "kata-sandbox", "kata-storage", "kata-trace"],
    ),
    (
        "kata-runtime",
        &["kata-config", "kata-protocol", "kata-sandbox", "kata-storage", "kata-transport", "kata-vmm"],
    ),
    ("kata-monitor", &["kata-sandbox", "kata-storage"]),
    ("kata-agent-ctl", &["kata-config", "kata-protocol", "kata-sandbox", "kata-storage", "kata-transport"]),
    ("kata-log-parser", &[]),
    ("kata-agent", &["kata-metrics", "kata-protocol", "kata-seccomp", "kata-trace", "kata-transport"]),
    ("kata-trace-forwarder", &["kata-protocol", "kata-trace"]),
    ("kata-image-pull", &[]),
    (
        "kata-fuzz",
        &[
            "containerd-shim-kata-v2",
            "kata-agent",
            "kata-config",
            "kata-intent",
            "kata-log-parser",
            "kata-metrics",
            "kata-protocol",
            "kata-sandbox",
            "kata-seccomp",
            "kata-storage",
            "kata-trace",
            "kata-transport",
            "kata-vmm",
        ],
    ),
    ("kata-e2e", &[]),
    ("kata-probe", &[]),
    ("xtask", &[]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// A package of the workspace, as `cargo metadata` tells it.
#[derive(Deserialize)]
pub(crate) struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or nothing for an ordinary one.
    kind: Option<String>,
    /// Only those of this repository have one.
    path: Option<String>,
}

/// Every arrow that is not in the table.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut cargo = workspace.cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Metadata = serde_json::from_slice(&process::output(&mut cargo)?)?;
    Ok(metadata.packages.iter().flat_map(wrong_arrows).collect())
}

/// The arrows of one package that are not in the table.
pub(crate) fn wrong_arrows(package: &Package) -> Vec<String> {
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == package.name) else {
        return vec![format!(
            "{} has no place in the table of rooms (xtask/src/check/arrows.rs)",
            package.name
        )];
    };
    let ours = package.dependencies.iter().filter(|d| d.path.is_some() && d.kind.as_deref() != Some("dev"));
    let wrong = ours.filter(|d| !allowed.contains(&d.name.as_str()));
    wrong.map(|d| format!("{} must not know {}", package.name, d.name)).collect()
}
