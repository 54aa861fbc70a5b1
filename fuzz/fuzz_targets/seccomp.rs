//! Seccomp profiles: each is refused, or compiled to a program that the kernel takes and that does what the profile says.
#![no_main]

use std::sync::LazyLock;

use kata_fuzz::pick;
use kata_fuzz::seccomp_machine::{Call, run, verify};
use kata_fuzz::seccomp_model::{Interfaces, X32_BIT, X86, X86_64, judge, verdict};
use kata_protocol::oci::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use kata_seccomp::Program;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

static INTERFACES: LazyLock<Interfaces> = LazyLock::new(Interfaces::default);

/// With one that must be refused at the end.
const ACTIONS: [&str; 10] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_",
];
const COMPARISONS: [&str; 8] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_",
];
const ARCHITECTURES: [&str; 5] =
    ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_"];

fuzz_target!(|input: &[u8]| {
    // An input that ends early has zeros behind it.
    let _ = check(&mut Unstructured::new(input));
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let profile = profile(input)?;
    let program = match Program::compile(&profile) {
        Ok(program) => program,
        Err(error) => {
            let error = error.to_string();
            assert!(!is_valid(&profile) || error.contains("instructions"), "{error}: {profile:?}");
            return Ok(());
        }
    };
    assert!(is_valid(&profile), "{profile:?}");
    let mut sent = profile.clone();
    program.replace(&mut sent);
    let program = Program::of(&sent).expect("it was compiled").instructions;
    verify(&program);
    for _ in 0..8 {
        let call = call(input, &profile)?;
        assert_eq!(run(&program, &call), judge(&profile, &INTERFACES, &call), "{call:x?} {profile:?}");
    }
    Ok(())
}

/// Whether every word has a meaning, and a listener can be told.
fn is_valid(profile: &LinuxSeccomp) -> bool {
    const ASK: &str = "SCMP_ACT_NOTIFY";
    let known = |action: &str| verdict(action, None).is_some();
    let asks_in_vain =
        |rule: &LinuxSyscall| rule.Action == ASK && rule.Names.iter().any(|name| name == "sendmsg");
    known(&profile.DefaultAction)
        && profile.DefaultAction != ASK
        && !profile.Syscalls.iter().any(asks_in_vain)
        && profile.Architectures.iter().all(|name| name != "SCMP_ARCH_")
        && profile.Syscalls.iter().all(|rule| {
            known(&rule.Action) && rule.Args.iter().all(|arg| arg.Index < 6 && arg.Op != "SCMP_CMP_")
        })
}

fn profile(input: &mut Unstructured<'_>) -> Result<LinuxSeccomp> {
    let mut profile = LinuxSeccomp {
        DefaultAction: action(input)?,
        DefaultErrnoRet: input.arbitrary()?,
        ..Default::default()
    };
    for _ in 0..input.int_in_range(0..=2)? {
        let last = ARCHITECTURES.len() - usize::from(input.ratio(15, 16)?);
        profile.Architectures.push(pick(input, &ARCHITECTURES[..last])?.to_owned());
    }
    for _ in 0..input.int_in_range(0..=6)? {
        profile.Syscalls.push(rule(input)?);
    }
    Ok(profile)
}

fn action(input: &mut Unstructured<'_>) -> Result<String> {
    let last = ACTIONS.len() - usize::from(input.ratio(31, 32)?);
    Ok(pick(input, &ACTIONS[..last])?.to_owned())
}

fn rule(input: &mut Unstructured<'_>) -> Result<LinuxSyscall> {
    let mut rule = LinuxSyscall { Action: action(input)?, ..Default::default() };
    if input.arbitrary()? {
        rule.set_errnoret(input.arbitrary()?);
    }
    let names = &INTERFACES.names;
    // A few, or very many: jumps become long.
    let many = input.ratio(1, 8)?;
    for _ in 0..input.int_in_range(1..=4)? {
        let first = input.int_in_range(0..=names.len() - 1)?;
        let count = if many { input.int_in_range(1..=names.len() - first)? } else { 1 };
        rule.Names.extend(names[first..first + count].iter().map(|name| (*name).to_owned()));
    }
    for _ in 0..input.int_in_range(0..=3)? {
        let last = COMPARISONS.len() - usize::from(input.ratio(31, 32)?);
        let most = if input.ratio(31, 32)? { 5 } else { 6 };
        rule.Args.push(LinuxSeccompArg {
            Index: input.int_in_range(0..=most)?,
            Op: pick(input, &COMPARISONS[..last])?.to_owned(),
            Value: value(input)?,
            ValueTwo: value(input)?,
            ..Default::default()
        });
    }
    Ok(rule)
}

/// Where halves of words are compared, what matters is about their limits.
fn value(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=3)? {
        0 => input.arbitrary()?,
        1 => u64::from(input.arbitrary::<u8>()?),
        2 => u64::from(input.arbitrary::<u8>()?) << 32 | u64::from(input.arbitrary::<u8>()?),
        _ => u64::from(u32::MAX),
    })
}

/// A call near to what the profile speaks of.
fn call(input: &mut Unstructured<'_>, profile: &LinuxSeccomp) -> Result<Call> {
    let mut call = Call {
        number: input.int_in_range(0..=500)?,
        architecture: *input.choose(&[X86_64, X86_64, X86, 0xc000_00b7])?,
        arguments: [0; 6],
    };
    if input.ratio(1, 32)? {
        call.number |= X32_BIT;
    }
    if profile.Syscalls.is_empty() {
        return Ok(call);
    }
    let rule = input.choose(&profile.Syscalls)?;
    let name = input.choose(&rule.Names)?.as_str();
    let numbers = if call.architecture == X86 { &INTERFACES.compatible } else { &INTERFACES.own };
    if let Some(number) = numbers.get(name).filter(|_| input.ratio(7, 8).unwrap_or(false)) {
        call.number = number.wrapping_add(input.int_in_range(0..=2)?).wrapping_sub(1);
    }
    for arg in &rule.Args {
        let near = input.int_in_range(-1_i64..=1)?;
        let base = if arg.Op == "SCMP_CMP_MASKED_EQ" { arg.ValueTwo } else { arg.Value };
        let noise = if input.ratio(1, 4)? { input.arbitrary()? } else { 0 };
        if let Some(argument) = usize::try_from(arg.Index).ok().and_then(|at| call.arguments.get_mut(at)) {
            *argument = base.wrapping_add_signed(near) ^ noise;
        }
    }
    Ok(call)
}
