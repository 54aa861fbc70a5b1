//! What to load, and from where.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The places where a configuration file is looked for, best first.
///
/// The order of directories is upstream's with `/usr/local` (our own install prefix) added after `/etc`; in each
/// directory `runtime-rs/`, where upstream's Rust runtime looks, comes second.
pub const DEFAULT_PATHS: [&str; 8] = [
    "/etc/kata-containers/configuration.toml",
    "/etc/kata-containers/runtime-rs/configuration.toml",
    "/usr/local/share/defaults/kata-containers/configuration.toml",
    "/usr/local/share/defaults/kata-containers/runtime-rs/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/runtime-rs/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration.toml",
];

/// Everything that decides which configuration results.
///
/// Precedence of the file: annotation, `explicit`, `env_conf_file`, then the first of `search` that exists.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// `--config`, or the runtime option `ConfigPath`.
    pub explicit: Option<PathBuf>,
    /// The sandbox's annotations; those outside `io.katacontainers.` are not looked at.
    pub annotations: BTreeMap<String, String>,
    /// The value of `KATA_CONF_FILE`, read by the caller.
    pub env_conf_file: Option<PathBuf>,
    /// Default places, best first.
    pub search: Vec<PathBuf>,
    /// CPUs of the host: what `default_maxvcpus = 0` stands for.
    pub host_cpus: u32,
}

impl Default for LoadRequest {
    /// Searches [`DEFAULT_PATHS`] without annotations; asks the system for the number of CPUs.
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            explicit: None,
            annotations: BTreeMap::new(),
            env_conf_file: None,
            search: DEFAULT_PATHS.iter().map(PathBuf::from).collect(),
            host_cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        }
    }
}
