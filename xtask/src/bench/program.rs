//! A measuring program of the end-to-end tests (`tests/e2e/src/bin`), which has the clients, the networks and the corner of
//! the host that measurements need. It is asked for one at a time, so that different things are measured in turn.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::prefix::Prefix;
use crate::process;
use crate::workspace::Workspace;

/// What measuring programs need of this workspace.
pub(crate) struct Bench<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) prefix: &'a Prefix,
    /// The static program that works in containers.
    pub(crate) probe: &'a Path,
}

/// A running program.
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it for containers of one runtime.
    pub(crate) fn start(name: &'static str, bench: &Bench<'_>, runtime: &str) -> Result<Self> {
        let Bench { workspace, prefix, probe } = bench;
        process::output(workspace.cargo().args(["build", "--package", "kata-e2e", "--bin", name]))?;
        let mut command = Command::new(workspace.target.join("debug").join(name));
        command.env("KATA_TEST_STAGE", prefix.root()).env("KATA_TEST_CACHE", &workspace.cache);
        command.env("KATA_E2E_RUNTIME", runtime).env("KATA_TEST_PROBE", probe);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("Standard output was asked for")?);
        Ok(Self { name, child, requests, answers })
    }

    /// One measurement.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, what: &str) -> Result<T> {
        let (name, requests) = (self.name, self.requests.as_mut());
        let requests = requests.context("It takes requests until it is stopped")?;
        writeln!(requests, "{what}").with_context(|| format!("{name} takes no requests"))?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{name} answers {what:?} with {line:?}"))
    }

    /// Ends its containerd; the program fails if anything is left on the host.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.requests.take());
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{} failed ({status})", self.name);
        }
        Ok(())
    }
}
