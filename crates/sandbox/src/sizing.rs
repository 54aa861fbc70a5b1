//! How large a sandbox's VM is: arithmetic, without a look at the host. `docs/sizing.md` tells the rule with examples.
//!
//! - [`Limits`]: what one container, or a pod as a whole, may use.
//! - [`Demand`]: what is known of the pod now, which changes as containers come, change and go.
//! - [`Rule`]: the configuration's part, which makes a [`Sum`] of a demand: a size, and how it came about.

mod demand;
mod limits;
mod rule;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use demand::Demand;
pub use limits::{CpuLimit, Limits};
pub use rule::Rule;

/// A VM's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Its CPUs.
    pub vcpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u32,
}

/// A change of one container's limits that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Update(u64);

/// One addend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// What it stands for.
    pub what: String,
    /// Thousandths of a CPU, or MiB; negative where something is taken away.
    pub amount: i64,
}

/// A size, and what it is the sum of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// The size.
    #[serde(flatten)]
    pub size: Size,
    /// What its CPUs are the sum of, in thousandths.
    pub millicpus: Vec<Term>,
    /// What its memory is the sum of, in MiB.
    pub mib: Vec<Term>,
}

/// What a VM is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizePlan {
    /// At its start.
    pub boot: Sum,
    /// The most it may be given later; equal to the former if it is never resized.
    pub most: Size,
}

/// All that says how large one sandbox's VM is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizing {
    rule: Rule,
    plan: SizePlan,
    demand: Demand,
}

impl Sizing {
    /// Of a sandbox that is about to start. `whole`: what its manager has said of the pod, or a single container's limits.
    #[must_use]
    pub fn new(rule: Rule, whole: Option<Limits>) -> Self {
        Self { plan: rule.plan(whole), demand: Demand::of(whole), rule }
    }

    /// What the VM is started with.
    #[must_use]
    pub fn plan(&self) -> &SizePlan {
        &self.plan
    }

    /// What is known of its containers.
    pub fn demand(&mut self) -> &mut Demand {
        &mut self.demand
    }

    /// What the VM is to have now, if it can have at most `most`.
    #[must_use]
    pub fn target(&self, most: Size) -> Size {
        self.rule.target(&self.plan, &self.demand).within(self.plan.boot.size, most)
    }
}

impl Size {
    /// What is enough for both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { vcpus: self.vcpus.max(other.vcpus), memory_mib: self.memory_mib.max(other.memory_mib) }
    }

    /// At most `most`, but not less than `least`, even if that is more.
    fn within(self, least: Self, most: Self) -> Self {
        Self {
            vcpus: self.vcpus.min(most.vcpus).max(least.vcpus),
            memory_mib: self.memory_mib.min(most.memory_mib).max(least.memory_mib),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.vcpus == 1 { "" } else { "s" };
        write!(f, "{} vCPU{plural}, {} MiB", self.vcpus, self.memory_mib)
    }
}
