//! Between containerd's messages and ours.

use containerd_shim_protos::api::{
    CreateTaskRequest, ExecProcessRequest, PidsResponse, ProcessInfo, StateResponse, StatsResponse,
    Status as TaskStatus,
};
use containerd_shim_protos::shim::oci::ProcessDetails;
use oci_spec::runtime::{LinuxResources, Process};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde::de::DeserializeOwned;
use ttrpc::{Code, get_status};

use crate::backend::{Failure, GuestProcess, Kind, Metrics, State, Status};
use crate::events::{any, timestamp};
use crate::ledger::{Facts, Key};
use crate::stdio::Names;

/// A failure as containerd's errdefs understand it.
pub(super) fn status(failure: Failure) -> ttrpc::Error {
    let code = match failure.kind {
        Kind::NotFound => Code::NOT_FOUND,
        Kind::AlreadyExists => Code::ALREADY_EXISTS,
        Kind::FailedPrecondition => Code::FAILED_PRECONDITION,
        Kind::InvalidArgument => Code::INVALID_ARGUMENT,
        Kind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        Kind::Unimplemented => Code::UNIMPLEMENTED,
        Kind::Unavailable => Code::UNAVAILABLE,
        Kind::Unknown => Code::UNKNOWN,
    };
    ttrpc::Error::RpcStatus(get_status(code, failure.text))
}

/// The streams of a container's first process.
pub(super) fn names_of_create(request: &CreateTaskRequest) -> Names {
    Names {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

/// The streams of another process.
pub(super) fn names_of_exec(request: &ExecProcessRequest) -> Names {
    Names {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

/// The process of an exec: JSON of the OCI runtime specification in an `Any`. Whether it has a terminal is
/// said twice; the request decides, because its streams were opened for that.
pub(super) fn process(spec: Option<&Any>, terminal: bool) -> Result<Process, Failure> {
    let mut process: Process = json(spec, "exec's OCI process")?;
    process.set_terminal(Some(terminal));
    Ok(process)
}

/// New limits of a container, likewise.
pub(super) fn resources(resources: Option<&Any>) -> Result<LinuxResources, Failure> {
    json(resources, "update's OCI resources")
}

fn json<T: DeserializeOwned>(message: Option<&Any>, what: &str) -> Result<T, Failure> {
    let wrong = |text| Failure::new(Kind::InvalidArgument, text);
    let message = message.ok_or_else(|| wrong(format!("The {what} are missing")))?;
    serde_json::from_slice(&message.value)
        .map_err(|error| wrong(format!("The {what} ({}) do not parse: {error}", message.type_url)))
}

/// The answer to `State`.
pub(super) fn state(key: &Key, facts: Facts, state: &State) -> StateResponse {
    let status = match state.status {
        Status::Created => TaskStatus::CREATED,
        Status::Running => TaskStatus::RUNNING,
        Status::Paused => TaskStatus::PAUSED,
        Status::Stopped => TaskStatus::STOPPED,
    };
    let id = if key.exec.is_empty() { &key.container } else { &key.exec };
    StateResponse {
        id: id.clone(),
        exec_id: key.exec.clone(),
        bundle: facts.bundle,
        pid: state.pid,
        status: status.into(),
        stdin: facts.names.stdin,
        stdout: facts.names.stdout,
        stderr: facts.names.stderr,
        terminal: facts.names.terminal,
        exit_status: state.ended.map_or(0, |ended| ended.status),
        exited_at: state.ended.map(|ended| timestamp(ended.at)).into(),
        ..StateResponse::default()
    }
}

/// The answer to `Pids`; which exec a process is stands in its details, as with runc.
pub(super) fn pids(processes: Vec<GuestProcess>) -> PidsResponse {
    let info = |exec: String| {
        let details = ProcessDetails { exec_id: exec, ..ProcessDetails::default() };
        MessageField::some(any("containerd.runc.v1", &details))
    };
    let processes = processes.into_iter().map(|process| ProcessInfo {
        pid: process.pid,
        info: if process.exec.is_empty() { MessageField::none() } else { info(process.exec) },
        ..ProcessInfo::default()
    });
    PidsResponse { processes: processes.collect(), ..PidsResponse::default() }
}

/// The answer to `Stats`.
pub(super) fn stats(metrics: &Metrics) -> StatsResponse {
    let stats = match metrics {
        Metrics::V1(metrics) => any("io.containerd.cgroups.v1", &**metrics),
        Metrics::V2(metrics) => any("io.containerd.cgroups.v2", &**metrics),
    };
    StatsResponse { stats: MessageField::some(stats), ..StatsResponse::default() }
}
