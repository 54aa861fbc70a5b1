//! What containerd says on standard input of `start`, and in which form it wants the answer.
//!
//! containerd up to 2.2 sends the runtime options (a `google.protobuf.Any`) or nothing, and understands a
//! bare address (task API v2). From 2.3 it sends `BootstrapParams` and understands `BootstrapResult`
//! (task API v3). Both forms parse as each other, so what decides is whether the parameters name the
//! same container as the command line does (containerd's own shim decides so, too).

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use rustix::event::{PollFd, PollFlags, poll};

use crate::args::Identity;
use crate::options::{self, Options};

/// containerd writes at once and closes; whoever else holds our standard input open does not stop us.
const PATIENCE: Duration = Duration::from_secs(2);
/// No options are as long as this.
const LIMIT: usize = 10 << 20;

/// What was said on standard input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Answer with a protobuf instead of a bare address.
    pub(crate) protobuf: bool,
    /// containerd's ttRPC address, when it came this way and not in the environment.
    pub(crate) ttrpc_address: Option<String>,
    /// Where the socket goes, instead of the default place.
    pub(crate) socket_dir: Option<PathBuf>,
    /// The configuration file that containerd's configuration or client names.
    pub(crate) config: Option<PathBuf>,
    /// More log than usual is wanted.
    pub(crate) debug: bool,
}

/// Standard input cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    /// Reading failed.
    #[error("Cannot read the start parameters from standard input; check containerd")]
    Read(#[source] io::Error),
    /// The runtime options are not what their type says.
    #[error("The runtime options that containerd sent are unusable")]
    Options(#[source] options::OptionsError),
}

/// Reads standard input to its end, but never waits long for it.
///
/// # Errors
/// The system's, when reading.
pub(crate) fn read(input: &File) -> Result<Vec<u8>, BootstrapError> {
    if input.is_terminal() {
        return Ok(Vec::new());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while bytes.len() < LIMIT && readable(input, deadline).map_err(BootstrapError::Read)? {
        match (&*input).read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BootstrapError::Read(error)),
        }
    }
    Ok(bytes)
}

/// Waits for bytes or the end; false when the time is up.
fn readable(input: &File, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Understands what was read.
///
/// # Errors
/// Runtime options of a type that is ours and that do not parse.
pub(crate) fn parse(bytes: &[u8], identity: &Identity) -> Result<Request, BootstrapError> {
    if bytes.is_empty() {
        return Ok(Request::default());
    }
    match BootstrapParams::parse_from_bytes(bytes) {
        Ok(params) if params.instance_id == identity.id && params.namespace == identity.namespace => {
            from_params(&params)
        }
        _ => match Any::parse_from_bytes(bytes) {
            Ok(any) => Ok(Request { config: config(&any)?, ..Request::default() }),
            // Some other protocol's words: not ours to judge, and nothing in it that we need.
            Err(_) => Ok(Request::default()),
        },
    }
}

fn from_params(params: &BootstrapParams) -> Result<Request, BootstrapError> {
    let mut found = None;
    for extension in &params.extensions {
        if let Some(any) = extension.value.as_ref() {
            found = found.or(config(any)?);
        }
    }
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Ok(Request {
        protobuf: true,
        ttrpc_address: given(&params.containerd_ttrpc_address),
        socket_dir: params.socket_dir.as_deref().and_then(given).map(PathBuf::from),
        config: found,
        debug: params.log_level.value() < 0,
    })
}

fn config(any: &Any) -> Result<Option<PathBuf>, BootstrapError> {
    Ok(Options::from_any(any).map_err(BootstrapError::Options)?.config_path)
}

/// The answer to `start`, in the form that was asked for.
#[must_use]
pub(crate) fn reply(address: &str, protobuf: bool) -> Vec<u8> {
    if !protobuf {
        return address.as_bytes().to_vec();
    }
    let result = BootstrapResult {
        version: containerd_shim_protos::TASK_API_VERSION,
        address: address.to_owned(),
        protocol: "ttrpc".to_owned(),
        ..BootstrapResult::default()
    };
    result.write_to_bytes().expect("a message in memory always serialises")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::path::Path;
    use std::time::Instant;

    use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
    use protobuf::well_known_types::any::Any;
    use protobuf::{Message, MessageField};

    use super::{PATIENCE, Request, parse, read, reply};
    use crate::args::Identity;

    fn identity() -> Identity {
        Identity { namespace: "default".into(), id: "web".into(), ..Identity::default() }
    }

    /// `runtimeoptions.v1.Options { config_path = 2 }` as containerd 1.6 sends it.
    fn options(path: &str) -> Any {
        let mut value = vec![0x12, u8::try_from(path.len()).unwrap()];
        value.extend_from_slice(path.as_bytes());
        Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Any::default() }
    }

    #[test]
    fn nothing_means_a_bare_address() {
        assert_eq!(parse(b"", &identity()).unwrap(), Request::default());
        assert_eq!(reply("unix:///run/s", false), b"unix:///run/s");
    }

    #[test]
    fn runtime_options_are_not_bootstrap_parameters() {
        let request = parse(&options("/etc/kata.toml").write_to_bytes().unwrap(), &identity()).unwrap();
        assert!(!request.protobuf);
        assert_eq!(request.config.as_deref(), Some(Path::new("/etc/kata.toml")));
    }

    #[test]
    fn options_of_another_runtime_are_passed_over() {
        let any = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![8, 1], ..Any::default() };
        assert_eq!(parse(&any.write_to_bytes().unwrap(), &identity()).unwrap(), Request::default());
    }

    #[test]
    fn bootstrap_parameters_are_answered_in_kind() {
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "default".into(),
            containerd_ttrpc_address: "unix:///run/containerd.ttrpc".into(),
            socket_dir: Some("/run/s".into()),
            log_level: protobuf::EnumOrUnknown::from_i32(-4),
            extensions: vec![Extension {
                value: MessageField::some(options("/k.toml")),
                ..Extension::default()
            }],
            ..BootstrapParams::default()
        };
        let request = parse(&params.write_to_bytes().unwrap(), &identity()).unwrap();
        assert!(request.protobuf && request.debug);
        assert_eq!(request.ttrpc_address.as_deref(), Some("unix:///run/containerd.ttrpc"));
        assert_eq!(request.socket_dir.as_deref(), Some(Path::new("/run/s")));
        assert_eq!(request.config.as_deref(), Some(Path::new("/k.toml")));

        let result = BootstrapResult::parse_from_bytes(&reply("unix:///run/s/x", true)).unwrap();
        assert_eq!(
            (result.version, result.address.as_str(), result.protocol.as_str()),
            (3, "unix:///run/s/x", "ttrpc")
        );
    }

    #[test]
    fn noise_is_no_error() {
        assert_eq!(parse(&[0xff; 7], &identity()).unwrap(), Request::default());
    }

    #[test]
    fn an_open_pipe_does_not_block_for_ever() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"half").unwrap();
        let begun = Instant::now();
        assert_eq!(read(&File::from(std::os::fd::OwnedFd::from(reader))).unwrap(), b"half");
        assert!(begun.elapsed() < PATIENCE * 3);
    }

    #[test]
    fn a_closed_pipe_and_dev_null_end_at_once() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"all").unwrap();
        drop(writer);
        let begun = Instant::now();
        assert_eq!(read(&File::from(std::os::fd::OwnedFd::from(reader))).unwrap(), b"all");
        assert_eq!(read(&File::open("/dev/null").unwrap()).unwrap(), b"");
        assert!(begun.elapsed() < PATIENCE);
    }
}
