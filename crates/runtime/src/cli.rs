//! The command line: the list of subcommands.

use clap::{Parser, Subcommand};

use crate::global::Global;
use crate::{check, config_command, direct_volume, env, iptables, network, timeline};

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
    /// List, add and remove network interfaces of a running sandbox, and set its routes
    Network(network::NetworkArgs),
    /// Read or set the packet filter of a sandbox's guest
    Iptables(iptables::IptablesArgs),
    /// Assign block devices to guests, which mount them, and see how full they are
    DirectVolume(direct_volume::DirectVolumeArgs),
    /// Where did the start of a sandbox spend its time?
    Timeline(timeline::TimelineArgs),
    /// Print the versions of runtime and OCI specification
    Version,
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
