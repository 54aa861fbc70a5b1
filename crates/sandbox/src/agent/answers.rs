//! What the agent's answers mean in our own terms.

use kata_protocol::{agent as grpc, kata};
use ttrpc::{Code, Status};

use super::Started;
use crate::command::PidInfo;
use crate::console;
use crate::error::{ErrorKind, SandboxError as Error};
use crate::network::json::{Interface, Route};

/// The longest text of the guest that is passed on, in characters.
const MAX_WORDS: usize = 4096;

/// The most phases of the guest's start in a timeline.
const MAX_PHASES: usize = 64;

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
    Error::Agent { action, message: words(status.message()), kind }
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

/// Text of the guest that people will see: no more than they can read, and nothing that controls a terminal.
pub(super) fn words(text: &str) -> String {
    console::printable(text).chars().take(MAX_WORDS).collect()
}

/// Of the guest's phases no more are kept than an agent has.
pub(super) fn started(answer: kata::StartSandboxResponse) -> Started {
    let container = answer.container.unwrap_or_default();
    let phases = answer.phases.into_iter().chain(container.phases).take(MAX_PHASES);
    let phase = |phase: kata::Phase| kata::Phase { name: words(&phase.name), ..phase };
    Started {
        phases: phases.map(phase).collect(),
        version: Some(words(&answer.agent_version)).filter(|version| !version.is_empty()),
    }
}

pub(super) fn pids(answer: kata::PidsResponse) -> Vec<PidInfo> {
    let info = |pid: kata::PidInfo| PidInfo {
        pid: u32::try_from(pid.pid).unwrap_or(0),
        exec: Some(words(&pid.exec_id)).filter(|exec| !exec.is_empty()),
    };
    answer.pids.into_iter().map(info).collect()
}

pub(super) fn interfaces(answer: &grpc::Interfaces) -> Vec<Interface> {
    answer.Interfaces.iter().map(|interface| Interface::told(interface, words)).collect()
}

pub(super) fn routes(answer: &grpc::Routes) -> Vec<Route> {
    answer.Routes.iter().map(|route| Route::told(route, words)).collect()
}

#[cfg(test)]
mod tests {
    use kata_protocol::kata;
    use ttrpc::{Code, get_status};

    use super::{MAX_PHASES, MAX_WORDS, refusal, started};

    /// The guest's words went to the user's terminal as they were, with whatever controls it, and of any length.
    #[test]
    fn the_guests_words_do_not_control_a_terminal() {
        let status = get_status(Code::NOT_FOUND, format!("\u{1b}]0;x\u{7}No\u{9b}1m{}", "o".repeat(1 << 20)));
        let text = refusal("start the container", &status).to_string();
        assert!(text.contains("0;xNo1mooo") && !text.contains(char::is_control), "{text}");
        assert!(text.len() < 2 * MAX_WORDS);
        let phase = || kata::Phase { name: "\u{1b}[2Jmount".into(), ..Default::default() };
        let answer = kata::StartSandboxResponse {
            agent_version: "1\u{8}2".into(),
            phases: vec![phase(); 100_000],
            ..Default::default()
        };
        let started = started(answer);
        assert_eq!((started.version.as_deref(), started.phases.len()), (Some("12"), MAX_PHASES));
        assert_eq!(started.phases[0].name, "mount");
    }
}
