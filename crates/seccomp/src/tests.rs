//! Programs are run here, by a small machine, and compared with what the profile says.
#![expect(clippy::cast_possible_truncation, reason = "words of arguments are cut out on purpose")]

use kata_protocol::oci;
use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use syscalls::x86_64::Sysno;

use super::{ENOSYS, Program, X32_BIT, X86, X86_64};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const KILL: u32 = libc::SECCOMP_RET_KILL_THREAD;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

fn call(number: Sysno) -> Call {
    Call { number: u32::try_from(number.id()).unwrap(), architecture: X86_64, arguments: [0; 6] }
}

impl Call {
    fn with(self, arguments: [u64; 6]) -> Self {
        Self { arguments, ..self }
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..=60 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => panic!("{offset} is no word of a call's description"),
        }
    }
}

/// Runs a program as the kernel would.
fn run(program: &[sock_filter], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { jt } else { jf });
        match u32::from(code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => accumulator = call.word(k),
            code if code == BPF_ALU | BPF_AND | BPF_K => accumulator &= k,
            code if code == BPF_JMP | BPF_JA => at += k as usize,
            code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(accumulator == k),
            code if code == BPF_JMP | BPF_JGT | BPF_K => at += jump(accumulator > k),
            code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(accumulator >= k),
            code if code == BPF_RET | BPF_K => return k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

fn verdict(profile: &oci::LinuxSeccomp, call: &Call) -> u32 {
    run(&Program::compile(profile).unwrap().instructions, call)
}

fn rule(names: &[&str], action: &str, args: Vec<oci::LinuxSeccompArg>) -> oci::LinuxSyscall {
    oci::LinuxSyscall {
        Names: names.iter().map(|name| (*name).to_owned()).collect(),
        Action: action.to_owned(),
        Args: args,
        ..Default::default()
    }
}

fn arg(index: u64, op: &str, value: u64, value_two: u64) -> oci::LinuxSeccompArg {
    oci::LinuxSeccompArg {
        Index: index,
        Value: value,
        ValueTwo: value_two,
        Op: op.to_owned(),
        ..Default::default()
    }
}

fn profile(default: &str, rules: Vec<oci::LinuxSyscall>) -> oci::LinuxSeccomp {
    oci::LinuxSeccomp { DefaultAction: default.to_owned(), Syscalls: rules, ..Default::default() }
}

/// With `SCMP_ACT_NOTIFY` as the default, every call went to a listener that there is not.
#[test]
fn nobody_is_asked_about_calls_that_are_not_named() {
    let asking = profile("SCMP_ACT_NOTIFY", vec![rule(&["read"], "SCMP_ACT_ALLOW", vec![])]);
    assert!(matches!(Program::compile(&asking), Err(super::ProfileError::Notify { .. })));
}

#[test]
fn what_is_not_named_gets_the_default() {
    let profile =
        profile("SCMP_ACT_ERRNO", vec![rule(&["read", "write", "statx"], "SCMP_ACT_ALLOW", vec![])]);
    assert_eq!(verdict(&profile, &call(Sysno::read)), ALLOW);
    assert_eq!(verdict(&profile, &call(Sysno::write)), ALLOW);
    assert_eq!(verdict(&profile, &call(Sysno::open)), EPERM);
    assert_eq!(verdict(&profile, &call(Sysno::statx)), ALLOW);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let mut profile = profile("SCMP_ACT_ERRNO", vec![rule(&["read", "statx"], "SCMP_ACT_ALLOW", vec![])]);
    assert_eq!(verdict(&profile, &call(Sysno::openat2)), ENOSYS);
    profile.DefaultErrnoRet = Some(libc::EACCES as u32);
    assert_eq!(verdict(&profile, &call(Sysno::openat2)), libc::SECCOMP_RET_ERRNO | libc::EACCES as u32);
    profile.DefaultErrnoRet = None;
    profile.DefaultAction = "SCMP_ACT_LOG".to_owned();
    assert_eq!(verdict(&profile, &call(Sysno::openat2)), libc::SECCOMP_RET_LOG);
}

#[test]
fn other_interfaces_are_closed_unless_they_are_listed() {
    let mut profile = profile("SCMP_ACT_ERRNO", vec![rule(&["write"], "SCMP_ACT_ALLOW", vec![])]);
    let x32 = Call { number: X32_BIT + 1, ..call(Sysno::write) };
    // 4 is `write` there, and `stat` here.
    let x86 = Call { number: 4, architecture: X86, arguments: [0; 6] };
    let arm = Call { architecture: 0xc000_00b7, ..x86 };
    for foreign in [&x32, &x86, &arm] {
        assert_eq!(verdict(&profile, foreign), KILL, "{foreign:?}");
    }
    profile.Architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(verdict(&profile, &x32), ENOSYS);
    assert_eq!(verdict(&profile, &x86), ALLOW);
    assert_eq!(verdict(&profile, &arm), KILL);
}

#[test]
fn each_action_has_its_verdict() {
    for (action, errno, expected) in [
        ("SCMP_ACT_KILL", None, KILL),
        ("SCMP_ACT_KILL_THREAD", None, KILL),
        ("SCMP_ACT_KILL_PROCESS", None, libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", Some(38), ENOSYS),
        ("SCMP_ACT_TRACE", Some(7), libc::SECCOMP_RET_TRACE | 7),
        ("SCMP_ACT_LOG", None, libc::SECCOMP_RET_LOG),
    ] {
        let mut rule = rule(&["mount"], action, vec![]);
        rule.ErrnoRet = errno.map(oci::linux_syscall::ErrnoRet::Errnoret);
        assert_eq!(
            verdict(&profile("SCMP_ACT_ALLOW", vec![rule]), &call(Sysno::mount)),
            expected,
            "{action}"
        );
    }
}

#[test]
fn an_unconditional_rule_stands_over_conditional_ones() {
    let conditional = rule(&["clone"], "SCMP_ACT_ERRNO", vec![arg(0, "SCMP_CMP_EQ", 1, 0)]);
    let always = rule(&["clone"], "SCMP_ACT_ALLOW", vec![]);
    for rules in [vec![conditional.clone(), always.clone()], vec![always, conditional]] {
        let profile = profile("SCMP_ACT_KILL", rules);
        assert_eq!(verdict(&profile, &call(Sysno::clone).with([1, 0, 0, 0, 0, 0])), ALLOW);
    }
}

#[test]
fn two_conditions_on_one_argument_are_two_rules() {
    let either = vec![arg(0, "SCMP_CMP_EQ", 1, 0), arg(0, "SCMP_CMP_EQ", 2, 0)];
    let profile = profile("SCMP_ACT_ERRNO", vec![rule(&["socket"], "SCMP_ACT_ALLOW", either)]);
    for (value, expected) in [(1, ALLOW), (2, ALLOW), (3, EPERM)] {
        assert_eq!(verdict(&profile, &call(Sysno::socket).with([value, 0, 0, 0, 0, 0])), expected);
    }
}

#[test]
fn words_without_meaning_are_named() {
    let refused = |profile: oci::LinuxSeccomp| Program::compile(&profile).unwrap_err().to_string();
    assert!(refused(profile("SCMP_ACT_MAYBE", vec![])).contains("action \"SCMP_ACT_MAYBE\""));
    let odd = rule(&["read"], "SCMP_ACT_ALLOW", vec![arg(0, "SCMP_CMP_ALMOST", 0, 0)]);
    assert!(refused(profile("SCMP_ACT_KILL", vec![odd])).contains("SCMP_CMP_ALMOST"));
    let seventh = rule(&["read"], "SCMP_ACT_ALLOW", vec![arg(6, "SCMP_CMP_EQ", 0, 0)]);
    assert!(refused(profile("SCMP_ACT_KILL", vec![seventh])).contains("argument 6"));
    let mut foreign = profile("SCMP_ACT_KILL", vec![]);
    foreign.Architectures = vec!["SCMP_ARCH_PDP11".to_owned()];
    assert!(refused(foreign.clone()).contains("SCMP_ARCH_PDP11"));
    foreign.Architectures.clear();
    foreign.Flags = vec!["SECCOMP_FILTER_FLAG_FAST".to_owned()];
    assert!(refused(foreign).contains("SECCOMP_FILTER_FLAG_FAST"));
}

#[test]
fn a_profile_that_the_kernel_would_not_take_is_refused() {
    let many = (0..900).map(|value| arg(0, "SCMP_CMP_EQ", value, 0)).collect();
    let error = Program::compile(&profile("SCMP_ACT_KILL", vec![rule(&["read"], "SCMP_ACT_ALLOW", many)]))
        .unwrap_err();
    assert!(error.to_string().contains("4096"), "{error}");
}

/// Whether a condition holds, read from the profile's own words.
fn holds(arg: &oci::LinuxSeccompArg, arguments: &[u64; 6]) -> bool {
    let given = arguments[arg.Index as usize];
    match arg.Op.as_str() {
        "SCMP_CMP_NE" => given != arg.Value,
        "SCMP_CMP_LT" => given < arg.Value,
        "SCMP_CMP_LE" => given <= arg.Value,
        "SCMP_CMP_EQ" => given == arg.Value,
        "SCMP_CMP_GE" => given >= arg.Value,
        "SCMP_CMP_GT" => given > arg.Value,
        _ => given & arg.Value == arg.ValueTwo,
    }
}

/// Few values, so that arguments meet the conditions' own, in either word.
fn value() -> impl Strategy<Value = u64> {
    select(vec![0, 1, 2, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x2_0000_0000, u64::MAX])
}

fn args() -> impl Strategy<Value = Vec<oci::LinuxSeccompArg>> {
    let ops = vec![
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    let one = (select(ops), value(), value());
    // Each argument once: twice is another test.
    vec(one, 0..3).prop_map(|all| {
        all.into_iter().zip(0..).map(|((op, value, two), index)| arg(index, op, value, two)).collect()
    })
}

prop_compose! {
    fn rules()(all in vec((vec(0_usize..460, 1..60), select(vec!["SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"]), args()), 0..8))
              -> Vec<oci::LinuxSyscall> {
        all.into_iter().map(|(numbers, action, args)| {
            let names: Vec<&str> =
                numbers.into_iter().filter_map(|number| Sysno::new(number).map(|call| call.name())).collect();
            rule(&names, action, args)
        }).collect()
    }
}

proptest! {
    #[test]
    fn a_program_does_what_its_profile_says(rules in rules(), numbers in vec(0_u32..470, 40), arguments in [value(), value(), value(), value(), value(), value()]) {
        let profile = profile("SCMP_ACT_LOG", rules);
        let program = Program::compile(&profile).unwrap().instructions;
        for number in numbers {
            let name = Sysno::new(number as usize).map(|call| call.name());
            let fitting = |unconditional: bool| profile.Syscalls.iter().find(|rule| {
                rule.Names.iter().any(|own| Some(own.as_str()) == name)
                    && rule.Args.is_empty() == unconditional
                    && rule.Args.iter().all(|arg| holds(arg, &arguments))
            });
            let expected = match fitting(true).or_else(|| fitting(false)).map(|rule| rule.Action.as_str()) {
                Some("SCMP_ACT_ALLOW") => ALLOW,
                Some("SCMP_ACT_KILL_PROCESS") => libc::SECCOMP_RET_KILL_PROCESS,
                Some(_) => libc::SECCOMP_RET_TRAP,
                None => libc::SECCOMP_RET_LOG,
            };
            let call = Call { number, architecture: X86_64, arguments };
            prop_assert_eq!(run(&program, &call), expected, "call {}", number);
        }
    }
}

#[test]
fn a_program_takes_the_place_of_its_profile_and_comes_back() {
    let rules = vec![rule(&["read"], "SCMP_ACT_ALLOW", vec![]), rule(&["getpid"], "SCMP_ACT_NOTIFY", vec![])];
    let mut sent = profile("SCMP_ACT_ERRNO", rules);
    sent.ListenerPath = "/run/answers".to_owned();
    let program = Program::compile(&sent).unwrap();
    program.clone().replace(&mut sent);
    assert!(sent.Syscalls.is_empty() && sent.ListenerPath == "/run/answers");
    let came = Program::of(&sent).unwrap();
    let parts = |step: &sock_filter| (step.code, step.jt, step.jf, step.k);
    assert!(came.instructions.iter().map(parts).eq(program.instructions.iter().map(parts)));
    assert!(came.asks() && came.flags == program.flags);
}

#[test]
fn bytes_that_are_no_program_are_refused() {
    for length in [7, 8 * (super::MAX_LENGTH + 1)] {
        let garbled = oci::LinuxSeccomp { Program: vec![0; length], ..Default::default() };
        let error = Program::of(&garbled).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "The compiled seccomp profile has {length} bytes, which is no program; use the agent of the same release"
            )
        );
    }
}
