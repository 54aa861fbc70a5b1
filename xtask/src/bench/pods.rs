//! Figures of pods through containerd's Container Runtime Interface, measured by `kata-pod-bench`.

use anyhow::Result;
use serde::Deserialize;

use super::backing;
use super::containers::RUNC;
use super::program::{Bench, Program};
use crate::containerd::RUNTIME;

const PROGRAM: &str = "kata-pod-bench";

/// Bytes that an idle pod takes, as the measuring program tells them.
#[derive(Deserialize)]
pub(crate) struct Footprint {
    pub(crate) shim: u64,
    pub(crate) virtiofsd: u64,
    pub(crate) vmm: u64,
    pub(crate) guest: u64,
}

/// What an idle pod does, all host processes together.
#[derive(Deserialize)]
pub(crate) struct Idleness {
    /// CPU time in each second, in milliseconds.
    pub(crate) cpu_ms: f64,
    /// How often each second the thread wakes that wakes most.
    pub(crate) wakeups: f64,
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
pub(crate) struct Pods(Program);

impl Pods {
    /// Of the staged runtime.
    pub(crate) fn ours(bench: &Bench<'_>) -> Result<Self> {
        Ok(Self(Program::start(PROGRAM, bench, RUNTIME)?))
    }

    /// Of runc.
    pub(crate) fn of_runc(bench: &Bench<'_>) -> Result<Self> {
        Ok(Self(Program::start(PROGRAM, bench, RUNC)?))
    }

    /// Seconds until a pod and a container in it run.
    pub(crate) fn start(&mut self) -> Result<f64> {
        backing::obtain(1)?;
        self.0.ask("pod")
    }

    /// Seconds until a second container runs in a pod.
    pub(crate) fn second_container(&mut self) -> Result<f64> {
        self.0.ask("second")
    }

    /// Seconds until so many pods run that are asked for at once.
    pub(crate) fn start_at_once(&mut self, count: u32) -> Result<f64> {
        backing::obtain(count)?;
        self.0.ask(&format!("parallel {count}"))
    }

    /// From a pod to the host.
    pub(crate) fn network_throughput(&mut self) -> Result<Throughput> {
        self.0.ask("throughput")
    }

    /// Seconds until a container has one CPU and 1 GiB more than its VM has booted with.
    pub(crate) fn hotplug(&mut self) -> Result<f64> {
        self.0.ask("hotplug")
    }

    /// Seconds that an update of a container's limits takes which needs nothing of its VM.
    pub(crate) fn update(&mut self) -> Result<f64> {
        self.0.ask("update")
    }

    /// What one more idle pod takes.
    pub(crate) fn footprint(&mut self) -> Result<Footprint> {
        self.0.ask("memory")
    }

    /// What an idle pod does.
    pub(crate) fn idleness(&mut self) -> Result<Idleness> {
        self.0.ask("idle")
    }

    /// Ends containerd; the program fails if anything is left on the host.
    pub(crate) fn stop(self) -> Result<()> {
        self.0.stop()
    }
}
