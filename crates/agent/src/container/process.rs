//! The processes of one container, as far as the host knows them by name.

use std::collections::HashMap;

use crate::id::ExecId;
use crate::reaper::Exit;
use crate::stdio::Stdio;

use super::ProcessId;

/// Ended processes whose status is kept for those who ask late.
const MAX_ENDED: usize = 64;

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) exit: Exit,
    pub(super) stdio: Stdio,
}

/// The processes by name.
#[derive(Debug)]
pub(super) struct Table {
    init: Process,
    /// With the order in which they came; `None` while one is being made.
    execs: HashMap<ExecId, (u64, Option<Process>)>,
    count: u64,
}

impl Table {
    pub(super) fn new(init: Process) -> Self {
        Self { init, execs: HashMap::new(), count: 0 }
    }

    pub(super) fn init(&self) -> &Process {
        &self.init
    }

    pub(super) fn get(&self, id: &ProcessId) -> Option<&Process> {
        match id {
            ProcessId::Init => Some(&self.init),
            ProcessId::Exec(exec) => self.execs.get(exec)?.1.as_ref(),
        }
    }

    pub(super) fn get_mut(&mut self, id: &ProcessId) -> Option<&mut Process> {
        match id {
            ProcessId::Init => Some(&mut self.init),
            ProcessId::Exec(exec) => self.execs.get_mut(exec)?.1.as_mut(),
        }
    }

    /// Takes a name for a process that will be made; false if a living process has it.
    pub(super) fn reserve(&mut self, exec: &ExecId) -> bool {
        if self.execs.get(exec).is_some_and(|(_, process)| !has_ended(process.as_ref())) {
            return false;
        }
        self.forget_oldest();
        self.count += 1;
        self.execs.insert(exec.clone(), (self.count, None));
        true
    }

    /// Whether a process is being made.
    pub(super) fn is_making(&self) -> bool {
        self.execs.values().any(|(_, process)| process.is_none())
    }

    /// The process of that name has been made.
    pub(super) fn fill(&mut self, exec: &ExecId, process: Process) {
        if let Some((_, place)) = self.execs.get_mut(exec) {
            *place = Some(process);
        }
    }

    /// The process of that name could not be made.
    pub(super) fn release(&mut self, exec: &ExecId) {
        self.execs.remove(exec);
    }

    /// The ends of all processes.
    pub(super) fn exits(&self) -> Vec<Exit> {
        let execs = self.execs.values().filter_map(|(_, process)| process.as_ref());
        execs.chain([&self.init]).map(|process| process.exit.clone()).collect()
    }

    /// Names by id in the guest.
    pub(super) fn names(&self) -> HashMap<i32, String> {
        let alive = self.execs.iter().filter_map(|(exec, (_, process))| {
            let process = process.as_ref().filter(|process| process.exit.code().is_none())?;
            Some((process.pid, exec.as_str().to_owned()))
        });
        alive.collect()
    }

    fn forget_oldest(&mut self) {
        let ended = |(exec, (order, process)): (&ExecId, &(u64, Option<Process>))| {
            has_ended(process.as_ref()).then(|| (*order, exec.clone()))
        };
        let mut ended: Vec<(u64, ExecId)> = self.execs.iter().filter_map(ended).collect();
        if ended.len() < MAX_ENDED {
            return;
        }
        ended.sort_unstable_by_key(|(order, _)| *order);
        for (_, exec) in ended.drain(..=ended.len() - MAX_ENDED) {
            self.execs.remove(&exec);
        }
    }
}

fn has_ended(process: Option<&Process>) -> bool {
    process.is_some_and(|process| process.exit.code().is_some())
}
