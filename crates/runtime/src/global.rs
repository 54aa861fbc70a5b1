//! The options that every subcommand has.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kata_config::{Config, LoadRequest};

/// Options that stand before or after any subcommand.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file; else that of KATA_CONF_FILE, else the first default path that exists
    #[arg(long, global = true, visible_alias = "kata-config", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// File that log lines are added to
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,

    /// Form of the log lines
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,

    /// Log lines of this level and above
    #[arg(long, global = true, value_parser = ["error", "warn", "info", "debug", "trace"], value_name = "LEVEL")]
    #[arg(default_value = "info")]
    pub(crate) log_level: String,

    /// Directory of the sandboxes' state
    #[arg(long, global = true, default_value = kata_sandbox::STATE_ROOT, value_name = "DIR")]
    pub(crate) root: PathBuf,

    /// Taken as upstream has it, and without effect: this program makes no cgroups
    #[arg(long, global = true, value_parser = ["true", "false", "auto"], value_name = "WHETHER")]
    pub(crate) rootless: Option<String>,

    /// Taken as upstream has it, and without effect: the form of `cgroupsPath` tells whether systemd makes the cgroup
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,

    /// Print the default paths of the configuration file, best first, and exit
    #[arg(long)]
    pub(crate) show_default_config_paths: bool,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Global {
    /// The file that [`Self::load_config`] begins with, as far as it is known without reading it.
    pub(crate) fn config_path(&self) -> Option<PathBuf> {
        let named = self.config.clone().or_else(|| std::env::var_os("KATA_CONF_FILE").map(PathBuf::from));
        named.or_else(|| kata_config::DEFAULT_PATHS.iter().map(PathBuf::from).find(|path| path.exists()))
    }

    /// Loads the configuration that a sandbox without annotations would get.
    pub(crate) fn load_config(&self) -> Result<Config, kata_config::Error> {
        let env_conf_file = std::env::var_os("KATA_CONF_FILE").map(PathBuf::from);
        let config = kata_config::load(&LoadRequest {
            explicit: self.config.clone(),
            env_conf_file,
            ..LoadRequest::default()
        })?;
        tracing::info!(path = %config.path.display(), "configuration loaded");
        Ok(config)
    }
}
