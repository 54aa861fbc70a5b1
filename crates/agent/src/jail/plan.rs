//! What the agent tells the jail, and what the jail answers.
//!
//! The plan is the OCI specification (of a container) or its `process` (of a further process) as a protobuf message in
//! a memory file; the rest are descriptors, passed by number. The jail and the process it makes answer with lines, see
//! [`Answer`].

use std::io::{self, Write};
use std::os::fd::RawFd;

/// Where the guest's cgroups are.
pub(crate) const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// Stands for a descriptor that is not passed.
const NONE: &str = "-";

/// Descriptors of one job, in the order in which they are passed. `T` is a number on one side, and owned on the other.
#[derive(Debug)]
pub(crate) struct Descriptors<T> {
    /// The memory file with the message.
    pub(crate) plan: T,
    /// The pipe for the answer.
    pub(crate) answer: T,
    /// The container's cgroup.
    pub(crate) cgroup: T,
    /// `create`: the pipe that says when to become the workload. `exec`: the container's first process (a pidfd).
    pub(crate) other: T,
    /// The socket that is sent the terminal, if the process has one.
    pub(crate) console: Option<T>,
    /// `create`: the pid namespace to join instead of making one.
    pub(crate) pid_namespace: Option<T>,
}

impl Descriptors<RawFd> {
    /// As arguments of a program.
    pub(crate) fn to_arguments(&self) -> [String; 6] {
        let optional = |fd: Option<RawFd>| fd.map_or_else(|| NONE.to_owned(), |fd| fd.to_string());
        [
            self.plan.to_string(),
            self.answer.to_string(),
            self.cgroup.to_string(),
            self.other.to_string(),
            optional(self.console),
            optional(self.pid_namespace),
        ]
    }

    /// Reads them back; `None` if something else stands there.
    pub(crate) fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut next = || arguments.next();
        let number = |text: String| text.parse().ok();
        let optional = |text: String| if text == NONE { Some(None) } else { number(text).map(Some) };
        Some(Self {
            plan: number(next()?)?,
            answer: number(next()?)?,
            cgroup: number(next()?)?,
            other: number(next()?)?,
            console: optional(next()?)?,
            pid_namespace: optional(next()?)?,
        })
    }
}

/// One line of the answer. The pipe's end without [`Answer::Ready`] means that the process became the workload (exec)
/// or died (create).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// When the jail began, in microseconds since the guest's kernel started.
    Began(u64),
    /// The process has been made: its id in the agent's pid namespace.
    Made(i32),
    /// It waits to become the workload.
    Ready,
    /// It was not made; why, for people. The last line, with all that follows it.
    Failed(String),
}

impl Answer {
    /// Writes the line.
    pub(crate) fn send(&self, mut pipe: impl Write) -> io::Result<()> {
        let line = match self {
            Self::Began(time) => format!("began {time}\n"),
            Self::Made(pid) => format!("made {pid}\n"),
            Self::Ready => "ready\n".to_owned(),
            Self::Failed(reason) => format!("failed {reason}"),
        };
        pipe.write_all(line.as_bytes())
    }

    /// All lines of what has come so far, the last one only if it is complete, or if `ended`.
    pub(crate) fn read(text: &str, ended: bool) -> Vec<Self> {
        let mut found = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(reason) = rest.strip_prefix("failed ") {
                if ended {
                    found.push(Self::Failed(reason.to_owned()));
                }
                break;
            }
            let Some((line, next)) = rest.split_once('\n') else { break };
            rest = next;
            found.extend(Self::of(line));
        }
        found
    }

    fn of(line: &str) -> Option<Self> {
        if line == "ready" {
            return Some(Self::Ready);
        }
        let (word, number) = line.split_once(' ')?;
        match word {
            "began" => number.parse().ok().map(Self::Began),
            "made" => number.parse().ok().map(Self::Made),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Descriptors};

    #[test]
    fn descriptors_pass_as_arguments() {
        let passed =
            Descriptors { plan: 3, answer: 4, cgroup: 5, other: 6, console: None, pid_namespace: Some(7) };
        let arguments = passed.to_arguments();
        assert_eq!(arguments, ["3", "4", "5", "6", "-", "7"]);
        let read = Descriptors::from_arguments(arguments.into_iter()).expect("complete");
        assert_eq!((read.plan, read.other, read.console, read.pid_namespace), (3, 6, None, Some(7)));
        assert!(Descriptors::from_arguments(["3".to_owned()].into_iter()).is_none());
    }

    #[test]
    fn answers_are_lines() {
        let mut pipe = Vec::new();
        for answer in [Answer::Began(7), Answer::Made(8), Answer::Ready] {
            answer.send(&mut pipe).expect("a vector takes all");
        }
        let text = String::from_utf8(pipe).expect("is text");
        assert_eq!(Answer::read(&text, false), [Answer::Began(7), Answer::Made(8), Answer::Ready]);
        assert_eq!(Answer::read("began 7\nmade", false), [Answer::Began(7)]);
    }

    #[test]
    fn a_reason_may_have_several_lines_and_is_complete_at_the_end() {
        let text = "made 8\nfailed Cannot mount:\nno";
        assert_eq!(Answer::read(text, false), [Answer::Made(8)]);
        assert_eq!(
            Answer::read(text, true),
            [Answer::Made(8), Answer::Failed("Cannot mount:\nno".to_owned())]
        );
    }
}
