//! Errors as ttRPC statuses.

use ttrpc::{Code, get_status};

use crate::agent::SandboxError;
use crate::container::ContainerError;
use crate::id::InvalidId;
use crate::network::{IpTablesError, NetworkError};
use crate::report::chain;

/// An error with the code that tells callers what kind it is.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    message: String,
}

impl Failure {
    /// The request itself is wrong.
    pub(super) fn invalid(error: &dyn std::error::Error) -> Self {
        Self { code: Code::INVALID_ARGUMENT, message: chain(error) }
    }

    /// The request is wrong, in the words of `message`.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self { code: Code::INVALID_ARGUMENT, message: message.into() }
    }
}

impl From<Failure> for ttrpc::Error {
    fn from(failure: Failure) -> Self {
        Self::RpcStatus(get_status(failure.code, failure.message))
    }
}

impl From<InvalidId> for Failure {
    fn from(error: InvalidId) -> Self {
        Self::invalid(&error)
    }
}

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Self {
        let code = match &error {
            SandboxError::NoContainer { .. } => Code::NOT_FOUND,
            SandboxError::Exists { .. } => Code::ALREADY_EXISTS,
            SandboxError::NoCgroups | SandboxError::NotOwned { .. } => Code::FAILED_PRECONDITION,
            SandboxError::Unsupported { .. } => Code::INVALID_ARGUMENT,
            SandboxError::Spec(_) | SandboxError::Ids(_) => Code::INVALID_ARGUMENT,
            SandboxError::Container(inner) => container_code(inner),
            SandboxError::Network(inner) => network_code(inner),
            SandboxError::Hook(_)
            | SandboxError::Storage(_)
            | SandboxError::Part(_)
            | SandboxError::Setting { .. } => Code::INTERNAL,
        };
        Self { code, message: chain(&error) }
    }
}

impl From<ContainerError> for Failure {
    fn from(error: ContainerError) -> Self {
        Self { code: container_code(&error), message: chain(&error) }
    }
}

impl From<crate::stdio::StdioError> for Failure {
    fn from(error: crate::stdio::StdioError) -> Self {
        ContainerError::from(error).into()
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        SandboxError::from(error).into()
    }
}

fn network_code(error: &NetworkError) -> Code {
    match error {
        NetworkError::Invalid(_) => Code::INVALID_ARGUMENT,
        NetworkError::Absent { .. } | NetworkError::NoDevice { .. } => Code::NOT_FOUND,
        NetworkError::IpTables(IpTablesError::Missing { .. }) => Code::FAILED_PRECONDITION,
        _ => Code::INTERNAL,
    }
}

fn container_code(error: &ContainerError) -> Code {
    use crate::stdio::StdioError as Stdio;
    match error {
        ContainerError::State { .. } | ContainerError::NoTerminal { .. } => Code::FAILED_PRECONDITION,
        ContainerError::NoProcess { .. } | ContainerError::Removed => Code::NOT_FOUND,
        ContainerError::ProcessExists { .. } => Code::ALREADY_EXISTS,
        ContainerError::Stdio(Stdio::EndOfFile { .. }) => Code::OUT_OF_RANGE,
        ContainerError::Stdio(Stdio::NotPolled { .. }) => Code::FAILED_PRECONDITION,
        _ => Code::INTERNAL,
    }
}
