//! Classic BPF, written from its end: what a jump goes to exists already, so its distance is known.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

/// The longest jump that a condition can make.
const FAR: usize = u8::MAX as usize;

/// A place in the program: the number of instructions from it to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// How the accumulator is compared with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Greater,
    AtLeast,
}

/// A program that grows to its front.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The last instruction first.
    reversed: Vec<sock_filter>,
}

impl Assembler {
    /// The instruction that was written last, which runs first.
    pub(super) fn here(&self) -> Label {
        Label(self.reversed.len())
    }

    fn put(&mut self, code: u32, jt: u8, jf: u8, k: u32) -> Label {
        let code = u16::try_from(code).expect("instruction codes have 16 bits");
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.here()
    }

    /// Ends the program with `verdict`.
    pub(super) fn verdict(&mut self, verdict: u32) -> Label {
        self.put(BPF_RET | BPF_K, 0, 0, verdict)
    }

    /// Loads the word at `offset` of the call's description.
    pub(super) fn load(&mut self, offset: u32) -> Label {
        self.put(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
    }

    /// Keeps the bits of `mask`.
    pub(super) fn mask(&mut self, mask: u32) -> Label {
        self.put(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask)
    }

    /// Goes to `yes` or `no`.
    pub(super) fn branch(&mut self, test: Test, k: u32, yes: Label, no: Label) -> Label {
        let no = self.near(no);
        let mut yes = self.near(yes);
        let mut no_distance = self.distance(no);
        if no_distance > FAR {
            // The way to `yes` has just pushed it out of reach.
            let no = self.jump(no);
            yes = self.near(yes);
            no_distance = self.distance(no);
        }
        let reach = |distance| u8::try_from(distance).expect("it was brought near");
        let (jt, jf) = (reach(self.distance(yes)), reach(no_distance));
        let test = match test {
            Test::Equal => BPF_JEQ,
            Test::Greater => BPF_JGT,
            Test::AtLeast => BPF_JGE,
        };
        self.put(BPF_JMP | test | BPF_K, jt, jf, k)
    }

    /// Instructions between the one to be written next and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0
    }

    /// `label`, or a jump to it, where it is too far for a condition.
    fn near(&mut self, label: Label) -> Label {
        match self.distance(label) > FAR {
            true => self.jump(label),
            false => label,
        }
    }

    fn jump(&mut self, label: Label) -> Label {
        let distance = u32::try_from(self.distance(label)).expect("programs are shorter");
        self.put(BPF_JMP | BPF_JA, 0, 0, distance)
    }

    /// The program, to be run from its beginning.
    pub(super) fn finish(mut self) -> Vec<sock_filter> {
        self.reversed.reverse();
        self.reversed
    }
}
