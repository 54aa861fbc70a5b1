//! What one container, or a pod as a whole, may use.

use oci_spec::runtime::{LinuxResources, Spec};

/// The kernel's, where a quota names no period.
const DEFAULT_PERIOD: u64 = 100_000;

/// What stands for one CPU among shares that were made of a request.
const SHARES_OF_CPU: u64 = 1024;

const MILLION: u64 = 1_000_000;

/// Memory limits from here on are version 1's word for none, whatever the size of its pages.
const UNLIMITED: i64 = i64::MAX - (1 << 20);

/// A quota of CPU time as cgroups have it, in microseconds; 0 and negative ones are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuLimit {
    /// For each period.
    pub quota: Option<i64>,
    /// 0 stands for the kernel's own.
    pub period: Option<u64>,
}

/// What one container, or a pod as a whole, may use; `None` is as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Millionths of a CPU: no quota over a period that the kernel takes (1 s at most) is finer.
    pub(super) cpu: Option<u64>,
    /// What was asked for without being the limit, in millionths of a CPU.
    pub(super) request: u64,
    /// Bytes.
    pub(super) memory: Option<u64>,
    /// Bytes of huge pages, which no limit of memory counts.
    pub(super) huge_pages: u64,
}

impl Limits {
    /// Of CPU time, and of memory in bytes, where 0, negative numbers and version 1's greatest one are no limit.
    #[must_use]
    pub fn new(cpu: CpuLimit, memory: Option<i64>) -> Self {
        let limited = memory.filter(|bytes| (1..UNLIMITED).contains(bytes));
        Self { cpu: cpu.millionths(), memory: limited.map(i64::unsigned_abs), ..Self::default() }
    }

    /// Of a specification.
    #[must_use]
    pub fn of(resources: &LinuxResources) -> Self {
        let cpu = resources.cpu().as_ref();
        let quota = CpuLimit {
            quota: cpu.and_then(oci_spec::runtime::LinuxCpu::quota),
            period: cpu.and_then(oci_spec::runtime::LinuxCpu::period),
        };
        let memory = resources.memory().as_ref().and_then(oci_spec::runtime::LinuxMemory::limit);
        let pages = resources.hugepage_limits().iter().flatten();
        let bytes = pages.map(|limit| u64::try_from(limit.limit()).unwrap_or(0));
        Self::new(quota, memory).with_huge_pages(bytes.fold(0, u64::saturating_add))
    }

    /// Of a whole specification.
    #[must_use]
    pub fn of_spec(spec: &Spec) -> Self {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        resources.map(Self::of).unwrap_or_default()
    }

    pub(super) fn changed_by(self, change: &Change) -> Self {
        Self { cpu: change.cpu.unwrap_or(self.cpu), memory: change.memory.unwrap_or(self.memory), ..self }
    }

    /// With so many bytes of huge pages.
    #[must_use]
    pub fn with_huge_pages(self, bytes: u64) -> Self {
        Self { huge_pages: bytes, ..self }
    }

    /// With the CPUs that Kubernetes has turned into these shares. To others shares are a weight, and say nothing of an amount.
    #[must_use]
    pub fn with_request(self, shares: u64) -> Self {
        Self { request: shares.saturating_mul(MILLION) / SHARES_OF_CPU, ..self }
    }
}

/// What an update says; `None` of what stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) cpu: Option<Option<u64>>,
    pub(super) memory: Option<Option<u64>>,
}

impl Change {
    /// 0 says nothing.
    pub(super) fn of(resources: &LinuxResources) -> Self {
        let after = Limits::of(resources);
        let quota = resources.cpu().as_ref().and_then(oci_spec::runtime::LinuxCpu::quota);
        let memory = resources.memory().as_ref().and_then(oci_spec::runtime::LinuxMemory::limit);
        Self {
            cpu: quota.filter(|quota| *quota != 0).map(|_| after.cpu),
            memory: memory.filter(|limit| *limit != 0).map(|_| after.memory),
        }
    }
}

impl CpuLimit {
    fn millionths(self) -> Option<u64> {
        let quota = u64::try_from(self.quota?).ok().filter(|quota| *quota > 0)?;
        let period = self.period.filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD);
        let millionths = u128::from(quota) * u128::from(MILLION) / u128::from(period);
        Some(u64::try_from(millionths).unwrap_or(u64::MAX).max(1))
    }
}
