#![expect(unsafe_code, reason = "reading the time stamp counter is an intrinsic")]
//! Reading the CPU's time stamp counter.

/// The time stamp counter of the CPU this runs on.
#[cfg(target_arch = "x86_64")]
pub(super) fn time_stamp() -> Option<u64> {
    // SAFETY: every x86-64 CPU has the instruction; it reads a register and nothing else.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

/// Other CPUs have none.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn time_stamp() -> Option<u64> {
    None
}
