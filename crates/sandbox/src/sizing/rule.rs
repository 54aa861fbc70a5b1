//! The configuration's part of the arithmetic.

use kata_config::{Config, MIN_MEMORY_MIB, SandboxSizing};

use super::demand::{InDoubt, Part};
use super::{Demand, Limits, Size, SizePlan, Sum, Term};

/// The guest's kernel keeps this part of its memory: for descriptors of its pages (a 64th), hash tables and reserves. What
/// it needs whatever the size is `overhead_memory`.
const KERNELS_PART: u64 = 32;

const MIB: u64 = 1 << 20;
const MILLI: u64 = 1000;
const MILLIONTHS_OF_MILLI: u64 = 1000;

/// What the configuration says of sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    sizing: SandboxSizing,
    /// The VM is not resized.
    is_static: bool,
    default: Amounts,
    overhead: Amounts,
    most: Size,
    /// Memory is made of pages of the host of so many MiB; 1 for smaller ones.
    page_mib: u32,
    /// Images are kept in the guest's memory, outside of what its containers may use.
    keeps_images: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amounts {
    millicpus: u64,
    mib: u64,
}

/// Addends so far.
#[derive(Default)]
struct Terms(Vec<Term>);

impl Terms {
    fn add(&mut self, what: impl Into<String>, amount: u64) {
        self.add_signed(what, i64::try_from(amount).unwrap_or(i64::MAX));
    }

    fn add_signed(&mut self, what: impl Into<String>, amount: i64) {
        if amount != 0 {
            self.0.push(Term { what: what.into(), amount });
        }
    }

    fn total(&self) -> u64 {
        let total = self.0.iter().fold(0_i64, |sum, term| sum.saturating_add(term.amount));
        u64::try_from(total).unwrap_or(0)
    }

    /// The terms, and their sum between two bounds; what that changes is a term.
    fn bounded(
        mut self,
        (least, least_is): (u32, &str),
        (most, most_is): (u32, &str),
        unit: u64,
    ) -> (Vec<Term>, u32) {
        // What is beyond all bounds is that in the sum, too: its terms must add up.
        for term in &mut self.0 {
            term.amount = term.amount.min(i64::MAX >> 8);
        }
        let total = self.total();
        let whole = total.div_ceil(unit);
        self.add("rounded up", whole * unit - total);
        let (least, most) = (u64::from(least.min(most)), u64::from(most));
        let bound = whole.clamp(least, most);
        self.add(least_is, bound.saturating_sub(whole) * unit);
        let above = i64::try_from(whole.saturating_sub(bound) * unit).unwrap_or(i64::MAX);
        self.add_signed(most_is, -above);
        (self.0, u32::try_from(bound).unwrap_or(u32::MAX))
    }
}

impl Rule {
    /// Of this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let vm = &config.hypervisor;
        Self {
            sizing: config.runtime.sandbox_sizing,
            is_static: config.runtime.static_sandbox_resource_mgmt,
            default: Amounts { millicpus: vm.default_millicpus.into(), mib: vm.default_memory_mib.into() },
            overhead: Amounts { millicpus: vm.overhead_millicpus.into(), mib: vm.overhead_memory_mib.into() },
            most: Size { vcpus: vm.default_maxvcpus, memory_mib: vm.default_maxmemory_mib },
            page_mib: vm.memory.unit_mib(),
            keeps_images: config.runtime.force_guest_pull,
        }
    }

    /// What a VM is started with, by what its manager has said of the pod, or by a single container's limits.
    #[must_use]
    pub fn plan(&self, whole: Option<Limits>) -> SizePlan {
        let boot = self.sum(&Demand::of(whole));
        let most = if self.is_static { boot.size } else { self.most };
        SizePlan { boot, most }
    }

    /// What a VM that was started with `plan` is to have now: never less than that, which cannot be taken from it.
    #[must_use]
    pub fn target(&self, plan: &SizePlan, demand: &Demand) -> Size {
        let [limited, free] = [InDoubt::Limited, InDoubt::Free].map(|doubt| self.sum_of(demand, doubt).size);
        limited.and(free).within(plan.boot.size, plan.most)
    }

    /// The size that fits a demand, whatever the VM has.
    #[must_use]
    pub fn sum(&self, demand: &Demand) -> Sum {
        self.sum_of(demand, InDoubt::Limited)
    }

    fn sum_of(&self, demand: &Demand, in_doubt: InDoubt) -> Sum {
        let most_vcpus = (self.most.vcpus, "above `default_maxvcpus`");
        let (millicpus, vcpus) =
            self.cpu(demand, in_doubt).bounded((1, "at least one vCPU"), most_vcpus, MILLI);
        let least_memory = (MIN_MEMORY_MIB, "the least that a guest boots with");
        let most_memory = (self.most.memory_mib, "above `default_maxmemory`");
        let (mut mib, memory_mib) = self.memory(demand, in_doubt).bounded(least_memory, most_memory, 1);
        // The most is a whole number of them.
        let whole = memory_mib.next_multiple_of(self.page_mib);
        if whole != memory_mib {
            mib.push(Term { what: "whole huge pages".to_owned(), amount: (whole - memory_mib).into() });
        }
        let memory_mib = whole;
        Sum { size: Size { vcpus, memory_mib }, millicpus, mib }
    }

    fn cpu(&self, demand: &Demand, in_doubt: InDoubt) -> Terms {
        let (whole, together) = (demand.whole(), demand.together(in_doubt));
        let counted = Counted::of(whole.cpu, together.cpu, MILLIONTHS_OF_MILLI);
        // What was requested for the whole is within a limit of it.
        let request = if whole.cpu.is_some() { 0 } else { whole.request };
        let request = request.max(together.request).div_ceil(MILLIONTHS_OF_MILLI);
        let mut terms = Terms::default();
        counted.add_to(&mut terms);
        if !self.needs_default(&counted) {
            terms.add("overhead_vcpus", self.overhead.millicpus);
        } else if self.sizing == SandboxSizing::Limits && request > self.default.millicpus {
            terms.add("CPUs requested without a limit", request);
        } else {
            terms.add("default_vcpus", self.default.millicpus);
        }
        terms
    }

    fn memory(&self, demand: &Demand, in_doubt: InDoubt) -> Terms {
        let (whole, together) = (demand.whole(), demand.together(in_doubt));
        let counted = Counted::of(whole.memory, together.memory, MIB);
        let mut terms = Terms::default();
        counted.add_to(&mut terms);
        terms.add("huge pages", together.huge_pages.max(whole.huge_pages).div_ceil(MIB));
        if !self.needs_default(&counted) {
            terms.add("overhead_memory", self.overhead.mib);
            if self.keeps_images {
                terms.add("default_memory, for images that the guest pulls", self.default.mib);
            }
        }
        if self.sizing == SandboxSizing::Limits {
            // That of the default is within it.
            terms.add("the kernel's tables, a 32nd of the whole", terms.total().div_ceil(KERNELS_PART - 1));
        }
        if self.needs_default(&counted) {
            terms.add("default_memory", self.default.mib);
        }
        terms
    }

    /// The default counts, too: by upstream's arithmetic, or as there is a container without a limit, or no limit at all.
    fn needs_default(&self, counted: &Counted) -> bool {
        self.sizing == SandboxSizing::DefaultPlusLimits || counted.free > 0 || counted.limits == 0
    }
}

/// Limits that make up a size.
struct Counted {
    limits: u64,
    /// Of how many containers they are; 0 with limits: of the pod.
    limited: u32,
    free: u32,
}

impl Counted {
    /// What was said of the whole, or what its containers have come to be, whichever is more.
    fn of(whole: Option<u64>, containers: Part, unit: u64) -> Self {
        let (whole, sum) = (whole.unwrap_or(0).div_ceil(unit), containers.limits.div_ceil(unit));
        let limited = if whole >= sum { 0 } else { containers.limited };
        Self { limits: whole.max(sum), limited, free: containers.free }
    }

    fn add_to(&self, terms: &mut Terms) {
        let what = match self.limited {
            0 => "the pod's limit".to_owned(),
            1 => "the limit of one container".to_owned(),
            several => format!("the limits of {several} containers"),
        };
        terms.add(what, self.limits);
    }
}
