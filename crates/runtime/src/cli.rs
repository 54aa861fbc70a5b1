//! The command line: the list of subcommands.

use clap::{Parser, Subcommand};

use crate::global::Global;
use crate::{
    check, collect_data, completion, config_command, cp, direct_volume, env, exec, factory, inspect,
    iptables, list, log_level, logs, metrics, network, policy, timeline, version,
};

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
    ///
    /// Exit code 0 if nothing that is needed is missing, else 1. Without root, whether containers can be created now
    /// is not known, and the second verdict is left out.
    #[command(alias = "kata-check")]
    Check(check::CheckArgs),
    /// Describe runtime, hypervisor, guest and host, as TOML
    #[command(alias = "kata-env")]
    Env(env::EnvArgs),
    /// Explain, validate or import a configuration
    Config(config_command::ConfigArgs),
    /// List the containers of all sandboxes of this host
    ///
    /// A sandbox without containers has a line of its own. STATUS is created, running, paused or stopped for a container;
    /// of a sandbox whose shim does not answer, it is `dead` if the shim has gone and `hung` if it has not. PID is the VMM's
    /// process, which stands for what runs in the guest, and -1 without one.
    #[command(visible_alias = "ps")]
    List(list::ListArgs),
    /// Print what a sandbox is now, as a tree: containers, processes, devices, network, mounts, limits
    Inspect(inspect::InspectArgs),
    /// Print what guest kernel, agent and shim of a sandbox have logged, by time
    ///
    /// The guest's clock is mapped onto the host's, which is right to some milliseconds once the guest is up. How much there is
    /// to read depends on the levels: `enable_debug` in the configuration, `kata-runtime log-level`.
    Logs(logs::LogsArgs),
    /// Print or change how much the shim of a running sandbox, or its agent, logs
    ///
    /// With `debug` and `trace` the shim logs the guest's console as well, line by line (`vmconsole=`), where the agent's lines are.
    LogLevel(log_level::LogLevelArgs),
    /// List, add and remove network interfaces of a running sandbox, and set its routes
    Network(network::NetworkArgs),
    /// Read or set the packet filter of a sandbox's guest
    Iptables(iptables::IptablesArgs),
    /// Assign block devices to guests, which mount them, and see how full they are
    DirectVolume(direct_volume::DirectVolumeArgs),
    /// Open a shell in the guest of a sandbox, or run a command there
    #[command(alias = "debug-console")]
    Exec(exec::ExecArgs),
    /// Copy files and directories into and out of the guest of a sandbox
    #[command(alias = "copy")]
    Cp(cp::CpArgs),
    /// Print the figures of a running sandbox, as Prometheus text
    Metrics(metrics::MetricsArgs),
    /// Where did the start of a sandbox spend its time?
    Timeline(timeline::TimelineArgs),
    /// Set what a sandbox's agent may be asked
    Policy(policy::PolicyArgs),
    /// VMs that are made in advance
    Factory(factory::FactoryArgs),
    /// Pack what a bug report needs into one archive, without secrets
    ///
    /// In it: versions, checks, configuration, the host's facts, the container manager's configuration, the journal's lines
    /// of this runtime, and of each sandbox what `inspect` and `logs` tell and its containers' specifications. Not in it: values
    /// of environment variables, annotations that are not the runtime's or the container manager's, passwords, tokens and
    /// private keys, and what workloads print. Look through it before you send it.
    CollectData(collect_data::CollectDataArgs),
    /// Print a shell's script for completing this command line
    Completion(completion::CompletionArgs),
    /// Print the manual page
    #[command(hide = true)]
    Man,
    /// Print the versions of runtime and OCI specification
    Version(version::VersionArgs),
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
