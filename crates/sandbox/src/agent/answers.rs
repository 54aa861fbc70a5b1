//! What the agent's answers mean in our own terms.

use kata_protocol::kata;
use ttrpc::{Code, Status};

use crate::command::PidInfo;
use crate::error::{ErrorKind, SandboxError as Error};

/// An answer that is an error.
pub(super) fn refusal(action: &'static str, status: &Status) -> Error {
    let kind = match status.code() {
        Code::NOT_FOUND => ErrorKind::NotFound,
        Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Code::FAILED_PRECONDITION => ErrorKind::FailedPrecondition,
        Code::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
        Code::DEADLINE_EXCEEDED => ErrorKind::DeadlineExceeded,
        Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
        Code::UNAVAILABLE => ErrorKind::Unavailable,
        _ => ErrorKind::Unknown,
    };
    Error::Agent { action, message: status.message().to_owned(), kind }
}

/// No answer, because the connection broke.
pub(super) fn broken(action: &'static str, error: &ttrpc::Error) -> Error {
    Error::Agent {
        action,
        message: format!("the connection to it broke ({error})"),
        kind: ErrorKind::Unavailable,
    }
}

/// The agent does not know the service `kata.v1` at all. ttRPC's implementations say so in different ways; none
/// of them takes the service's name into an answer of the service itself.
pub(super) fn is_foreign(error: &Error) -> bool {
    match error {
        Error::Agent { kind: ErrorKind::Unimplemented, .. } => true,
        Error::Agent { kind: ErrorKind::NotFound | ErrorKind::InvalidArgument, message, .. } => {
            message.contains("kata.v1.Sandbox")
        }
        _ => false,
    }
}

pub(super) fn pids(answer: kata::PidsResponse) -> Vec<PidInfo> {
    let info = |pid: kata::PidInfo| PidInfo {
        pid: u32::try_from(pid.pid).unwrap_or(0),
        exec: Some(pid.exec_id).filter(|exec| !exec.is_empty()),
    };
    answer.pids.into_iter().map(info).collect()
}
