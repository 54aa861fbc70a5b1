//! The command line. Upstream's options have one dash, as Go's programs have them; both spellings are understood.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tracing::level_filters::LevelFilter;

/// Gathers the metrics and events of all Kata Containers sandboxes of this node, for Prometheus and for people.
///
/// Exit code 0: asked to end by a signal. 1: an error. 2: wrong usage.
#[derive(Debug, Parser)]
#[command(name = "kata-monitor", version, max_term_width = 100, args_override_self = true)]
pub(crate) struct Args {
    /// Where to listen for HTTP
    #[arg(long, default_value = "127.0.0.1:8090", value_name = "ADDRESS:PORT")]
    pub(crate) listen_address: String,

    /// Socket of the container manager (containerd, CRI-O), which names the pods
    #[arg(long, default_value = "/run/containerd/containerd.sock", value_name = "SOCKET")]
    pub(crate) runtime_endpoint: String,

    /// What is logged
    #[arg(long, value_enum, default_value_t = Level::Info, value_name = "LEVEL")]
    pub(crate) log_level: Level,

    /// Certificate chain (PEM): HTTPS in place of HTTP
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,

    /// File with a token that every request must bear (Authorization: Bearer TOKEN)
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// How long a request waits for a shim
    #[arg(long, value_parser = seconds, default_value = "4", value_name = "SECONDS")]
    pub(crate) shim_timeout: Duration,

    /// How long after a new sandbox those are dropped whose shim is dead and that the container manager does not know
    #[arg(long, value_parser = seconds, default_value = "60", value_name = "SECONDS")]
    pub(crate) sync_delay: Duration,

    /// Directories of sandboxes' state, instead of the usual ones
    #[arg(long, default_values = ["/run/kata", "/run/vc/sbs"], value_name = "DIR", hide = true)]
    pub(crate) sandboxes: Vec<PathBuf>,
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
    #[value(alias = "warning")]
    Warn,
    /// What does need one
    #[value(aliases = ["fatal", "panic"])]
    Error,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::TRACE,
            Level::Debug => Self::DEBUG,
            Level::Info => Self::INFO,
            Level::Warn => Self::WARN,
            Level::Error => Self::ERROR,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.parse().map_err(|_| "must be a number of seconds, such as 4 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Args {
    /// Of the process.
    pub(crate) fn of_process() -> Self {
        Self::parse_from(
            std::env::args_os().enumerate().map(|(at, word)| if at == 0 { word } else { spelled(word) }),
        )
    }

    /// What to bind to; Go's `:8090` means all addresses.
    pub(crate) fn address(&self) -> String {
        match self.listen_address.strip_prefix(':') {
            Some(port) => format!("[::]:{port}"),
            None => self.listen_address.clone(),
        }
    }
}

/// A long option with one dash gets its second one.
fn spelled(word: OsString) -> OsString {
    match word.to_str().and_then(|text| text.strip_prefix('-')) {
        Some(rest) if rest.len() > 1 && rest.starts_with(|c: char| c.is_ascii_lowercase()) => {
            format!("--{rest}").into()
        }
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::time::Duration;

    use clap::{CommandFactory, Parser};

    use super::{Args, Level, spelled};

    fn parsed(words: &[&str]) -> Result<Args, clap::Error> {
        let words = words.iter().map(|word| spelled(OsString::from(word)));
        Args::try_parse_from(std::iter::once("kata-monitor".into()).chain(words))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_have_one_dash_or_two() {
        for dash in ["-", "--"] {
            let address = format!("{dash}listen-address=:9000");
            let (endpoint, level) = (format!("{dash}runtime-endpoint"), format!("{dash}log-level"));
            let args =
                parsed(&[&address, &endpoint, "unix:///run/crio/crio.sock", &level, "warning"]).unwrap();
            assert_eq!(args.address(), "[::]:9000");
            assert_eq!(args.runtime_endpoint, "unix:///run/crio/crio.sock");
            assert_eq!(args.log_level, Level::Warn);
        }
    }

    #[test]
    fn upstreams_defaults_hold() {
        let args = parsed(&[]).unwrap();
        assert_eq!(args.address(), "127.0.0.1:8090");
        assert_eq!(args.runtime_endpoint, "/run/containerd/containerd.sock");
        assert_eq!(args.log_level, Level::Info);
    }

    #[test]
    fn a_key_without_a_certificate_is_refused() {
        assert!(parsed(&["-tls-key", "k"]).is_err() && parsed(&["-tls-cert", "c"]).is_err());
        assert!(parsed(&["-shim-timeout", "-1"]).is_err());
        assert_eq!(parsed(&["-shim-timeout", "0.5"]).unwrap().shim_timeout, Duration::from_millis(500));
    }
}
