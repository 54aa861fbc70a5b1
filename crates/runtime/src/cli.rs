//! The command line: global options and the list of subcommands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kata_config::{Config, LoadRequest};

use crate::{check, config_command, env, timeline};

/// Looks at the host, the configuration and the sandboxes of Kata Containers.
///
/// Exit code 0: done, and what was asked about is in order. 1: it is not, or an error. 2: wrong usage.
#[derive(Debug, Parser)]
#[command(name = "kata-runtime", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) global: Global,
}

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

    /// Directory of the sandboxes' state
    #[arg(long, global = true, default_value = kata_sandbox::STATE_ROOT, value_name = "DIR")]
    pub(crate) root: PathBuf,

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

/// The subcommands, one file each.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Can this host run and create Kata Containers?
    #[command(alias = "kata-check")]
    Check(check::CheckArgs),
    /// Describe runtime, hypervisor, guest and host, as TOML
    #[command(alias = "kata-env")]
    Env(env::EnvArgs),
    /// Explain or validate the configuration
    Config(config_command::ConfigArgs),
    /// Where did the start of a sandbox spend its time?
    Timeline(timeline::TimelineArgs),
    /// Print the versions of runtime and OCI specification
    Version,
}

impl Global {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
