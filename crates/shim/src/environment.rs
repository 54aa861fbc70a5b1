//! Environment variables that change what this program does, read in one place.

use std::env;
use std::path::PathBuf;

use crate::args::{BIND_FD_ENV, SOCKET_ENV, TTRPC_ADDRESS_ENV};

/// Worker threads of the server when [`Environment::workers`] is not given.
const WORKERS: usize = 2;

/// The variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// `KATA_RUNTIME_BIND_FD`: this process is the server, and this descriptor is its socket.
    pub(crate) bind_fd: Option<String>,
    /// `KATA_RUNTIME_SOCKET`: the path that the server's socket will have.
    pub(crate) socket: Option<PathBuf>,
    /// `TTRPC_ADDRESS`: containerd's ttRPC socket, for events.
    pub(crate) ttrpc_address: Option<String>,
    /// `KATA_CONF_FILE`: the configuration, unless something more specific names one.
    pub(crate) conf_file: Option<PathBuf>,
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or else `OTEL_EXPORTER_OTLP_ENDPOINT` with the path of traces: the collector,
    /// unless the configuration names one.
    pub(crate) collector: Option<String>,
    /// `SCHED_CORE`: the pod is to share a core with nobody else.
    pub(crate) core_scheduling: bool,
    /// `TOKIO_RUNTIME_WORKER_THREADS`: worker threads of the server.
    pub(crate) workers: Option<String>,
}

impl Environment {
    /// Reads them. Empty counts as absent.
    #[must_use]
    pub(crate) fn read() -> Self {
        let given = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        Self {
            bind_fd: given(BIND_FD_ENV),
            ttrpc_address: given(TTRPC_ADDRESS_ENV),
            socket: path(SOCKET_ENV),
            conf_file: path("KATA_CONF_FILE"),
            collector: given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
                let base = given("OTEL_EXPORTER_OTLP_ENDPOINT")?;
                Some(format!("{}/v1/traces", base.trim_end_matches('/')))
            }),
            core_scheduling: given("SCHED_CORE").is_some(),
            workers: given("TOKIO_RUNTIME_WORKER_THREADS"),
        }
    }

    /// How many worker threads to start: at least one, 2 if nothing sensible is given.
    #[must_use]
    pub(crate) fn worker_threads(&self) -> usize {
        self.workers
            .as_deref()
            .and_then(|text| text.parse().ok())
            .filter(|count| *count > 0)
            .unwrap_or(WORKERS)
    }
}

#[cfg(test)]
mod tests {
    use super::Environment;

    #[test]
    fn worker_threads_are_two_unless_a_number_is_given() {
        let with =
            |text: Option<&str>| Environment { workers: text.map(str::to_owned), ..Environment::default() };
        assert_eq!(with(None).worker_threads(), 2);
        assert_eq!(with(Some("4")).worker_threads(), 4);
        assert_eq!(with(Some("0")).worker_threads(), 2);
        assert_eq!(with(Some("many")).worker_threads(), 2);
    }
}
