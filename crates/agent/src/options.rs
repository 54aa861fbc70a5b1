//! The agent's options: `agent.*` on the kernel command line, and the environment.

use std::path::PathBuf;
use std::time::Duration;

use kata_protocol::ports;
use tracing::Level;

use crate::image::PullOptions;

/// Where the agent serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    /// Whatever device the VM has: vsock, else virtio-serial.
    Auto,
    /// `vsock://…`: the agent's ports on `AF_VSOCK`.
    Vsock,
    /// `serial://` with the device's path, or the port of the agent's name.
    Serial(Option<PathBuf>),
    /// `unix://path`, or `unix://@name` for a socket without a file: without a VM.
    Unix(PathBuf),
}

/// Options in effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// `agent.server_addr`, `KATA_AGENT_SERVER_ADDR`.
    pub(crate) server: ServerAddress,
    /// `agent.log`, `KATA_AGENT_LOG_LEVEL`: critical, error, warn, info, debug or trace.
    pub(crate) log_level: Level,
    /// `agent.doorbell_port`: the host's vsock port to call before serving.
    pub(crate) doorbell_port: Option<u32>,
    /// `agent.debug_console`: the host gets shells in the guest.
    pub(crate) debug_console: bool,
    /// `agent.debug_console_vport`: the port where upstream's clients expect them; 0: one shell on the guest's console.
    pub(crate) debug_console_port: u32,
    /// `agent.trace`: spans of requests.
    pub(crate) trace: bool,
    /// `agent.trace_port`: where the host reads them; without it, they go to the host's port for that over vsock.
    pub(crate) trace_port: Option<u32>,
    /// `agent.container_pipe_size`: bytes that a container's stdio pipe holds.
    pub(crate) pipe_size: usize,
    /// `agent.hotplug_timeout`: seconds within which a device that a request names must appear.
    pub(crate) hotplug_timeout: Duration,
    /// `agent.image_pull_timeout` (seconds), `agent.https_proxy`, `agent.no_proxy`, and `agent.image_insecure_registries`,
    /// separated by commas: how images are pulled.
    pub(crate) pull: PullOptions,
    /// `KATA_AGENT_CGROUP_ROOT`: a writable cgroup v2 hierarchy, when the agent is not PID 1.
    pub(crate) cgroup_root: Option<PathBuf>,
    /// `KATA_AGENT_OWNS_NETWORK` is set: the network namespace is the agent's to change, although it is not PID 1.
    pub(crate) owns_network: bool,
    /// What was given and not understood, for the log.
    pub(crate) complaints: Vec<String>,
}

/// Holds more than a pump moves at once, so that writer and pump need not alternate.
const DEFAULT_PIPE_SIZE: usize = 1024 * 1024;

/// Upstream's.
const DEFAULT_HOTPLUG_TIMEOUT: Duration = Duration::from_secs(3);

impl Default for Options {
    fn default() -> Self {
        Self {
            server: ServerAddress::Auto,
            log_level: Level::INFO,
            doorbell_port: None,
            debug_console: false,
            debug_console_port: ports::DEBUG_CONSOLE,
            trace: false,
            trace_port: None,
            pipe_size: DEFAULT_PIPE_SIZE,
            hotplug_timeout: DEFAULT_HOTPLUG_TIMEOUT,
            pull: PullOptions::default(),
            cgroup_root: None,
            owns_network: false,
            complaints: Vec::new(),
        }
    }
}

impl Options {
    /// From a kernel command line and the environment, which wins.
    pub(crate) fn new(cmdline: &str, environment: impl Fn(&str) -> Option<String>) -> Self {
        let mut options = Self::default();
        for word in cmdline.split_whitespace() {
            if let Some(option) = word.strip_prefix("agent.") {
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                options.set(name, value);
            }
        }
        for (variable, name) in [
            ("KATA_AGENT_SERVER_ADDR", "server_addr"),
            ("KATA_AGENT_LOG_LEVEL", "log"),
            ("KATA_AGENT_DEBUG_CONSOLE", "debug_console"),
        ] {
            if let Some(value) = environment(variable) {
                options.set(name, &value);
            }
        }
        options.cgroup_root = environment("KATA_AGENT_CGROUP_ROOT").map(PathBuf::from);
        options.owns_network = environment("KATA_AGENT_OWNS_NETWORK").is_some();
        options
    }

    fn set(&mut self, name: &str, value: &str) {
        let understood = match name {
            "server_addr" => parse_address(value).map(|server| self.server = server),
            "log" => parse_level(value).map(|level| self.log_level = level),
            "doorbell_port" => value.parse().ok().map(|port| self.doorbell_port = Some(port)),
            "debug_console" => parse_flag(value).map(|is_on| self.debug_console = is_on),
            "debug_console_vport" => value.parse().ok().map(|port| self.debug_console_port = port),
            "trace" => parse_flag(value).map(|is_on| self.trace = is_on),
            "trace_port" => value.parse().ok().map(|port| self.trace_port = Some(port)),
            "container_pipe_size" => value.parse().ok().map(|size: usize| {
                self.pipe_size = if size == 0 { DEFAULT_PIPE_SIZE } else { size };
            }),
            "hotplug_timeout" => seconds(value).map(|limit| self.hotplug_timeout = limit),
            "image_pull_timeout" => seconds(value).map(|limit| self.pull.timeout = limit),
            "https_proxy" => text(value).map(|proxy| self.pull.https_proxy = Some(proxy)),
            "no_proxy" => text(value).map(|hosts| self.pull.no_proxy = Some(hosts)),
            "image_insecure_registries" => text(value).map(|registries| {
                self.pull.insecure_registries = registries.split(',').map(str::to_owned).collect();
            }),
            _ => {
                self.complaints.push(format!("agent.{name} is not an option of this agent"));
                return;
            }
        };
        if understood.is_none() {
            self.complaints.push(format!("agent.{name} cannot be {value:?}"));
        }
    }
}

fn seconds(value: &str) -> Option<Duration> {
    value.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// A word alone says yes.
fn parse_flag(value: &str) -> Option<bool> {
    match value {
        "" | "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn parse_address(value: &str) -> Option<ServerAddress> {
    let (scheme, rest) = value.split_once("://")?;
    match scheme {
        "vsock" => Some(ServerAddress::Vsock),
        "serial" if rest.is_empty() => Some(ServerAddress::Serial(None)),
        "serial" => Some(ServerAddress::Serial(Some(rest.into()))),
        "unix" if rest.starts_with('/') => Some(ServerAddress::Unix(rest.into())),
        // An abstract name, as unix(7) has it.
        "unix" if rest.len() > 1 => {
            Some(ServerAddress::Unix(rest.strip_prefix('@').map(|name| format!("\0{name}"))?.into()))
        }
        _ => None,
    }
}

/// A level by its name, as upstream writes it.
pub(crate) fn parse_level(value: &str) -> Option<Level> {
    match value {
        "critical" | "error" => Some(Level::ERROR),
        "warn" => Some(Level::WARN),
        "info" => Some(Level::INFO),
        "debug" => Some(Level::DEBUG),
        "trace" => Some(Level::TRACE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_cmdline(cmdline: &str) -> Options {
        Options::new(cmdline, |_| None)
    }

    #[test]
    fn options_are_found_among_the_kernels() {
        let options = from_cmdline("quiet panic=1 agent.log=debug agent.doorbell_port=1028 root=/dev/vda1\n");
        assert_eq!(options.log_level, Level::DEBUG);
        assert_eq!(options.doorbell_port, Some(1028));
        assert!(options.complaints.is_empty());
    }

    #[test]
    fn how_images_are_pulled_is_said_as_upstream_says_it() {
        let options = from_cmdline(
            "agent.image_pull_timeout=7 agent.https_proxy=http://p:1 agent.image_insecure_registries=a:5000,b",
        );
        assert!(options.complaints.is_empty(), "{:?}", options.complaints);
        let pull = options.pull;
        assert_eq!((pull.timeout.as_secs(), pull.https_proxy.as_deref()), (7, Some("http://p:1")));
        assert_eq!((pull.no_proxy, pull.insecure_registries), (None, vec!["a:5000".into(), "b".into()]));
        let refused = from_cmdline("agent.image_pull_timeout=0 agent.image_registry_auth=file:///x");
        assert_eq!(refused.complaints.len(), 2);
    }

    #[test]
    fn the_debug_console_is_off_unless_it_is_asked_for() {
        let options = from_cmdline("agent.debug_console_vport=7");
        assert_eq!((options.debug_console, options.debug_console_port), (false, 7));
        let options = from_cmdline("agent.debug_console");
        assert_eq!((options.debug_console, options.debug_console_port), (true, 1026));
        assert!(!from_cmdline("agent.debug_console agent.debug_console=false").debug_console);
        assert_eq!(from_cmdline("agent.debug_console=maybe").complaints.len(), 1);
    }

    #[test]
    fn spans_are_for_whoever_asks_for_them() {
        let of = |cmdline: &str| {
            let options = from_cmdline(cmdline);
            (options.trace, options.trace_port, options.complaints.len())
        };
        assert_eq!(of("quiet"), (false, None, 0));
        assert_eq!(of("agent.trace=true"), (true, None, 0));
        assert_eq!(of("agent.trace agent.trace_port=1031"), (true, Some(1031), 0));
        assert_eq!(of("agent.trace=isolated agent.trace_port=x"), (false, None, 2));
    }

    #[test]
    fn the_environment_wins() {
        let options = Options::new("agent.server_addr=vsock://-1:1024", |name| {
            (name == "KATA_AGENT_SERVER_ADDR").then(|| "unix:///tmp/a.sock".to_owned())
        });
        assert_eq!(options.server, ServerAddress::Unix("/tmp/a.sock".into()));
    }

    #[test]
    fn a_socket_may_have_no_file() {
        let address = |text: &str| Options::new("", |_| Some(text.to_owned())).server;
        assert_eq!(address("unix://@/tmp/a.sock"), ServerAddress::Unix("\0/tmp/a.sock".into()));
        let usual = from_cmdline("").server;
        assert_eq!([address("unix://@"), address("unix://a")], [usual.clone(), usual]);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let options = from_cmdline("agent.nonsense=1 agent.log=loud");
        assert_eq!(
            options.complaints,
            ["agent.nonsense is not an option of this agent", "agent.log cannot be \"loud\""]
        );
    }

    #[test]
    fn devices_have_three_seconds_to_appear_unless_told_otherwise() {
        assert_eq!(from_cmdline("quiet").hotplug_timeout.as_secs(), 3);
        assert_eq!(from_cmdline("agent.hotplug_timeout=20").hotplug_timeout.as_secs(), 20);
        let wrong = from_cmdline("agent.hotplug_timeout=0");
        assert_eq!((wrong.hotplug_timeout.as_secs(), wrong.complaints.len()), (3, 1));
    }

    #[test]
    fn a_serial_device_may_be_named() {
        assert_eq!(
            from_cmdline("agent.server_addr=serial:///dev/vport0p1").server,
            ServerAddress::Serial(Some("/dev/vport0p1".into()))
        );
        assert_eq!(from_cmdline("agent.server_addr=serial://").server, ServerAddress::Serial(None));
    }
}
