//! Device rules: each list is refused, or compiled to a program that the kernel takes and that does what the rules say.
#![no_main]

use kata_agent::fuzzing::device_program;
use kata_fuzz::device_machine::{Access, allows, verify};
use kata_fuzz::pick;
use kata_protocol::oci::LinuxDeviceCgroup;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const TYPES: [&str; 6] = ["a", "b", "c", "u", "", "p"];
const ACCESSES: [&str; 10] = ["rwm", "rw", "r", "w", "m", "", "rm", "wm", "mrrw", "rx"];
const NUMBERS: [i64; 16] =
    [-1, 0, 1, 3, 5, 8, 9, 10, 136, 200, 229, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, i64::MAX, i64::MIN];

fuzz_target!(|input: &[u8]| {
    // An input that ends early has zeros behind it.
    let _ = check(&mut Unstructured::new(input));
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let mut rules = Vec::new();
    for _ in 0..input.int_in_range(0..=8)? {
        rules.push(LinuxDeviceCgroup {
            Allow: input.arbitrary()?,
            Type: pick(input, &TYPES)?.to_owned(),
            Major: number(input)?,
            Minor: number(input)?,
            Access: pick(input, &ACCESSES)?.to_owned(),
            ..Default::default()
        });
    }
    let program = device_program(&rules);
    assert_eq!(program.is_ok(), rules.iter().all(is_valid), "{program:?}: {rules:?}");
    let Ok(program) = program else { return Ok(()) };
    if let Some(program) = &program {
        verify(program);
    }
    for _ in 0..16 {
        let access = access(input, &rules)?;
        let allowed = program.as_ref().is_none_or(|program| allows(program, access));
        assert_eq!(allowed, judge(&rules, access), "{access:?} {rules:?}");
    }
    Ok(())
}

fn number(input: &mut Unstructured<'_>) -> Result<i64> {
    if input.ratio(1, 8)? { input.arbitrary() } else { input.choose(&NUMBERS).copied() }
}

fn is_wide(rule: &LinuxDeviceCgroup) -> bool {
    matches!(rule.Type.as_str(), "a" | "")
}

/// Numbers of devices have 32 bits; -1 stands for all of them.
fn is_valid(rule: &LinuxDeviceCgroup) -> bool {
    let fits = |number: i64| is_wide(rule) || (-1..=0xffff_ffff).contains(&number);
    rule.Type != "p" && !rule.Access.contains('x') && fits(rule.Major) && fits(rule.Minor)
}

fn access(input: &mut Unstructured<'_>, rules: &[LinuxDeviceCgroup]) -> Result<Access> {
    let mut access = Access {
        kind: input.int_in_range(1..=2)?,
        major: input.int_in_range(0..=260)?,
        minor: input.int_in_range(0..=260)?,
        access: input.int_in_range(1..=7)?,
    };
    if !rules.is_empty() && input.ratio(7, 8)? {
        let rule = input.choose(rules)?;
        access.major = u32::try_from(rule.Major).unwrap_or(access.major);
        access.minor = u32::try_from(rule.Minor).unwrap_or(access.minor);
    }
    Ok(access)
}

fn mask(letters: &str) -> u32 {
    letters
        .chars()
        .map(|letter| match letter {
            'm' => 1,
            'r' => 2,
            _ => 4,
        })
        .fold(0, |mask, bit| mask | bit)
}

/// What the rules say; of valid ones.
fn judge(rules: &[LinuxDeviceCgroup], access: Access) -> bool {
    if rules.is_empty() {
        return true;
    }
    let last = (0..rules.len()).rev().find(|at| {
        let rule = &rules[*at];
        let kind = match rule.Type.as_str() {
            "b" => access.kind == 1,
            "c" | "u" => access.kind == 2,
            _ => true,
        };
        let is = |number: i64, device: u32| is_wide(rule) || number == -1 || number == i64::from(device);
        let letters = letters_at(rules, *at);
        let concerns = if rule.Allow { access.access & !letters == 0 } else { access.access & letters != 0 };
        kind && is(rule.Major, access.major) && is(rule.Minor, access.minor) && concerns
    });
    is_always_allowed(access) || last.is_some_and(|at| rules[at].Allow)
}

/// What a rule is about: together with those of the same devices around it, as long as all of them allow.
fn letters_at(rules: &[LinuxDeviceCgroup], at: usize) -> u32 {
    let rule = &rules[at];
    if !rule.Allow {
        return mask(&rule.Access);
    }
    let devices = |rule: &LinuxDeviceCgroup| match rule.Type.as_str() {
        "a" | "" => (0, -1, -1),
        "b" => (1, rule.Major, rule.Minor),
        _ => (2, rule.Major, rule.Minor),
    };
    let before = rules[..at].iter().rev().take_while(|other| other.Allow);
    let after = rules[at..].iter().take_while(|other| other.Allow);
    let same = before.chain(after).filter(|other| devices(other) == devices(rule));
    same.fold(0, |letters, other| letters | mask(&other.Access))
}

/// Making nodes; null, zero, full, random, urandom, tty, ptmx, tun, and terminals.
fn is_always_allowed(access: Access) -> bool {
    let usual = matches!(
        (access.kind, access.major, access.minor),
        (2, 1, 3 | 5 | 7 | 8 | 9) | (2, 5, 0 | 2) | (2, 10, 200) | (2, 136, _)
    );
    access.access == 1 || usual
}
