//! What the agent is asked for: in words, for errors; by the names of upstream's requests, for metrics; and how long it took.

use std::sync::OnceLock;
use std::time::Instant;

use kata_metrics::Histogram;

/// A request to the agent. Where the agent has one of our own and one of upstream's, both mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    StartSandbox,
    Create,
    Start,
    Exec,
    Wait,
    OutOfMemory,
    Signal,
    Remove,
    Pause,
    Resume,
    Update,
    Resize,
    Pids,
    Stats,
    Metrics,
    Interfaces,
    Routes,
    PacketFilter,
    SetPacketFilter,
    Neighbors,
    SetInterface,
    SetRoutes,
    SetClock,
    Seed,
    ReadOutput,
    WriteInput,
    CloseInput,
    VolumeStats,
    ResizeVolume,
    NextWatches,
    HostChanged,
    LogLevel,
    Resources,
    AddSwap,
    AddSwapPath,
}

/// In the order of the enum.
const ACTIONS: [(Action, &str, &str); 35] = [
    (Action::StartSandbox, "start the sandbox", "grpc.CreateSandboxRequest"),
    (Action::Create, "create the container", "grpc.CreateContainerRequest"),
    (Action::Start, "start the container", "grpc.StartContainerRequest"),
    (Action::Exec, "start the process", "grpc.ExecProcessRequest"),
    (Action::Wait, "wait for the process", "grpc.WaitProcessRequest"),
    (Action::OutOfMemory, "tell of a lack of memory", "grpc.GetOOMEventRequest"),
    (Action::Signal, "send the signal", "grpc.SignalProcessRequest"),
    (Action::Remove, "remove the container", "grpc.RemoveContainerRequest"),
    (Action::Pause, "pause the container", "grpc.PauseContainerRequest"),
    (Action::Resume, "resume the container", "grpc.ResumeContainerRequest"),
    (Action::Update, "update the container", "grpc.UpdateContainerRequest"),
    (Action::Resize, "resize the terminal", "grpc.TtyWinResizeRequest"),
    (Action::Pids, "list the processes", "grpc.ListProcessesRequest"),
    (Action::Stats, "read the statistics", "grpc.StatsContainerRequest"),
    (Action::Metrics, "read the metrics", "grpc.GetMetricsRequest"),
    (Action::Interfaces, "list the network interfaces", "grpc.ListInterfacesRequest"),
    (Action::Routes, "list the routes", "grpc.ListRoutesRequest"),
    (Action::PacketFilter, "read the packet filter", "grpc.GetIPTablesRequest"),
    (Action::SetPacketFilter, "set the packet filter", "grpc.SetIPTablesRequest"),
    (Action::Neighbors, "set the neighbours", "grpc.AddARPNeighborsRequest"),
    (Action::SetInterface, "configure a network interface", "grpc.UpdateInterfaceRequest"),
    (Action::SetRoutes, "set the routes", "grpc.UpdateRoutesRequest"),
    (Action::SetClock, "set the clock", "grpc.SetGuestDateTimeRequest"),
    (Action::Seed, "seed its random numbers", "grpc.ReseedRandomDevRequest"),
    (Action::ReadOutput, "read the output", "grpc.ReadStreamRequest"),
    (Action::WriteInput, "write the input", "grpc.WriteStreamRequest"),
    (Action::CloseInput, "close the input", "grpc.CloseStdinRequest"),
    (Action::VolumeStats, "measure the volume", "grpc.VolumeStatsRequest"),
    (Action::ResizeVolume, "resize the volume", "grpc.ResizeVolumeRequest"),
    (Action::NextWatches, "tell what is watched", "kata.NextWatchesRequest"),
    (Action::HostChanged, "tell who watches files", "kata.HostChangedRequest"),
    (Action::LogLevel, "change how much it logs", "kata.LogLevelRequest"),
    (Action::Resources, "use its new CPUs and memory", "grpc.OnlineCPUMemRequest"),
    (Action::AddSwap, "swap to the disk", "grpc.AddSwapRequest"),
    (Action::AddSwapPath, "swap to the SCSI disk", "grpc.AddSwapPathRequest"),
];

impl Action {
    /// What the agent is to do.
    pub(crate) fn words(self) -> &'static str {
        ACTIONS[self as usize].1
    }
}

/// How long the requests to a sandbox's agent took, whatever their answers were. An action has a histogram once it was asked
/// for.
#[derive(Debug)]
pub struct Requests([OnceLock<Box<Histogram>>; ACTIONS.len()]);

impl Default for Requests {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl Requests {
    /// By the names of the requests.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        let both = ACTIONS.iter().zip(&self.0);
        both.filter_map(|((_, _, request), histogram)| Some((*request, &**histogram.get()?)))
    }

    /// Counts a request that begins now, when what is returned is dropped: also one that is given up.
    pub(crate) fn begin(&self, action: Action) -> Timed<'_> {
        Timed { histogram: self.0[action as usize].get_or_init(Box::default), begun: Instant::now() }
    }
}

/// A request under way.
pub(crate) struct Timed<'r> {
    histogram: &'r Histogram,
    begun: Instant,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.histogram.record(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_action_has_its_row_and_a_name_of_its_own() {
        for (index, (action, ..)) in ACTIONS.iter().enumerate() {
            assert_eq!(*action as usize, index, "{action:?}");
        }
        let names: HashSet<_> = ACTIONS.iter().map(|(_, _, request)| request).collect();
        assert_eq!(names.len(), ACTIONS.len(), "a series would be told twice");
    }

    #[test]
    fn a_request_counts_when_it_is_over_and_others_have_no_histogram() {
        let requests = Requests::default();
        let timed = requests.begin(Action::Stats);
        drop(timed);
        let names: Vec<_> = requests.each().map(|(name, _)| name).collect();
        assert_eq!(names, ["grpc.StatsContainerRequest"]);
    }
}
