//! Commands that somebody types.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::command::{Line, Parser, Step, Times};
use crate::session::Session;

/// Runs each line of standard input. What is wrong is told, and the next line may be better.
pub(crate) async fn run(session: &mut Session, parser: &Parser) -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut repeat = None;
    loop {
        prompt()?;
        let line = lines.next_line().await.context("Cannot read standard input")?;
        let Some(line) = line else { return Ok(()) };
        let read = parser.line(&line).map(|line| after(&mut repeat, line));
        let done = match read {
            Ok(line) => session.line(line).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(ControlFlow::Break(())) => return Ok(()),
            Ok(ControlFlow::Continue(())) => {}
            Err(error) if error.downcast_ref::<io::Error>().is_some() => return Err(error),
            Err(error) => eprintln!("kata-agent-ctl: {error:#}"),
        }
    }
}

/// A `repeat` alone is for the next command.
fn after(repeat: &mut Option<Times>, line: Line) -> Line {
    match line {
        Line::Repeat(times) => {
            *repeat = Some(times);
            Line::Nothing
        }
        Line::Step(step) => {
            let times = repeat.take().unwrap_or(step.times);
            Line::Step(Step { times, ..step })
        }
        Line::Nothing => Line::Nothing,
    }
}

fn prompt() -> io::Result<()> {
    if !io::stdin().is_terminal() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(b"kata-agent-ctl> ")?;
    stdout.flush()
}
