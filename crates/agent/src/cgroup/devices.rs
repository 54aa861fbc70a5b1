//! Device rules of the OCI runtime specification (`config-linux.md`, "Allowed Device list") as a program of cgroup v2
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! The last rule that concerns an access decides, as with the files of cgroup v1; where none does, the access is denied.
//! What rules allow of one device, one after the other, adds up.

use kata_protocol::oci::LinuxDeviceCgroup;

/// `BPF_DEVCG_ACC_*`.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

/// `BPF_DEVCG_DEV_*`.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// What every container may do, as under runc: make any node, and use the devices without which no program runs, and tun.
const ALWAYS: [(u32, Option<u32>, Option<u32>, u32); 11] = [
    (CHARACTER, None, None, MKNOD),
    (BLOCK, None, None, MKNOD),
    (CHARACTER, Some(1), Some(3), ALL),
    (CHARACTER, Some(1), Some(5), ALL),
    (CHARACTER, Some(1), Some(7), ALL),
    (CHARACTER, Some(1), Some(8), ALL),
    (CHARACTER, Some(1), Some(9), ALL),
    (CHARACTER, Some(5), Some(0), ALL),
    (CHARACTER, Some(5), Some(2), ALL),
    (CHARACTER, Some(10), Some(200), ALL),
    (CHARACTER, Some(136), None, ALL),
];

/// A rule that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("The device rule has the unknown {what} {value:?}; correct it in linux.resources.devices")]
pub(crate) struct RuleError {
    what: &'static str,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None` for both kinds.
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Rule {
    fn read(rule: &LinuxDeviceCgroup) -> Result<Self, RuleError> {
        let kind = match rule.Type.as_str() {
            "" | "a" => None,
            "b" => Some(BLOCK),
            "c" | "u" => Some(CHARACTER),
            other => return Err(RuleError { what: "type", value: other.to_owned() }),
        };
        let mut access = 0;
        for letter in rule.Access.chars() {
            access |= match letter {
                'm' => MKNOD,
                'r' => READ,
                'w' => WRITE,
                _ => return Err(RuleError { what: "access", value: rule.Access.clone() }),
            };
        }
        let (mut major, mut minor) = (None, None);
        // A rule for all devices has no numbers, even if some stand there.
        if kind.is_some() {
            (major, minor) = (number("major", rule.Major)?, number("minor", rule.Minor)?);
        }
        Ok(Self { allow: rule.Allow, kind, major, minor, access })
    }

    /// Adds itself to a rule that allows something of the same devices, if no other stands between them that forbids.
    fn add_to(self, rules: &mut Vec<Self>) {
        let same =
            |rule: &&mut Self| (rule.kind, rule.major, rule.minor) == (self.kind, self.major, self.minor);
        let allowing = rules.iter_mut().rev().take_while(|rule| self.allow && rule.allow);
        match allowing.into_iter().find(same) {
            Some(rule) => rule.access |= self.access,
            None => rules.push(self),
        }
    }

    /// Whether it decides about every access.
    fn is_final(&self) -> bool {
        self.kind.is_none() && self.access == ALL
    }
}

/// A device's number, or -1 for any. One that no device can have would not stand for all of them.
fn number(what: &'static str, number: i64) -> Result<Option<u32>, RuleError> {
    match u32::try_from(number) {
        Ok(number) => Ok(Some(number)),
        Err(_) if number == -1 => Ok(None),
        Err(_) => Err(RuleError { what, value: number.to_string() }),
    }
}

/// An instruction as the kernel takes it (`struct bpf_insn`).
pub(crate) type Instruction = u64;

/// The program for these rules; `None` if everything is allowed.
pub(crate) fn program(rules: &[LinuxDeviceCgroup]) -> Result<Option<Vec<Instruction>>, RuleError> {
    let always = ALWAYS.map(|(kind, major, minor, access)| Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    });
    let mut given = Vec::new();
    for rule in rules {
        Rule::read(rule)?.add_to(&mut given);
    }
    if given.last().is_none_or(|rule| rule.allow && rule.is_final()) {
        return Ok(None);
    }
    let mut code = Code::new();
    for rule in given.iter().chain(&always).rev() {
        code.rule(rule);
        if rule.is_final() {
            return Ok(Some(code.0));
        }
    }
    code.put(&answer(false));
    Ok(Some(code.0))
}

/// Registers: the answer, the context, and what is taken from it.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Operations (linux/bpf.h): class, source and size in one byte.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

/// An instruction in its parts.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    operation: u8,
    to: u8,
    from: u8,
    offset: u16,
    value: u32,
}

impl Step {
    /// An operation on a register and a constant.
    fn with(operation: u8, to: u8, value: u32) -> Self {
        Self { operation, to, value, ..Self::default() }
    }

    fn copy(to: u8, from: u8) -> Self {
        Self { operation: MOVE_REGISTER, to, from, ..Self::default() }
    }

    /// A word of the context.
    fn load(to: u8, offset: u16) -> Self {
        Self { operation: LOAD_WORD, to, from: CONTEXT, offset, ..Self::default() }
    }

    fn is_jump(self) -> bool {
        matches!(self.operation, JUMP_EQUAL | JUMP_NOT_EQUAL)
    }

    fn encoded(self) -> Instruction {
        let [low, high] = self.offset.to_ne_bytes();
        let [a, b, c, d] = self.value.to_ne_bytes();
        u64::from_ne_bytes([self.operation, self.from << 4 | self.to, low, high, a, b, c, d])
    }
}

struct Code(Vec<Instruction>);

impl Code {
    /// Begins by taking the context apart: type and access in one word, major, minor.
    fn new() -> Self {
        let mut code = Self(Vec::new());
        code.put(&[
            Step::load(ACCESS, 0),
            Step::copy(KIND, ACCESS),
            Step::with(AND, KIND, 0xffff),
            Step::with(SHIFT_RIGHT, ACCESS, 16),
            Step::load(MAJOR, 4),
            Step::load(MINOR, 8),
        ]);
        code
    }

    fn put(&mut self, steps: &[Step]) {
        self.0.extend(steps.iter().map(|step| step.encoded()));
    }

    /// Answers if the rule concerns the access, else goes on behind it.
    fn rule(&mut self, rule: &Rule) {
        let mut steps = Vec::new();
        steps.extend(rule.kind.map(|kind| Step::with(JUMP_NOT_EQUAL, KIND, kind)));
        if rule.access != ALL {
            // All that is asked for must be allowed, but nothing of it be denied.
            let (mask, jump) = match rule.allow {
                true => (ALL & !rule.access, JUMP_NOT_EQUAL),
                false => (rule.access, JUMP_EQUAL),
            };
            steps.extend([
                Step::copy(SCRATCH, ACCESS),
                Step::with(AND, SCRATCH, mask),
                Step::with(jump, SCRATCH, 0),
            ]);
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            steps.extend(number.map(|number| Step::with(JUMP_NOT_EQUAL, register, number)));
        }
        steps.extend(answer(rule.allow));
        let end = steps.len();
        for (at, step) in steps.iter_mut().enumerate().filter(|(_, step)| step.is_jump()) {
            step.offset = u16::try_from(end - at - 1).expect("a rule is a few instructions");
        }
        self.put(&steps);
    }
}

fn answer(allow: bool) -> [Step; 2] {
    [Step::with(MOVE, ANSWER, u32::from(allow)), Step::with(EXIT, 0, 0)]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{ALL, BLOCK, CHARACTER, Instruction, MKNOD, READ, WRITE, program};
    use kata_protocol::oci::LinuxDeviceCgroup;

    pub(crate) fn rule(
        allow: bool,
        kind: &str,
        (major, minor): (i64, i64),
        access: &str,
    ) -> LinuxDeviceCgroup {
        LinuxDeviceCgroup {
            Allow: allow,
            Type: kind.to_owned(),
            Major: major,
            Minor: minor,
            Access: access.to_owned(),
            ..Default::default()
        }
    }

    /// Runs a program as the kernel would.
    fn allows(program: &[Instruction], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let [operation, both, low, high, a, b, c, d] = program[at].to_ne_bytes();
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            let offset = usize::from(u16::from_ne_bytes([low, high]));
            let value = u64::from(u32::from_ne_bytes([a, b, c, d]));
            at += 1;
            match operation {
                super::LOAD_WORD => registers[to] = u64::from(context[offset / 4]),
                super::MOVE_REGISTER => registers[to] = registers[from],
                super::MOVE => registers[to] = value,
                super::AND => registers[to] &= value,
                super::SHIFT_RIGHT => registers[to] >>= value,
                super::JUMP_NOT_EQUAL if registers[to] != value => at += offset,
                super::JUMP_EQUAL if registers[to] == value => at += offset,
                super::JUMP_NOT_EQUAL | super::JUMP_EQUAL => {}
                super::EXIT => return registers[0] == 1,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    fn deny_all() -> LinuxDeviceCgroup {
        rule(false, "a", (-1, -1), "rwm")
    }

    #[test]
    fn without_rules_or_with_all_allowed_there_is_no_program() {
        assert!(program(&[]).unwrap().is_none());
        assert!(program(&[deny_all(), rule(true, "a", (-1, -1), "rwm")]).unwrap().is_none());
    }

    #[test]
    fn the_usual_devices_are_always_allowed() {
        let program = program(&[deny_all()]).unwrap().unwrap();
        assert!(allows(&program, CHARACTER, 1, 3, ALL) && allows(&program, CHARACTER, 136, 7, READ | WRITE));
        assert!(allows(&program, BLOCK, 8, 0, MKNOD) && !allows(&program, BLOCK, 8, 0, MKNOD | READ));
        assert!(!allows(&program, CHARACTER, 1, 1, READ) && !allows(&program, BLOCK, 1, 3, READ));
    }

    #[test]
    fn the_last_rule_decides() {
        let fuse = rule(true, "c", (10, 229), "rw");
        let not_written = rule(false, "c", (10, 229), "w");
        let program = program(&[deny_all(), fuse, not_written]).unwrap().unwrap();
        assert!(allows(&program, CHARACTER, 10, 229, READ));
        assert!(
            !allows(&program, CHARACTER, 10, 229, WRITE)
                && !allows(&program, CHARACTER, 10, 229, READ | WRITE)
        );
    }

    /// What two rules allowed could not be had at once.
    #[test]
    fn what_rules_allow_of_one_device_adds_up() {
        let [read, write] = ["r", "w"].map(|access| rule(true, "c", (10, 229), access));
        let other = rule(true, "b", (8, 0), "r");
        let both = program(&[deny_all(), read.clone(), other, write.clone()]).unwrap().unwrap();
        assert!(allows(&both, CHARACTER, 10, 229, READ | WRITE));
        let taken_back = rule(false, "c", (10, 229), "r");
        let program = program(&[deny_all(), read, taken_back, write]).unwrap().unwrap();
        assert!(allows(&program, CHARACTER, 10, 229, WRITE) && !allows(&program, CHARACTER, 10, 229, READ));
    }

    #[test]
    fn numbers_that_are_not_given_are_any() {
        let program = program(&[deny_all(), rule(true, "b", (8, -1), "r")]).unwrap().unwrap();
        assert!(allows(&program, BLOCK, 8, 3, READ) && !allows(&program, BLOCK, 9, 3, READ));
        assert!(!allows(&program, BLOCK, 8, 3, READ | WRITE) && !allows(&program, CHARACTER, 8, 3, READ));
    }

    /// A number that no device has was taken for "any": more was allowed than stood there.
    #[test]
    fn a_number_beyond_all_devices_is_refused() {
        for number in [1 << 32, i64::MAX, -2, i64::MIN] {
            let error = program(&[deny_all(), rule(true, "c", (number, 1), "rw")]).unwrap_err();
            assert!(error.to_string().contains(&format!("major \"{number}\"")), "{error}");
            assert!(program(&[deny_all(), rule(true, "b", (1, number), "rw")]).is_err());
        }
        assert!(program(&[rule(false, "a", (1 << 32, -7), "rwm")]).is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert!(program(&[rule(true, "x", (1, 1), "r")]).unwrap_err().to_string().contains("type \"x\""));
        assert!(program(&[rule(true, "c", (1, 1), "rx")]).unwrap_err().to_string().contains("\"rx\""));
    }
}
