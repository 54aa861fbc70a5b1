//! The command line. Names that upstream's program has mean what they mean there.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use kata_protocol::ports;
use kata_trace::Endpoint;
use tracing::level_filters::LevelFilter;

/// Takes the spans of agents in guests, and sends them to a collector of OpenTelemetry.
///
/// For sandboxes with `[agent.kata] enable_tracing = true` and no `[runtime] enable_tracing`: with both, the shim sends the
/// agent's spans along with its own, and nothing need run.
///
/// Exit code 0: asked to end by a signal. 1: an error. 2: wrong usage.
#[derive(Debug, Parser)]
#[command(name = "kata-trace-forwarder", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Where the collector takes OTLP over HTTP
    #[arg(long, value_parser = endpoint, default_value = "http://127.0.0.1:4318/v1/traces", value_name = "URL")]
    pub(crate) otlp_endpoint: Endpoint,

    /// Where agents connect to by vsock
    #[arg(long, default_value_t = ports::TRACE_FORWARDER, value_name = "PORT")]
    pub(crate) vsock_port: u32,

    /// The only address to take connections on: a context id, or "any"
    #[arg(long, value_parser = cid, default_value = "any", value_name = "CID")]
    pub(crate) vsock_cid: u32,

    /// The socket of a VM with hybrid vsock, in place of vsock: connections arrive at this path, `_` and the port
    #[arg(long, conflicts_with = "vsock_cid", value_name = "PATH")]
    pub(crate) socket_path: Option<PathBuf>,

    /// What is logged
    #[arg(long, short = 'l', value_enum, default_value_t = Level::Info, value_name = "LEVEL")]
    pub(crate) log_level: Level,
}

/// What is logged: lines of this level and graver ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Everything
    Trace,
    /// What helps to find errors
    Debug,
    /// What happens now and then
    Info,
    /// What may need a person
    Warn,
    /// What does need one
    #[value(alias = "critical")]
    Error,
}

impl Level {
    pub(crate) fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
        }
    }
}

fn endpoint(url: &str) -> Result<Endpoint, String> {
    Endpoint::parse(url).map_err(|bad| format!("it {}", bad.0))
}

fn cid(text: &str) -> Result<u32, String> {
    match text {
        "any" => Ok(tokio_vsock::VMADDR_CID_ANY),
        number => number.parse().map_err(|_| "it must be a number or \"any\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Args;

    #[test]
    fn without_options_it_listens_where_agents_connect_to() {
        let args = Args::try_parse_from(["kata-trace-forwarder"]).unwrap();
        assert_eq!((args.vsock_port, args.vsock_cid), (10240, u32::MAX));
        assert_eq!(args.otlp_endpoint.to_string(), "http://127.0.0.1:4318/v1/traces");
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        let refusal = |words: &[&str]| {
            let words = ["kata-trace-forwarder"].iter().chain(words);
            Args::try_parse_from(words).unwrap_err().to_string()
        };
        assert!(refusal(&["--otlp-endpoint", "https://collector"]).contains("TLS"));
        assert!(refusal(&["--vsock-cid", "host"]).contains("any"));
        assert!(refusal(&["--vsock-cid", "2", "--socket-path", "/s"]).contains("cannot be used with"));
    }
}
