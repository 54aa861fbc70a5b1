//! A line of a script or a `-c`: a request, or one of the tool's own commands.

use std::time::Duration;

use protobuf::MessageDyn;

use crate::apis::{Api, Apis};
use crate::auto::Auto;
use crate::{arguments, duration, explain, message};

/// The tool is used in a way that it cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// What can be done.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send a request.
    Call(Box<Api>, Box<dyn MessageDyn>),
    /// Print something.
    Print(String),
    /// Wait.
    Sleep(Duration),
    /// End, whatever follows.
    Quit,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// So often.
    Count(u64),
    /// Until the tool is ended.
    Forever,
}

/// A command and how often it is run.
#[derive(Debug)]
pub(crate) struct Step {
    /// How often.
    pub(crate) times: Times,
    /// The command.
    pub(crate) command: Command,
}

/// What a line means.
#[derive(Debug)]
pub(crate) enum Line {
    /// Nothing: it is empty or a comment.
    Nothing,
    /// `repeat N` alone: the next command is run so often.
    Repeat(Times),
    /// This.
    Step(Step),
}

/// Reads lines.
#[derive(Debug)]
pub(crate) struct Parser {
    apis: Apis,
    auto: Auto,
}

impl Parser {
    /// Fills in what `auto` has.
    pub(crate) fn new(auto: Auto) -> Self {
        Self { apis: Apis::new(), auto }
    }

    /// Reads one line.
    pub(crate) fn line(&self, line: &str) -> anyhow::Result<Line> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(Line::Nothing);
        }
        let (name, rest) = first_word(line);
        if !name.eq_ignore_ascii_case("repeat") {
            return Ok(Line::Step(Step { times: Times::Count(1), command: self.command(name, rest)? }));
        }
        let (count, command) = first_word(rest);
        let times = times(count)?;
        match first_word(command) {
            ("", _) => Ok(Line::Repeat(times)),
            (name, _) if name.eq_ignore_ascii_case("repeat") => {
                Err(UsageError("`repeat` cannot repeat itself; multiply the numbers".to_owned()).into())
            }
            (name, rest) => Ok(Line::Step(Step { times, command: self.command(name, rest)? })),
        }
    }

    fn command(&self, name: &str, rest: &str) -> anyhow::Result<Command> {
        Ok(match (name.to_ascii_lowercase().as_str(), rest) {
            ("echo", text) => Command::Print(text.to_owned()),
            ("help", "") => Command::Print(explain::commands()),
            ("help", name) => {
                Command::Print(explain::one(&self.apis, name).ok_or_else(|| self.unknown(name))?)
            }
            ("list", "") => Command::Print(explain::list(&self.apis)),
            ("quit" | "exit", "") => Command::Quit,
            ("sleep", time) => {
                Command::Sleep(duration::parse(time).map_err(|error| UsageError(error.to_string()))?)
            }
            ("list" | "quit" | "exit", _) => {
                return Err(UsageError(format!("`{name}` takes no arguments, not `{rest}`")).into());
            }
            _ => self.call(name, rest)?,
        })
    }

    fn call(&self, name: &str, rest: &str) -> anyhow::Result<Command> {
        let api = self.apis.find(name).ok_or_else(|| self.unknown(name))?;
        let wrong = |error: &dyn std::error::Error| UsageError(format!("{}: {}", api.name(), chain(error)));
        let json = arguments::parse(rest, &api.input).map_err(|error| wrong(&error))?;
        let mut request = message::from_json(&api.input, &json, "request").map_err(|error| wrong(&error))?;
        self.auto.complete(request.as_mut())?;
        Ok(Command::Call(Box::new(api.clone()), request))
    }

    fn unknown(&self, name: &str) -> UsageError {
        let hint = self.apis.nearest(name).map_or_else(String::new, |near| format!("; did you mean {near}?"));
        UsageError(format!("There is no request `{name}`{hint}; `list` prints all"))
    }
}

/// A word, and the rest without the spaces between.
fn first_word(text: &str) -> (&str, &str) {
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim_start()))
}

fn times(text: &str) -> Result<Times, UsageError> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Times::Forever),
        Ok(count) if count > 0 => Ok(Times::Count(count.unsigned_abs())),
        _ => Err(UsageError(format!(
            "`repeat {text}`: write how often, or -1 for ever, and the command or nothing"
        ))),
    }
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::{Command, Line, Parser, Step, Times};
    use crate::auto::Auto;

    fn read(line: &str) -> Result<Line, String> {
        Parser::new(Auto::nothing()).line(line).map_err(|error| format!("{error:#}"))
    }

    fn step(line: &str) -> Step {
        match read(line) {
            Ok(Line::Step(step)) => step,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn empty_lines_and_comments_mean_nothing() {
        for line in ["", "   ", "# Check", "\t#"] {
            assert!(matches!(read(line), Ok(Line::Nothing)), "{line:?}");
        }
    }

    #[test]
    fn a_request_is_read_with_its_arguments() {
        let Command::Call(api, request) = step("StartContainer container_id=c").command else {
            panic!("no call")
        };
        assert_eq!((api.service.as_str(), api.method.as_str()), ("grpc.AgentService", "StartContainer"));
        assert_eq!(request.write_to_bytes_dyn().expect("can be"), b"\x0a\x01c");
    }

    #[test]
    fn repeat_counts_for_its_command_or_for_the_next_line() {
        assert_eq!(step("repeat 3 Check").times, Times::Count(3));
        assert_eq!(step("repeat -1 Check").times, Times::Forever);
        assert!(matches!(read("repeat 7"), Ok(Line::Repeat(Times::Count(7)))));
        for line in ["repeat", "repeat 0 Check", "repeat x Check", "repeat -2", "repeat 2 repeat 3 Check"] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_tools_own_commands_are_read() {
        assert!(matches!(step("quit").command, Command::Quit));
        assert!(matches!(step("sleep 5ms").command, Command::Sleep(time) if time.as_millis() == 5));
        assert!(matches!(step("echo  a  b").command, Command::Print(text) if text == "a  b"));
        assert!(matches!(step("list").command, Command::Print(text) if text.contains("\nWaitProcess\n")));
        assert_eq!(read("list all").unwrap_err(), "`list` takes no arguments, not `all`");
        assert!(read("sleep soon").is_err());
    }

    #[test]
    fn an_unknown_request_is_named_with_the_nearest_known_one() {
        assert_eq!(
            read("StartContaner").unwrap_err(),
            "There is no request `StartContaner`; did you mean StartContainer?; `list` prints all"
        );
        assert_eq!(
            read("help Frobnicate").unwrap_err(),
            "There is no request `Frobnicate`; `list` prints all"
        );
    }

    #[test]
    fn wrong_arguments_are_named_with_their_request() {
        let refusal = read("StartContainer contaner_id=c").unwrap_err();
        assert!(refusal.starts_with("StartContainer: grpc.StartContainerRequest has no field `contaner_id`; did you mean `container_id`?"), "{refusal}");
        let refusal = read("Check json://{\"service\"}").unwrap_err();
        assert!(refusal.starts_with("Check: json://{\"service\"} holds no JSON: expected `:`"), "{refusal}");
    }
}
