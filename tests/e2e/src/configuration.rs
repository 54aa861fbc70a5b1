//! containerd's `config.toml` of a test: nothing outside the test's directories; understood by containerd 1.6 to 2.x.

use std::path::Path;

use crate::containerd::{RUN, socket};

/// Plugins that need what a test does not have.
const UNUSED: [&str; 7] = [
    "io.containerd.internal.v1.tracing",
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];
const CRI: [&str; 3] =
    ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"];

/// Without the Container Runtime Interface.
pub(crate) fn plain(data: &Path) -> String {
    common(data, UNUSED.iter().chain(&CRI))
}

/// What the Container Runtime Interface needs beside [`plain`].
pub(crate) struct Cri<'a> {
    /// The name of the image that each pod's first container is made of.
    pub(crate) pause: &'a str,
    /// The directory with the network's configuration.
    pub(crate) networks: &'a Path,
}

impl Cri<'_> {
    /// With the Container Runtime Interface; each runtime is a handler.
    pub(crate) fn configuration(&self, data: &Path) -> String {
        let Self { pause, networks } = self;
        let networks = networks.display();
        let annotations = r#"["io.katacontainers.*"]"#;
        format!(
            r#"{common}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_tls_streaming = false
  restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{PLUGINS}"
  conf_dir = "{networks}"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "kata"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
  runtime_type = "io.containerd.kata.v2"
  privileged_without_host_devices = true
  pod_annotations = {annotations}
  container_annotations = {annotations}

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#,
            common = common(data, UNUSED.iter())
        )
    }
}

/// Where Debian has the network's plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

fn common<'a>(data: &Path, disabled: impl Iterator<Item = &'a &'a str>) -> String {
    let disabled: Vec<String> = disabled.map(|plugin| format!("  {plugin:?},")).collect();
    format!(
        r#"version = 2
root = "{data}/root"
state = "{RUN}/state"
disabled_plugins = [
{disabled}
]

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{data}/opt"
"#,
        data = data.display(),
        disabled = disabled.join("\n"),
        socket = socket().display()
    )
}
