//! Where commands come from: `-c`, `-f`, `@FILE`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;
use clap::ArgMatches;

use crate::cli::ConnectArgs;
use crate::command::{Line, Parser, Step, Times, UsageError};

/// Which option a command comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `-c`
    Command,
    /// `-f`
    File,
}

/// The options in the order of the command line.
pub(crate) fn order(matches: &ArgMatches) -> Vec<Kind> {
    let places = |id: &str, kind: Kind| {
        matches.indices_of(id).into_iter().flatten().map(move |index| (index, kind)).collect::<Vec<_>>()
    };
    let all = [places("commands", Kind::Command), places("files", Kind::File)].concat();
    all.into_iter().collect::<BTreeMap<_, _>>().into_values().collect()
}

/// All commands, in order.
pub(crate) fn steps(args: &ConnectArgs, order: &[Kind], parser: &Parser) -> anyhow::Result<Vec<Step>> {
    let (mut commands, mut files) = (args.commands.iter(), args.files.iter());
    let mut reader = Reader { parser, steps: Vec::new(), repeat: None };
    for kind in order {
        match kind {
            Kind::File => files.next().map_or(Ok(()), |file| reader.file(file))?,
            Kind::Command => commands.next().map_or(Ok(()), |command| match command.strip_prefix('@') {
                Some(file) => reader.file(Path::new(file)),
                None => reader.line(command),
            })?,
        }
    }
    reader.end()
}

/// Collects steps.
struct Reader<'a> {
    parser: &'a Parser,
    steps: Vec<Step>,
    /// A `repeat` that waits for its command.
    repeat: Option<Times>,
}

impl Reader<'_> {
    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        match self.parser.line(line)? {
            Line::Nothing => {}
            Line::Repeat(times) => self.repeat = Some(times),
            Line::Step(mut step) => {
                if let Some(times) = self.repeat.take() {
                    if step.times != Times::Count(1) {
                        return Err(UsageError("`repeat` cannot repeat itself".to_owned()).into());
                    }
                    step.times = times;
                }
                self.steps.push(step);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = read(path)?;
        for (index, line) in text.lines().enumerate() {
            self.line(line).with_context(|| format!("{}:{}", path.display(), index + 1))?;
        }
        Ok(())
    }

    fn end(self) -> anyhow::Result<Vec<Step>> {
        match self.repeat {
            Some(_) => Err(UsageError("After `repeat` there is no command to repeat".to_owned()).into()),
            None => Ok(self.steps),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).context("Cannot read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("Cannot read {}", path.display()))
}
