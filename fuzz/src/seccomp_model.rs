//! What a seccomp profile says about a call, read from the profile itself, rule by rule.

use std::collections::HashMap;

use kata_protocol::oci::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use syscalls::{x86, x86_64};

use crate::seccomp_machine::Call;

/// `AUDIT_ARCH_X86_64`.
pub const X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386`.
pub const X86: u32 = 0x4000_0003;
/// Set in the numbers of the x32 interface.
pub const X32_BIT: u32 = 0x4000_0000;

const KILL: u32 = libc::SECCOMP_RET_KILL_THREAD;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

/// Numbers by name.
pub type Numbers = HashMap<&'static str, u32>;

/// The system calls of the two interfaces.
#[derive(Debug)]
pub struct Interfaces {
    /// Of 64-bit programs.
    pub own: Numbers,
    /// Of 32-bit programs.
    pub compatible: Numbers,
    /// All names, sorted.
    pub names: Vec<&'static str>,
}

impl Default for Interfaces {
    fn default() -> Self {
        let number = |id: i32| u32::try_from(id).expect("not negative");
        let own: Numbers = x86_64::Sysno::iter().map(|call| (call.name(), number(call.id()))).collect();
        let compatible: Numbers = x86::Sysno::iter().map(|call| (call.name(), number(call.id()))).collect();
        let mut names: Vec<_> = own.keys().chain(compatible.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        Self { own, compatible, names }
    }
}

/// The verdict of an action that is known.
#[must_use]
pub fn verdict(action: &str, errno: Option<u32>) -> Option<u32> {
    let data = errno.unwrap_or(1) & libc::SECCOMP_RET_DATA;
    Some(match action {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_NOTIFY" => libc::SECCOMP_RET_USER_NOTIF,
        _ => return None,
    })
}

fn holds(arg: &LinuxSeccompArg, call: &Call) -> bool {
    let Some(argument) = usize::try_from(arg.Index).ok().and_then(|index| call.arguments.get(index)) else {
        return false;
    };
    match arg.Op.as_str() {
        "SCMP_CMP_NE" => *argument != arg.Value,
        "SCMP_CMP_LT" => *argument < arg.Value,
        "SCMP_CMP_LE" => *argument <= arg.Value,
        "SCMP_CMP_EQ" => *argument == arg.Value,
        "SCMP_CMP_GE" => *argument >= arg.Value,
        "SCMP_CMP_GT" => *argument > arg.Value,
        _ => *argument & arg.Value == arg.ValueTwo,
    }
}

/// Whether a rule with conditions fits: all of them hold, or, if two are about one argument, any.
fn fits(rule: &LinuxSyscall, call: &Call) -> bool {
    let mut indices: Vec<u64> = rule.Args.iter().map(|arg| arg.Index).collect();
    indices.sort_unstable();
    match indices.windows(2).any(|pair| pair[0] == pair[1]) {
        true => rule.Args.iter().any(|arg| holds(arg, call)),
        false => rule.Args.iter().all(|arg| holds(arg, call)),
    }
}

/// What a valid profile says about a call.
///
/// # Panics
/// The profile is not valid.
#[must_use]
pub fn judge(profile: &LinuxSeccomp, interfaces: &Interfaces, call: &Call) -> u32 {
    let has = |name: &str| profile.Architectures.iter().any(|known| known == name);
    let numbers = match call.architecture {
        X86_64 if call.number >= X32_BIT => return if has("SCMP_ARCH_X32") { ENOSYS } else { KILL },
        X86_64 => &interfaces.own,
        X86 if has("SCMP_ARCH_X86") => &interfaces.compatible,
        _ => return KILL,
    };
    let default = verdict(&profile.DefaultAction, profile.DefaultErrnoRet).expect("a known action");
    let concerns =
        |rule: &&LinuxSyscall| rule.Names.iter().any(|name| numbers.get(name.as_str()) == Some(&call.number));
    let verdict_of = |rule: &LinuxSyscall| {
        verdict(&rule.Action, rule.ErrnoRet.is_some().then(|| rule.errnoret())).expect("a known action")
    };
    let known = profile.Syscalls.iter().flat_map(|rule| &rule.Names);
    let highest = known.filter_map(|name| numbers.get(name.as_str())).max();
    if highest.is_none_or(|highest| call.number > *highest) {
        let action = default & libc::SECCOMP_RET_ACTION_FULL;
        let passes =
            [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE].contains(&action);
        return if passes || profile.DefaultErrnoRet.is_some() { default } else { ENOSYS };
    }
    // What happens anyway is no rule.
    let rules = || profile.Syscalls.iter().filter(concerns).filter(|rule| verdict_of(rule) != default);
    let always = rules().find(|rule| rule.Args.is_empty());
    let rule = always.or_else(|| rules().find(|rule| fits(rule, call)));
    rule.map_or(default, verdict_of)
}
