//! Classic BPF as the kernel runs it for seccomp (`kernel/seccomp.c`, `seccomp_check_filter`).
#![expect(clippy::panic, reason = "a program that cannot be run is a finding")]

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

/// `BPF_MAXINSNS`.
const MAX_LENGTH: usize = 4096;

const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;
const MASK: u32 = BPF_ALU | BPF_AND | BPF_K;
const GO: u32 = BPF_JMP | BPF_JA;
const EQUAL: u32 = BPF_JMP | BPF_JEQ | BPF_K;
const GREATER: u32 = BPF_JMP | BPF_JGT | BPF_K;
const AT_LEAST: u32 = BPF_JMP | BPF_JGE | BPF_K;
const RETURN: u32 = BPF_RET | BPF_K;

/// `struct seccomp_data`, without the instruction's address.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The system call.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..=60 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                let word = if offset.is_multiple_of(8) { argument } else { argument >> 32 };
                u32::try_from(word & 0xffff_ffff).expect("masked")
            }
            _ => unreachable!("offset {offset} was verified"),
        }
    }
}

/// What the kernel asks of a program, and what this product's must keep to: it loads before it compares, and never asks
/// a listener, as there is none.
pub fn verify(program: &[sock_filter]) {
    assert!((1..=MAX_LENGTH).contains(&program.len()), "{} instructions", program.len());
    assert_eq!(u32::from(program[0].code), LOAD, "nothing is loaded");
    let inside = |at: usize, jump: u32| assert!(at + 1 + (jump as usize) < program.len(), "{at} jumps out");
    for (at, &sock_filter { code, jt: yes, jf: no, k }) in program.iter().enumerate() {
        match u32::from(code) {
            LOAD => {
                assert!(k == 0 || k == 4 || (16..=60).contains(&k) && k.is_multiple_of(4), "{at} loads {k}");
            }
            MASK => {}
            GO => inside(at, k),
            EQUAL | GREATER | AT_LEAST => [yes, no].into_iter().for_each(|jump| inside(at, jump.into())),
            RETURN => {}
            code => panic!("{at} has the code {code:#x}"),
        }
    }
    let last = program.last().map(|step| u32::from(step.code));
    assert_eq!(last, Some(RETURN), "the end can be run over");
}

/// The verdict on a call; the program has been verified.
#[must_use]
pub fn run(program: &[sock_filter], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let sock_filter { code, jt: yes, jf: no, k } = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { yes } else { no });
        match u32::from(code) {
            LOAD => accumulator = call.word(k),
            MASK => accumulator &= k,
            GO => at += k as usize,
            EQUAL => at += jump(accumulator == k),
            GREATER => at += jump(accumulator > k),
            AT_LEAST => at += jump(accumulator >= k),
            _ => return k,
        }
    }
}
