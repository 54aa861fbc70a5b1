//! A container's seccomp profile, compiled to a program for the kernel.
//!
//! The verdicts are libseccomp's: a call outside the listed architectures kills, an unconditional rule of a call stands
//! over its conditional ones, and of these the first that fits counts. Like under runc, two conditions on one argument
//! are two rules, and a call that is newer than all the profile names is answered with `ENOSYS`, so that programs fall
//! back to what they used before it.
//!
//! A program finds the call by bisection: neighbours with the same verdict are one range.
//!
//! The host compiles, as an emulated guest is slow at what it does once. The agent understands both the profile and what
//! was made of it, and so takes containers from runtimes that know only the profile.

mod assembler;
#[cfg(test)]
mod tests;
mod verdicts;

use std::collections::BTreeMap;

use kata_protocol::oci;
use libc::sock_filter;

use assembler::{Assembler, Label, Test};
use verdicts::{Architectures, Comparison, Condition, Verdict, condition, lets_pass, verdict};

/// The kernel's limit of a program, `BPF_MAXINSNS`.
const MAX_LENGTH: usize = 4096;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386`.
const X86: u32 = 0x4000_0003;
/// Set in the numbers of the x32 interface.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The call that a listener gets its descriptor by.
const HAND_OVER: &str = "sendmsg";

const ENOSYS: Verdict = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A word that has no meaning.
    #[error("The seccomp profile has the unknown {what} {name:?}; correct it in linux.seccomp")]
    Unknown {
        /// What kind of word.
        what: &'static str,
        /// The word.
        name: String,
    },
    /// A call has six arguments.
    #[error("The seccomp profile compares argument {index} of a call; correct it in linux.seccomp to 0 to 5")]
    Argument {
        /// Its number.
        index: u64,
    },
    /// The kernel takes no more.
    #[error(
        "The seccomp profile needs {length} instructions, of at most {MAX_LENGTH}; shorten linux.seccomp"
    )]
    Long {
        /// Its length.
        length: usize,
    },
    /// The one who answers could not be told.
    #[error(
        "The seccomp profile has SCMP_ACT_NOTIFY for {call}, which cannot be; correct it in linux.seccomp"
    )]
    Notify {
        /// What for.
        call: &'static str,
    },
    /// The message holds no program.
    #[error(
        "The compiled seccomp profile has {length} bytes, which is no program; use the agent of the same release"
    )]
    Garbled {
        /// How many bytes.
        length: usize,
    },
}

/// A program for the kernel.
#[derive(Debug, Clone)]
pub struct Program {
    /// Classic BPF.
    pub instructions: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`; with that for a new listener, if calls are to be answered by one.
    pub flags: libc::c_ulong,
}

/// What is done about one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rules {
    /// Whatever its arguments.
    always: Option<Verdict>,
    /// The first whose conditions all hold.
    conditional: Vec<(Vec<Condition>, Verdict)>,
}

/// The rules of one system call interface, by number.
type Table = BTreeMap<u32, Rules>;

/// Bytes of an instruction in a message: code (2), jumps if true and false, constant (4), little-endian.
const INSTRUCTION: usize = 8;

impl Program {
    /// The program of a profile, which may be compiled already.
    ///
    /// # Errors
    /// The profile is wrong, or the message is.
    pub fn of(profile: &oci::LinuxSeccomp) -> Result<Self, ProfileError> {
        if profile.Program.is_empty() { Self::compile(profile) } else { Self::read(profile) }
    }

    /// Compiles a profile.
    ///
    /// # Errors
    /// The profile has a word without a meaning, or needs too long a program.
    pub fn compile(profile: &oci::LinuxSeccomp) -> Result<Self, ProfileError> {
        let default = verdict(&profile.DefaultAction, profile.DefaultErrnoRet)?;
        if default == libc::SECCOMP_RET_USER_NOTIF {
            return Err(ProfileError::Notify { call: "every call" });
        }
        let others = verdicts::architectures(&profile.Architectures)?;
        let own = syscalls::x86_64::Sysno::iter().map(|call| (call.name(), number(call.id())));
        let own = table(profile, default, &own.collect())?;
        let compatible = syscalls::x86::Sysno::iter().map(|call| (call.name(), number(call.id())));
        let compatible = others.x86.then(|| table(profile, default, &compatible.collect())).transpose()?;
        let newer = match lets_pass(default) || profile.DefaultErrnoRet.is_some() {
            true => default,
            false => ENOSYS,
        };
        let compiler = Compiler { default, newer, code: Assembler::default() };
        let instructions = compiler.program(others, &own, compatible);
        if instructions.len() > MAX_LENGTH {
            return Err(ProfileError::Long { length: instructions.len() });
        }
        let asks = profile.Syscalls.iter().any(|rule| rule.Action == verdicts::NOTIFY);
        let listener = if asks { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
        Ok(Self { instructions, flags: verdicts::flags(&profile.Flags)? | listener })
    }

    /// Puts the program in the place of what it was compiled from.
    pub fn replace(self, profile: &mut oci::LinuxSeccomp) {
        let bytes = |step: &sock_filter| {
            let ([low, high], [a, b, c, d]) = (step.code.to_le_bytes(), step.k.to_le_bytes());
            [low, high, step.jt, step.jf, a, b, c, d]
        };
        *profile = oci::LinuxSeccomp {
            Program: self.instructions.iter().flat_map(bytes).collect(),
            ProgramFlags: self.flags,
            ListenerPath: std::mem::take(&mut profile.ListenerPath),
            ListenerMetadata: std::mem::take(&mut profile.ListenerMetadata),
            ..Default::default()
        };
    }

    fn read(profile: &oci::LinuxSeccomp) -> Result<Self, ProfileError> {
        let (steps, rest) = profile.Program.as_chunks::<INSTRUCTION>();
        if !rest.is_empty() || steps.len() > MAX_LENGTH {
            return Err(ProfileError::Garbled { length: profile.Program.len() });
        }
        let step = |&[low, high, jt, jf, a, b, c, d]: &[u8; INSTRUCTION]| sock_filter {
            code: u16::from_le_bytes([low, high]),
            jt,
            jf,
            k: u32::from_le_bytes([a, b, c, d]),
        };
        Ok(Self { instructions: steps.iter().map(step).collect(), flags: profile.ProgramFlags })
    }

    /// Whether somebody answers some calls in place of the kernel.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    }
}

/// The calls of an interface. A map, because its code is small: an emulated CPU runs it once.
type Numbers = BTreeMap<&'static str, u32>;

fn number(call: i32) -> u32 {
    u32::try_from(call).expect("numbers of system calls are not negative")
}

/// Collects the rules. Names that an interface does not have are skipped: profiles are written for many kernels.
fn table(profile: &oci::LinuxSeccomp, default: Verdict, numbers: &Numbers) -> Result<Table, ProfileError> {
    let mut table = Table::new();
    for rule in &profile.Syscalls {
        let errno = rule.ErrnoRet.is_some().then(|| rule.errnoret());
        let verdict = verdict(&rule.Action, errno)?;
        if verdict == libc::SECCOMP_RET_USER_NOTIF && rule.Names.iter().any(|name| name == HAND_OVER) {
            return Err(ProfileError::Notify { call: HAND_OVER });
        }
        let conditions = rule.Args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        for call in rule.Names.iter().filter_map(|name| numbers.get(name.as_str())) {
            let rules = table.entry(*call).or_default();
            // What happens anyway is no rule, but the profile knows the call.
            if verdict != default {
                rules.add(&conditions, verdict);
            }
        }
    }
    Ok(table)
}

impl Rules {
    fn add(&mut self, conditions: &[Condition], verdict: Verdict) {
        let twice = |(at, condition): (usize, &Condition)| {
            conditions[..at].iter().any(|before| before.argument == condition.argument)
        };
        if conditions.is_empty() {
            self.always.get_or_insert(verdict);
        } else if conditions.iter().enumerate().any(twice) {
            self.conditional.extend(conditions.iter().map(|condition| (vec![*condition], verdict)));
        } else {
            self.conditional.push((conditions.to_vec(), verdict));
        }
    }
}

/// Writes the program, its end first.
struct Compiler {
    default: Verdict,
    /// For calls above all that the profile names.
    newer: Verdict,
    code: Assembler,
}

impl Compiler {
    fn program(mut self, others: Architectures, own: &Table, compatible: Option<Table>) -> Vec<sock_filter> {
        let mut otherwise = self.code.verdict(libc::SECCOMP_RET_KILL_THREAD);
        if let Some(table) = compatible {
            let section = self.interface(&table, None);
            otherwise = self.code.branch(Test::Equal, X86, section, otherwise);
        }
        // Guests' kernels have no x32 interface: where a profile allows it, the answer is theirs.
        let x32 = if others.x32 { ENOSYS } else { libc::SECCOMP_RET_KILL_THREAD };
        let section = self.interface(own, Some(x32));
        self.code.branch(Test::Equal, X86_64, section, otherwise);
        self.code.load(ARCHITECTURE);
        self.code.finish()
    }

    /// The calls of one interface; `x32` is the verdict for numbers with that bit.
    fn interface(&mut self, table: &Table, x32: Option<Verdict>) -> Label {
        let mut ranges: Vec<(u32, Rules)> = Vec::new();
        let plain = |verdict| Rules { always: Some(verdict), conditional: Vec::new() };
        let mut extend = |from: u32, rules: Rules| {
            if ranges.last().is_none_or(|(_, last)| *last != rules || !rules.conditional.is_empty()) {
                ranges.push((from, rules));
            }
        };
        let mut next = 0;
        for (call, rules) in table {
            if *call > next {
                extend(next, plain(self.default));
            }
            let rules = match rules {
                Rules { always: Some(verdict), .. } => plain(*verdict),
                Rules { conditional, .. } if conditional.is_empty() => plain(self.default),
                rules => rules.clone(),
            };
            extend(*call, rules);
            next = call + 1;
        }
        extend(next, plain(self.newer));
        if let Some(verdict) = x32 {
            extend(X32_BIT, plain(verdict));
        }
        self.bisect(&ranges);
        self.code.load(NUMBER)
    }

    /// Code for ranges of numbers, each up to the next one's beginning.
    fn bisect(&mut self, ranges: &[(u32, Rules)]) -> Label {
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        match (lower, upper) {
            ([], [(_, rules)]) => self.call(rules),
            ([], _) => self.code.verdict(self.default),
            (_, [(from, _), ..]) => {
                let upper = self.bisect(upper);
                let lower = self.bisect(lower);
                self.code.branch(Test::AtLeast, *from, upper, lower)
            }
            (_, []) => self.bisect(lower),
        }
    }

    /// Code for one call.
    fn call(&mut self, rules: &Rules) -> Label {
        let mut next = self.code.verdict(rules.always.unwrap_or(self.default));
        for (conditions, verdict) in rules.conditional.iter().rev() {
            let mut then = self.code.verdict(*verdict);
            for condition in conditions.iter().rev() {
                then = self.condition(*condition, then, next);
            }
            next = then;
        }
        next
    }

    /// Code that goes to `yes` if the condition holds. Words are compared, the upper one first.
    fn condition(&mut self, condition: Condition, yes: Label, no: Label) -> Label {
        match condition.comparison {
            Comparison::Equal(value) => self.both(condition.argument, u64::MAX, value, (yes, no)),
            Comparison::NotEqual(value) => self.both(condition.argument, u64::MAX, value, (no, yes)),
            Comparison::Masked { mask, value } => self.both(condition.argument, mask, value, (yes, no)),
            Comparison::AtLeast(value) => self.ordered(condition.argument, Test::AtLeast, value, (yes, no)),
            Comparison::Greater(value) => self.ordered(condition.argument, Test::Greater, value, (yes, no)),
            Comparison::Less(value) => self.ordered(condition.argument, Test::AtLeast, value, (no, yes)),
            Comparison::AtMost(value) => self.ordered(condition.argument, Test::Greater, value, (no, yes)),
        }
    }
    /// Goes to the first of `targets` if both words, masked, are those of `value`.
    fn both(&mut self, argument: u32, mask: u64, value: u64, (yes, no): (Label, Label)) -> Label {
        let mut then = yes;
        for (word, shift) in [(0, 0), (1, 32)] {
            let [mask, value] = [mask, value].map(|whole| half(whole, shift));
            self.code.branch(Test::Equal, value, then, no);
            if mask != u32::MAX {
                self.code.mask(mask);
            }
            then = self.code.load(ARGUMENTS + 8 * argument + 4 * word);
        }
        then
    }

    /// Goes to the first of `targets` if the argument passes `test` against `value`.
    fn ordered(&mut self, argument: u32, test: Test, value: u64, (yes, no): (Label, Label)) -> Label {
        let offset = ARGUMENTS + 8 * argument;
        self.code.branch(test, half(value, 0), yes, no);
        let low = self.code.load(offset);
        let equal = self.code.branch(Test::Equal, half(value, 32), low, no);
        self.code.branch(Test::Greater, half(value, 32), yes, equal);
        self.code.load(offset + 4)
    }
}

/// 32 bits of `whole`.
fn half(whole: u64, shift: u32) -> u32 {
    u32::try_from(whole >> shift & u64::from(u32::MAX)).expect("masked")
}
