//! What the agent tells the jail, and what the jail answers.
//!
//! The plan is the OCI specification, of a container or as far as a further process has one, as a protobuf message in
//! a memory file; the rest are descriptors, passed by number. The jail and the process it makes answer with lines, see
//! [`Answer`].

use std::borrow::Cow;
use std::io::{self, Write};
use std::os::fd::RawFd;

/// Where the guest's cgroups are.
pub(crate) const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// The option of a mount of cgroups that says that the container shares out its own.
pub(crate) const DELEGATED: &str = "nsdelegate";

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
    /// `create`: the process (a pidfd) whose namespaces are joined where the specification names a path.
    pub(crate) joined: Option<T>,
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
            optional(self.joined),
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
            joined: optional(next()?)?,
        })
    }
}

/// Steps of the new process, by name, and when each was done, in microseconds since the guest's kernel started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps(pub(crate) Vec<(Cow<'static, str>, u64)>);

impl Steps {
    /// This step is done now.
    pub(crate) fn done(&mut self, name: &'static str) {
        self.0.push((name.into(), crate::clock::since_boot()));
    }

    fn read(lines: &str) -> Self {
        let steps = lines.split('\n').filter_map(|line| line.split_once(' '));
        Self(steps.filter_map(|(time, name)| Some((name.to_owned().into(), time.parse().ok()?))).collect())
    }
}

/// One part of the answer: a line, and for some the text behind it. The jail and the process it has made both write
/// to the pipe, each part at once and in any order. The pipe's end without [`Answer::Ready`] means that the process
/// became the workload (exec) or died (create).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// When the jail began, in microseconds since the guest's kernel started.
    Began(u64),
    /// The process has been made: its id in the agent's pid namespace.
    Made(i32),
    /// It waits to become the workload, after these steps.
    Ready(Steps),
    /// It was not made; why, for people.
    Failed(String),
}

impl Answer {
    /// Writes it.
    pub(crate) fn send(&self, mut pipe: impl Write) -> io::Result<()> {
        let line = match self {
            Self::Began(time) => format!("began {time}\n"),
            Self::Made(pid) => format!("made {pid}\n"),
            Self::Ready(Steps(steps)) => {
                let lines: String = steps.iter().map(|(name, time)| format!("{time} {name}\n")).collect();
                format!("ready {}\n{lines}", lines.len())
            }
            Self::Failed(reason) => format!("failed {}\n{reason}", reason.len()),
        };
        pipe.write_all(line.as_bytes())
    }

    /// All complete parts of what has come so far.
    pub(crate) fn read(mut bytes: &[u8]) -> Vec<Self> {
        let mut found = Vec::new();
        while let Some((answer, rest)) = Self::first(bytes) {
            found.push(answer);
            bytes = rest;
        }
        found
    }

    fn first(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
        let (word, number) = line.split_once(' ')?;
        match word {
            "began" => Some((Self::Began(number.parse().ok()?), rest)),
            "made" => Some((Self::Made(number.parse().ok()?), rest)),
            _ => {
                let (text, rest) = rest.split_at_checked(number.parse().ok()?)?;
                let text = String::from_utf8_lossy(text).into_owned();
                let answer =
                    if word == "ready" { Self::Ready(Steps::read(&text)) } else { Self::Failed(text) };
                Some((answer, rest))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Descriptors, Steps};

    #[test]
    fn descriptors_pass_as_arguments() {
        let passed = Descriptors { plan: 3, answer: 4, cgroup: 5, other: 6, console: None, joined: Some(7) };
        let arguments = passed.to_arguments();
        assert_eq!(arguments, ["3", "4", "5", "6", "-", "7"]);
        let read = Descriptors::from_arguments(arguments.into_iter()).expect("complete");
        assert_eq!((read.plan, read.other, read.console, read.joined), (3, 6, None, Some(7)));
        assert!(Descriptors::from_arguments(["3".to_owned()].into_iter()).is_none());
    }

    #[test]
    fn answers_are_read_as_they_come() {
        let mut pipe = Vec::new();
        let ready = || Answer::Ready(Steps(vec![("user and rights".into(), 9)]));
        for answer in [Answer::Began(7), ready(), Answer::Made(8)] {
            answer.send(&mut pipe).expect("a vector takes all");
        }
        assert_eq!(Answer::read(&pipe), [Answer::Began(7), ready(), Answer::Made(8)]);
        assert_eq!(Answer::read(b"began 7\nmade"), [Answer::Began(7)]);
    }

    /// The new process may fail before the jail has said its id: the reason then had that in it.
    #[test]
    fn a_reason_may_have_lines_and_come_between_others() {
        let failed = || Answer::Failed("Cannot mount:\nno".to_owned());
        let mut pipe = Vec::new();
        for answer in [failed(), Answer::Made(8)] {
            answer.send(&mut pipe).expect("a vector takes all");
        }
        assert_eq!(Answer::read(&pipe), [failed(), Answer::Made(8)]);
        assert_eq!(Answer::read(&pipe[..12]), []);
    }
}
