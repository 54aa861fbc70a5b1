//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::address::ServerAddress;
use crate::auto::Auto;
use crate::{duration, management};

/// Sends single requests to a Kata agent and prints its answers as JSON, one line each.
///
/// For those who develop or debug an agent: a running pod does not expect its agent to be told things by others.
///
/// Exit code 0: done, or what failed was to be ignored. 1: the agent cannot be reached, or has not answered.
/// 2: wrong usage; nothing was sent. 3: the agent refused a request; its ttRPC code is on standard error.
#[derive(Debug, Parser)]
#[command(name = "kata-agent-ctl", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Least level of the log lines on standard error
    #[arg(short, long, global = true, value_enum, default_value_t = LogLevel::Info, value_name = "LEVEL")]
    pub(crate) log_level: LogLevel,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send requests to an agent
    Connect(Box<ConnectArgs>),
    /// Print examples
    Examples,
    /// Print a random container id
    GenerateCid,
    /// Print a random sandbox id
    GenerateSid,
}

/// Options of `connect`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("agent").required(true).args(["server_address", "sandbox", "vm"]),
    group = ArgGroup::new("what").required(true).multiple(true).args(["commands", "files", "interactive"]),
    after_help = "`-c list` prints the requests and `-c help` the other commands; `kata-agent-ctl examples` has examples."
)]
pub(crate) struct ConnectArgs {
    /// Where the agent listens: unix://PATH, unix://@NAME (abstract), vsock://CID:PORT, hvsock://PATH:PORT
    #[arg(short, long, value_name = "ADDRESS")]
    pub(crate) server_address: Option<ServerAddress>,

    /// The agent of this running sandbox; the beginning of its id is enough. Its shim is asked for the address
    #[arg(long, value_name = "ID")]
    pub(crate) sandbox: Option<String>,

    /// Directories of the sandboxes' state, for --sandbox
    #[arg(long, default_values = management::ROOTS, value_name = "DIR", requires = "sandbox")]
    pub(crate) root: Vec<PathBuf>,

    /// unix://PATH is the hybrid vsock socket of a VMM (Cloud Hypervisor, Firecracker)
    #[arg(long)]
    pub(crate) hybrid_vsock: bool,

    /// The agent's port, for --hybrid-vsock
    #[arg(long, default_value_t = kata_protocol::ports::AGENT, value_name = "PORT")]
    pub(crate) hybrid_vsock_port: u32,

    /// The agent of a VM that is booted for it as the configuration says, and is gone afterwards: qemu. Nothing was asked of that agent before; needs root
    #[arg(long, value_name = "HYPERVISOR", conflicts_with = "hybrid_vsock")]
    pub(crate) vm: Option<String>,

    /// The configuration of that VM, instead of the one that KATA_CONF_FILE names or that is installed
    #[arg(long, value_name = "FILE", requires = "vm")]
    pub(crate) config: Option<PathBuf>,

    /// A command; `@FILE` stands for the commands in a file. May be given more than once
    #[arg(short, long = "cmd", value_name = "CMD")]
    pub(crate) commands: Vec<String>,

    /// A file with a command on each line; `-` is standard input. Empty lines and those with # are left out
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Then read commands from standard input and go on after errors
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// OCI bundle: its config.json is the specification of containers that are created
    #[arg(short, long, value_name = "DIR")]
    pub(crate) bundle_dir: Option<PathBuf>,

    /// Send what is given and nothing else: by default, ids and specifications that are not given are filled in
    #[arg(short, long)]
    pub(crate) no_auto_values: bool,

    /// Go on after a request has failed
    #[arg(long)]
    pub(crate) ignore_errors: bool,

    /// How long one request may take, as 500ms, 10s, 2m; a number alone is nanoseconds. 0 is for ever
    #[arg(short, long, value_parser = duration::parse, default_value = "0", value_name = "TIME")]
    pub(crate) timeout: Duration,
}

impl ConnectArgs {
    /// Where the agent is; `None`: in a VM that is yet to be booted.
    pub(crate) fn address(&self) -> anyhow::Result<Option<ServerAddress>> {
        let address = match (&self.server_address, &self.sandbox) {
            (Some(address), _) => address.clone(),
            (None, Some(id)) => management::agent_address(&self.root, id)?,
            (None, None) => return Ok(None),
        };
        if self.hybrid_vsock { address.hybrid(self.hybrid_vsock_port).map(Some) } else { Ok(Some(address)) }
    }

    /// What is filled in.
    pub(crate) fn auto(&self) -> anyhow::Result<Auto> {
        if self.no_auto_values {
            return Ok(Auto::nothing());
        }
        Auto::new(self.bundle_dir.as_deref())
    }
}

/// Least level of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// None
    Off,
    /// Upstream's name for what is here an error
    Critical,
    /// What failed
    Error,
    /// What is odd
    #[value(alias = "warning")]
    Warn,
    /// What was filled in
    Info,
    /// Connections and requests
    Debug,
    /// Everything
    Trace,
}

impl LogLevel {
    /// As `tracing` has it.
    pub(crate) fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::OFF,
            Self::Critical | Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
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
