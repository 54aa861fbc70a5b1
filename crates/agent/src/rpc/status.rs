//! Errors as ttRPC statuses.

use ttrpc::{Code, get_status};

use crate::agent::SandboxError;
use crate::block::BlockError;
use crate::container::ContainerError;
use crate::container::devices::DeviceError;
use crate::id::InvalidId;
use crate::image::PullError;
use crate::network::{IpTablesError, NetworkError};
use crate::report::chain;
use crate::resources::ResourceError;
use crate::storage::StorageError;
use crate::storage::growth::GrowthError;
use crate::storage::usage::UsageError;
use crate::swap::SwapError;

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
            SandboxError::CalledOff { .. } => Code::CANCELLED,
            SandboxError::NoCgroups | SandboxError::NotOwned { .. } => Code::FAILED_PRECONDITION,
            SandboxError::Unsupported { .. } | SandboxError::LogLevel { .. } => Code::INVALID_ARGUMENT,
            SandboxError::Spec(_) | SandboxError::Ids(_) => Code::INVALID_ARGUMENT,
            SandboxError::Container(inner) => container_code(inner),
            SandboxError::Storage(inner) => storage_code(inner),
            SandboxError::Pull(inner) => pull_code(inner),
            SandboxError::Growth(inner) => growth_code(inner),
            SandboxError::Usage(UsageError::Absent { .. }) => Code::NOT_FOUND,
            SandboxError::Device(DeviceError::Block(inner)) => block_code(inner),
            SandboxError::Device(_) => Code::INVALID_ARGUMENT,
            SandboxError::Network(inner) => network_code(inner),
            SandboxError::Swap(SwapError::Block(inner)) => block_code(inner),
            SandboxError::Swap(SwapError::Refused { .. }) => Code::INTERNAL,
            SandboxError::Resource(inner) => resource_code(inner),
            SandboxError::Hook(_)
            | SandboxError::Part(_)
            | SandboxError::Usage(_)
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

fn pull_code(error: &PullError) -> Code {
    match error {
        PullError::NoProgram { .. } => Code::FAILED_PRECONDITION,
        PullError::Option { .. } => Code::INVALID_ARGUMENT,
        PullError::Timeout { .. } => Code::DEADLINE_EXCEEDED,
        PullError::CalledOff { .. } => Code::CANCELLED,
        PullError::Run(_) | PullError::Failed { .. } => Code::INTERNAL,
    }
}

fn storage_code(error: &StorageError) -> Code {
    match error {
        StorageError::Driver { .. }
        | StorageError::Path { .. }
        | StorageError::NoFileSystem { .. }
        | StorageError::FileSystem { .. }
        | StorageError::Option { .. }
        | StorageError::Block(BlockError::Address { .. } | BlockError::Other { .. }) => {
            Code::INVALID_ARGUMENT
        }
        StorageError::Block(BlockError::Absent { .. }) | StorageError::NoMemory { .. } => Code::NOT_FOUND,
        StorageError::Taken { .. } => Code::ALREADY_EXISTS,
        _ => Code::INTERNAL,
    }
}

fn block_code(error: &BlockError) -> Code {
    match error {
        BlockError::Address { .. } | BlockError::Other { .. } => Code::INVALID_ARGUMENT,
        BlockError::Absent { .. } => Code::NOT_FOUND,
        BlockError::Watch(_) => Code::INTERNAL,
    }
}

fn growth_code(error: &GrowthError) -> Code {
    match error {
        GrowthError::Absent { .. } => Code::NOT_FOUND,
        GrowthError::NoDisk { .. } | GrowthError::Kind { .. } | GrowthError::Shrink { .. } => {
            Code::INVALID_ARGUMENT
        }
        GrowthError::Disk { .. } => Code::FAILED_PRECONDITION,
        _ => Code::INTERNAL,
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

fn resource_code(error: &ResourceError) -> Code {
    match error {
        ResourceError::Missing { .. } => Code::DEADLINE_EXCEEDED,
        ResourceError::NoProbe { .. } => Code::FAILED_PRECONDITION,
        ResourceError::File { .. } | ResourceError::Watch(_) => Code::INTERNAL,
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
