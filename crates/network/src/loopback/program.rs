//! The program at the socket lookup (`BPF_PROG_TYPE_SK_LOOKUP`): what is TCP and goes to the loopback is for the socket in
//! the map's slot of its family; anything else goes its way.

use std::os::fd::{AsRawFd, OwnedFd};

/// How many slots the map has, and which is whose.
pub(super) const SLOTS: u32 = 2;
pub(super) const V4: u32 = 0;
pub(super) const V6: u32 = 1;

/// An instruction as the kernel takes it (`struct bpf_insn`).
pub(super) type Instruction = u64;

/// Registers: results; arguments of functions, of which the first begins as the context; and two that functions leave alone.
const RESULT: u8 = 0;
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const THIRD: u8 = 3;
const CONTEXT: u8 = 6;
const KEPT: u8 = 7;
const FRAME: u8 = 10;

/// Operations (linux/bpf.h): class, source and size in one byte.
const LOAD_BYTE: u8 = 0x71;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const LOAD_ADDRESS: u8 = 0x18;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const ADD: u8 = 0x07;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The address to be loaded is that of the map with this descriptor.
const PSEUDO_MAP_FD: u8 = 1;

/// Functions of the kernel.
const MAP_LOOKUP: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

/// Fields of the context (`struct bpf_sk_lookup`). Addresses are in the network's byte order.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_V4: i16 = 40;
const LOCAL_V6: i16 = 44;

/// Values of the fields.
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const TCP: i32 = 6;
/// The first byte of each IPv4 address of the loopback.
const LOOPBACK_NET: i32 = 127;
/// The last word of `::1`.
const LOOPBACK_WORD: i32 = i32::from_ne_bytes([0, 0, 0, 1]);

/// `SK_PASS`: the lookup goes on, with the assigned socket if there is one.
const PASS: i32 = 1;

/// The whole program, with the map's descriptor in it.
pub(super) fn instructions(map: &OwnedFd) -> Vec<Instruction> {
    let mut code = Code::default();
    code.put(MOVE_REGISTER, (CONTEXT, FIRST), 0, 0);
    code.need(LOAD_WORD, PROTOCOL, TCP);
    code.put(LOAD_WORD, (RESULT, CONTEXT), FAMILY, 0);
    let to_v6 = code.jump(JUMP_EQUAL, AF_INET6);
    code.need(LOAD_WORD, FAMILY, AF_INET);
    code.need(LOAD_BYTE, LOCAL_V4, LOOPBACK_NET);
    code.put(MOVE, (KEPT, 0), 0, V4.cast_signed());
    let to_socket = code.jump(JUMP, 0);
    code.land(to_v6);
    for word in 0..3 {
        code.need(LOAD_WORD, LOCAL_V6 + 4 * word, 0);
    }
    code.need(LOAD_WORD, LOCAL_V6 + 12, LOOPBACK_WORD);
    code.put(MOVE, (KEPT, 0), 0, V6.cast_signed());
    code.land(to_socket);
    code.assign(map.as_raw_fd());
    code.end()
}

#[derive(Default)]
struct Code {
    /// In bytes, as jumps are filled in later.
    instructions: Vec<[u8; 8]>,
    /// Jumps to the program's end.
    exits: Vec<usize>,
}

impl Code {
    fn put(&mut self, operation: u8, (to, from): (u8, u8), offset: i16, value: i32) {
        let [low, high] = offset.to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
        self.instructions.push([operation, registers, low, high, a, b, c, d]);
    }

    /// A jump that is to [land](Self::land) somewhere, on a comparison of the result.
    fn jump(&mut self, operation: u8, value: i32) -> usize {
        self.put(operation, (RESULT, 0), 0, value);
        self.instructions.len() - 1
    }

    /// Here.
    fn land(&mut self, jump: usize) {
        let distance = i16::try_from(self.instructions.len() - jump - 1).expect("the program is short");
        self.instructions[jump][2..4].copy_from_slice(&distance.to_ne_bytes());
    }

    /// The program ends unless a field has this value.
    fn need(&mut self, load: u8, field: i16, value: i32) {
        self.put(load, (RESULT, CONTEXT), field, 0);
        let exit = self.jump(JUMP_NOT_EQUAL, value);
        self.exits.push(exit);
    }

    /// Assigns the socket in the slot that is kept; without one the program ends.
    fn assign(&mut self, map: i32) {
        self.put(STORE_WORD, (FRAME, KEPT), -4, 0);
        self.put(LOAD_ADDRESS, (FIRST, PSEUDO_MAP_FD), 0, map);
        // The address's upper half.
        self.put(0, (0, 0), 0, 0);
        self.put(MOVE_REGISTER, (SECOND, FRAME), 0, 0);
        self.put(ADD, (SECOND, 0), 0, -4);
        self.put(CALL, (0, 0), 0, MAP_LOOKUP);
        let exit = self.jump(JUMP_EQUAL, 0);
        self.exits.push(exit);
        self.put(MOVE_REGISTER, (KEPT, RESULT), 0, 0);
        self.put(MOVE_REGISTER, (FIRST, CONTEXT), 0, 0);
        self.put(MOVE_REGISTER, (SECOND, KEPT), 0, 0);
        self.put(MOVE, (THIRD, 0), 0, 0);
        self.put(CALL, (0, 0), 0, SK_ASSIGN);
        self.put(MOVE_REGISTER, (FIRST, KEPT), 0, 0);
        self.put(CALL, (0, 0), 0, SK_RELEASE);
    }

    fn end(mut self) -> Vec<Instruction> {
        for exit in std::mem::take(&mut self.exits) {
            self.land(exit);
        }
        self.put(MOVE, (RESULT, 0), 0, PASS);
        self.put(EXIT, (0, 0), 0, 0);
        self.instructions.into_iter().map(Instruction::from_ne_bytes).collect()
    }
}
