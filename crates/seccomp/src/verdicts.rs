//! The words of a profile: actions, architectures, flags, comparisons.

use kata_protocol::oci;

use super::ProfileError;

/// The errno of `SCMP_ACT_ERRNO` that names none: `EPERM`.
const DEFAULT_ERRNO: u32 = libc::EPERM as u32;

/// Architectures by the names of libseccomp. Those that a guest on this one cannot run are accepted and have no effect.
const FOREIGN: [&str; 21] = [
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_NATIVE",
];

/// The action that asks a listener.
pub(super) const NOTIFY: &str = "SCMP_ACT_NOTIFY";

/// What a filter answers for a call: `SECCOMP_RET_*` with its data.
pub(super) type Verdict = u32;

/// Reads an action; `data` is its errno or the tracer's number.
pub(super) fn verdict(action: &str, data: Option<u32>) -> Result<Verdict, ProfileError> {
    let data = data.unwrap_or(DEFAULT_ERRNO) & libc::SECCOMP_RET_DATA;
    Ok(match action {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        NOTIFY => libc::SECCOMP_RET_USER_NOTIF,
        _ => return Err(ProfileError::Unknown { what: "action", name: action.to_owned() }),
    })
}

/// Whether calls that are not named pass, logged or traced.
pub(super) fn lets_pass(verdict: Verdict) -> bool {
    let action = verdict & libc::SECCOMP_RET_ACTION_FULL;
    matches!(action, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG | libc::SECCOMP_RET_TRACE)
}

/// The architectures of a profile besides the guest's own.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Architectures {
    /// 32-bit programs.
    pub(super) x86: bool,
    /// 64-bit programs with 32-bit pointers.
    pub(super) x32: bool,
}

/// Reads the list of architectures.
pub(super) fn architectures(names: &[String]) -> Result<Architectures, ProfileError> {
    let mut found = Architectures::default();
    for name in names {
        match name.as_str() {
            "SCMP_ARCH_X86_64" => {}
            "SCMP_ARCH_X86" => found.x86 = true,
            "SCMP_ARCH_X32" => found.x32 = true,
            name if FOREIGN.contains(&name) => {}
            _ => return Err(ProfileError::Unknown { what: "architecture", name: name.clone() }),
        }
    }
    Ok(found)
}

/// Reads the list of flags.
pub(super) fn flags(names: &[String]) -> Result<libc::c_ulong, ProfileError> {
    names.iter().try_fold(0, |flags, name| {
        Ok(flags
            | match name.as_str() {
                // There is one thread.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
                _ => return Err(ProfileError::Unknown { what: "flag", name: name.clone() }),
            })
    })
}

/// A condition on one argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which one, from 0 to 5.
    pub(super) argument: u32,
    pub(super) comparison: Comparison,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    NotEqual(u64),
    Less(u64),
    AtMost(u64),
    Equal(u64),
    AtLeast(u64),
    Greater(u64),
    Masked { mask: u64, value: u64 },
}

/// Reads a condition.
pub(super) fn condition(arg: &oci::LinuxSeccompArg) -> Result<Condition, ProfileError> {
    let comparison = match arg.Op.as_str() {
        "SCMP_CMP_NE" => Comparison::NotEqual(arg.Value),
        "SCMP_CMP_LT" => Comparison::Less(arg.Value),
        "SCMP_CMP_LE" => Comparison::AtMost(arg.Value),
        "SCMP_CMP_EQ" => Comparison::Equal(arg.Value),
        "SCMP_CMP_GE" => Comparison::AtLeast(arg.Value),
        "SCMP_CMP_GT" => Comparison::Greater(arg.Value),
        "SCMP_CMP_MASKED_EQ" => Comparison::Masked { mask: arg.Value, value: arg.ValueTwo },
        _ => return Err(ProfileError::Unknown { what: "comparison", name: arg.Op.clone() }),
    };
    let argument = u32::try_from(arg.Index).ok().filter(|index| *index < 6);
    let argument = argument.ok_or(ProfileError::Argument { index: arg.Index })?;
    Ok(Condition { argument, comparison })
}
