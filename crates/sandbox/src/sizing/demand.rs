//! What is known of a pod's limits.

use std::collections::BTreeMap;

use oci_spec::runtime::LinuxResources;

use super::limits::Change;
use super::{Limits, Update};

/// What is known of a pod's limits now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// Of the pod, as its manager said at the start, with the changes since.
    whole: Limits,
    /// Of the containers that are there, by id.
    containers: BTreeMap<String, Container>,
    /// How many updates were asked for.
    updates: u64,
}

/// What one container may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Container {
    limits: Limits,
    /// What is being changed: until that is done, both the limits before and after it count.
    changes: BTreeMap<Update, Change>,
}

/// The containers that are there, together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Together {
    pub(super) cpu: Part,
    pub(super) memory: Part,
    /// What those without a limit of CPU asked for.
    pub(super) request: u64,
    pub(super) huge_pages: u64,
}

/// One thing that containers are limited in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// The sum of the limits.
    pub(super) limits: u64,
    /// How many have one.
    pub(super) limited: u32,
    /// How many have none.
    pub(super) free: u32,
}

/// What somebody is that may have a limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InDoubt {
    Limited,
    Free,
}

impl Demand {
    /// Of a pod, or of a single container, before anything runs. `None`: nothing is said.
    #[must_use]
    pub fn of(whole: Option<Limits>) -> Self {
        Self { whole: whole.unwrap_or_default(), ..Self::default() }
    }

    /// A container has come.
    pub fn add(&mut self, id: &str, limits: Limits) {
        self.containers.insert(id.to_owned(), Container { limits, ..Container::default() });
    }

    /// A container's limits are about to change: until [`Demand::settle`] it may use what it could, and what it will.
    pub fn ask(&mut self, id: &str, resources: &LinuxResources) -> Update {
        self.begin(id, Change::of(resources))
    }

    pub(super) fn begin(&mut self, id: &str, change: Change) -> Update {
        self.updates += 1;
        let update = Update(self.updates);
        if let Some(container) = self.containers.get_mut(id) {
            container.changes.insert(update, change);
        }
        update
    }

    /// They have changed, or stay as they are. Those of the whole follow, as more containers may be to come that were
    /// counted from the start. Of a container that has gone nothing is to be done.
    pub fn settle(&mut self, id: &str, update: Update, is_done: bool) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(change) = container.changes.remove(&update).filter(|_| is_done) else { return };
        let after = container.limits.changed_by(&change);
        let before = std::mem::replace(&mut container.limits, after);
        self.whole.cpu = changed(self.whole.cpu, before.cpu, after.cpu);
        self.whole.memory = changed(self.whole.memory, before.memory, after.memory);
    }

    /// A container has gone. What the whole may use stays: it may come again.
    pub fn remove(&mut self, id: &str) {
        self.containers.remove(id);
    }

    /// What the pod as a whole may use, with what its containers are about to be given.
    pub(super) fn whole(&self) -> Limits {
        self.containers.values().fold(self.whole, |whole, container| Limits {
            cpu: changed(whole.cpu, container.limits.cpu, container.cpu().most()),
            memory: changed(whole.memory, container.limits.memory, container.memory().most()),
            ..whole
        })
    }

    /// Who is about to get a first limit, or to lose the last one, counts as one of both.
    pub(super) fn together(&self, in_doubt: InDoubt) -> Together {
        self.containers.values().fold(Together::default(), |sum, container| {
            let (cpu, limits) = (container.cpu().only(in_doubt), container.limits);
            Together {
                cpu: sum.cpu.and(cpu),
                memory: sum.memory.and(container.memory().only(in_doubt)),
                request: sum.request.saturating_add(if cpu.free > 0 { limits.request } else { 0 }),
                huge_pages: sum.huge_pages.saturating_add(limits.huge_pages),
            }
        })
    }
}

impl Container {
    fn cpu(&self) -> Part {
        Part::of(self.limits.cpu, self.changes.values().filter_map(|change| change.cpu))
    }

    fn memory(&self) -> Part {
        Part::of(self.limits.memory, self.changes.values().filter_map(|change| change.memory))
    }
}

impl Part {
    /// Of one container: the most of what it has and may get, and whether any of that is no limit.
    fn of(limit: Option<u64>, coming: impl Iterator<Item = Option<u64>>) -> Self {
        coming.fold(Self::one(limit), |part, limit| {
            let other = Self::one(limit);
            Self {
                limits: part.limits.max(other.limits),
                limited: part.limited.max(other.limited),
                free: part.free.max(other.free),
            }
        })
    }

    fn one(limit: Option<u64>) -> Self {
        Self { limits: limit.unwrap_or(0), limited: limit.is_some().into(), free: limit.is_none().into() }
    }

    /// As one of both, if it is in doubt.
    fn only(self, in_doubt: InDoubt) -> Self {
        match (self.limited > 0 && self.free > 0, in_doubt) {
            (true, InDoubt::Limited) => Self { free: 0, ..self },
            (true, InDoubt::Free) => Self { free: self.free, ..Self::default() },
            (false, _) => self,
        }
    }

    fn most(self) -> Option<u64> {
        (self.limited > 0).then_some(self.limits)
    }

    fn and(self, other: Self) -> Self {
        Self {
            limits: self.limits.saturating_add(other.limits),
            limited: self.limited.saturating_add(other.limited),
            free: self.free.saturating_add(other.free),
        }
    }
}

fn changed(whole: Option<u64>, before: Option<u64>, after: Option<u64>) -> Option<u64> {
    whole.map(|whole| whole.saturating_sub(before.unwrap_or(0)).saturating_add(after.unwrap_or(0)))
}
