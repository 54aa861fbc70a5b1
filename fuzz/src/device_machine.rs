//! The part of eBPF that device programs use, as the kernel's verifier and interpreter have it.
#![expect(clippy::panic, reason = "a program that cannot be run is a finding")]

/// An access to a device.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// `BPF_DEVCG_DEV_*`: 1 is block, 2 is character.
    pub kind: u32,
    /// The device's number.
    pub major: u32,
    /// The device's number.
    pub minor: u32,
    /// `BPF_DEVCG_ACC_*`: 1 is mknod, 2 read, 4 write.
    pub access: u32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

struct Step {
    operation: u8,
    to: usize,
    from: usize,
    offset: usize,
    value: u64,
}

impl Step {
    fn of(instruction: u64) -> Self {
        let [operation, both, low, high, a, b, c, d] = instruction.to_ne_bytes();
        Self {
            operation,
            to: usize::from(both & 15),
            from: usize::from(both >> 4),
            offset: usize::from(u16::from_ne_bytes([low, high])),
            value: u64::from(u32::from_ne_bytes([a, b, c, d])),
        }
    }
}

/// Runs on every way through the program: known operations, registers that were written before, jumps forward and
/// inside, an end with an answer.
pub fn verify(program: &[u64]) {
    assert!(!program.is_empty());
    for (at, step) in program.iter().map(|step| Step::of(*step)).enumerate() {
        assert!(step.to < 10 && step.from < 10, "{at} uses a register that is not there");
        match step.operation {
            LOAD_WORD => {
                assert!(
                    step.from == 1 && step.offset <= 8 && step.offset.is_multiple_of(4),
                    "{at} loads outside"
                );
            }
            MOVE_REGISTER | MOVE | AND => {}
            SHIFT_RIGHT => assert!(step.value < 64, "{at} shifts too far"),
            JUMP_NOT_EQUAL | JUMP_EQUAL => assert!(at + 1 + step.offset < program.len(), "{at} jumps out"),
            EXIT => {}
            operation => panic!("{at} has the operation {operation:#x}"),
        }
    }
    let last = program.last().map(|step| Step::of(*step).operation);
    assert_eq!(last, Some(EXIT), "the end can be run over");
}

/// Whether the access is allowed; the program has been verified.
///
/// # Panics
/// A register is read that was not written.
#[must_use]
pub fn allows(program: &[u64], access: Access) -> bool {
    let context = [access.access << 16 | access.kind, access.major, access.minor];
    let mut registers: [Option<u64>; 10] = [None; 10];
    registers[1] = Some(0);
    let mut at = 0;
    loop {
        let step = Step::of(program[at]);
        let read = |register: usize| registers[register].expect("a register is read that was not written");
        at += 1;
        match step.operation {
            LOAD_WORD => registers[step.to] = Some(u64::from(context[step.offset / 4])),
            MOVE_REGISTER => registers[step.to] = Some(read(step.from)),
            MOVE => registers[step.to] = Some(step.value),
            AND => registers[step.to] = Some(read(step.to) & step.value),
            SHIFT_RIGHT => registers[step.to] = Some(read(step.to) >> step.value),
            JUMP_NOT_EQUAL => at += if read(step.to) == step.value { 0 } else { step.offset },
            JUMP_EQUAL => at += if read(step.to) == step.value { step.offset } else { 0 },
            _ => {
                let answer = read(0);
                assert!(answer <= 1, "the answer is {answer}");
                return answer == 1;
            }
        }
    }
}
