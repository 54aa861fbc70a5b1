//! What the fuzz targets in `fuzz/` call: readers of what containerd, and through it its client, hands over. Behind the
//! feature `fuzzing`, and no interface for anybody else.

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use crate::stdio::fuzzing::destination;

use protobuf::well_known_types::any::Any;

use crate::args::{self, Command, Identity};
use crate::cri::PodConfig;
use crate::pod::Role;
use crate::{bootstrap, decorate, pod};

/// What `start` was told.
#[derive(Debug, PartialEq, Eq)]
pub struct StartRequest {
    /// It wants a protobuf as its answer.
    pub protobuf: bool,
    /// containerd's ttRPC socket.
    pub ttrpc_address: Option<String>,
    /// The directory for the socket.
    pub socket_dir: Option<PathBuf>,
    /// The configuration file.
    pub config: Option<PathBuf>,
}

/// Reads the standard input of `start` for a container.
///
/// # Errors
/// As told to the user.
pub fn start_request(bytes: &[u8], namespace: &str, id: &str) -> Result<StartRequest, String> {
    let identity = Identity { namespace: namespace.to_owned(), id: id.to_owned(), ..Identity::default() };
    let request = bootstrap::parse(bytes, &identity).map_err(|error| error.to_string())?;
    Ok(StartRequest {
        protobuf: request.protobuf,
        ttrpc_address: request.ttrpc_address,
        socket_dir: request.socket_dir,
        config: request.config,
    })
}

/// Reads a command line; the namespace and the id of whom it is about, if it is about somebody.
#[must_use]
pub fn command_line(words: Vec<String>, serving: bool) -> Option<(String, String)> {
    match args::parse(words, serving) {
        Ok(Command::Start(whom) | Command::Delete(whom) | Command::Serve(whom)) => {
            Some((whom.namespace, whom.id))
        }
        Ok(Command::Info | Command::Version | Command::Help) | Err(_) => None,
    }
}

/// The annotations of a `config.json`, and the sandbox in whose VM its container runs, if not in its own.
///
/// # Errors
/// As told to the user.
pub fn role(config: &[u8]) -> Result<(BTreeMap<String, String>, Option<String>), String> {
    let annotations = pod::annotations_in(config).map_err(|error| error.to_string())?;
    match pod::role(&annotations).map_err(|error| error.to_string())? {
        Role::Owner => Ok((annotations, None)),
        Role::Member { sandbox } => Ok((annotations, Some(sandbox))),
    }
}

/// The names of the annotations that are taken from a pod's configuration in `CreateSandbox`.
///
/// # Errors
/// As told to the user.
pub fn pod_annotations(value: &[u8]) -> Result<Vec<String>, String> {
    let type_url = "runtime.v1.PodSandboxConfig".to_owned();
    let any = Any { type_url, value: value.to_vec(), ..Any::default() };
    let config = PodConfig::from_any(&any).map_err(|error| error.to_string())?;
    Ok(config.annotations.into_keys().collect())
}

/// The container and the process that a request of the task API is about.
#[must_use]
pub fn subject(method: &str, payload: &[u8]) -> (String, String) {
    decorate::subject(method, payload)
}
