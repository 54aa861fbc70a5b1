//! Figures of pods through containerd's Container Runtime Interface.
//!
//! They are measured by a program of the end-to-end tests (`tests/e2e/src/bin/kata-pod-bench.rs`), which has the client,
//! the networks and the corner of the host for it; it is asked for one measurement at a time, so that different
//! things are measured in turn.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::containers::RUNC;
use crate::containerd::RUNTIME;
use crate::prefix::Prefix;
use crate::process;
use crate::workspace::Workspace;

const PROGRAM: &str = "kata-pod-bench";

/// Bytes that an idle pod takes, as the measuring program tells them.
#[derive(Deserialize)]
pub(crate) struct Footprint {
    pub(crate) shim: u64,
    pub(crate) virtiofsd: u64,
    pub(crate) vmm: u64,
    pub(crate) guest: u64,
}

/// Bits per second that a container sends to the host.
#[derive(Deserialize)]
pub(crate) struct Throughput {
    /// Through the pod's network.
    pub(crate) network: f64,
    /// Over the same pod's TAP device alone.
    pub(crate) tap: f64,
}

/// A containerd with pods of one runtime.
pub(crate) struct Pods {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Pods {
    /// Of the staged runtime.
    pub(crate) fn ours(workspace: &Workspace, prefix: &Prefix) -> Result<Self> {
        Self::of(workspace, prefix, RUNTIME)
    }

    /// Of runc.
    pub(crate) fn of_runc(workspace: &Workspace, prefix: &Prefix) -> Result<Self> {
        Self::of(workspace, prefix, RUNC)
    }

    fn of(workspace: &Workspace, prefix: &Prefix, runtime: &str) -> Result<Self> {
        process::output(workspace.cargo().args(["build", "--package", "kata-e2e", "--bin", PROGRAM]))?;
        let mut command = std::process::Command::new(workspace.target.join("debug").join(PROGRAM));
        command.env("KATA_TEST_STAGE", prefix.root()).env("KATA_TEST_CACHE", &workspace.cache);
        command.env("KATA_E2E_RUNTIME", runtime);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("Standard output was asked for")?);
        Ok(Self { child, requests, answers })
    }

    /// Seconds until a pod and a container in it run.
    pub(crate) fn start(&mut self) -> Result<f64> {
        self.ask("pod")
    }

    /// Seconds until a second container runs in a pod.
    pub(crate) fn second_container(&mut self) -> Result<f64> {
        self.ask("second")
    }

    /// Seconds until so many pods run that are asked for at once.
    pub(crate) fn start_at_once(&mut self, count: u32) -> Result<f64> {
        self.ask(&format!("parallel {count}"))
    }

    /// From a pod to the host.
    pub(crate) fn network_throughput(&mut self) -> Result<Throughput> {
        self.ask("throughput")
    }

    /// What one more idle pod takes.
    pub(crate) fn footprint(&mut self) -> Result<Footprint> {
        self.ask("memory")
    }

    /// Ends containerd; the program fails if anything is left on the host.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.requests.take());
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{PROGRAM} failed ({status})");
        }
        Ok(())
    }

    fn ask<T: DeserializeOwned>(&mut self, what: &str) -> Result<T> {
        let requests = self.requests.as_mut().context("It takes requests until it is stopped")?;
        writeln!(requests, "{what}").with_context(|| format!("{PROGRAM} takes no requests"))?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{PROGRAM} answers {what:?} with {line:?}"))
    }
}
