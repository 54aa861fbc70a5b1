//! Two ends of the multiplexer that keep to the protocol, on a line that delivers in any pieces: neither ever complains,
//! every byte arrives once and in order, and nothing stands still.
#![no_main]

use std::collections::VecDeque;

use kata_transport::fuzzing::{End, Heard};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Streams that a host opens here; more need not be accepted at once.
const STREAMS: usize = 64;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let mut pair = Pair { ends: [End::host(), End::guest()], line: Default::default(), ways: Vec::new() };
    // An input that ends early is complete.
    while !input.is_empty() && pair.step(&mut input).is_ok() {}
    pair.settle();
});

/// One stream in one direction.
#[derive(Default)]
struct Way {
    /// Written and not yet read; numbers that go on.
    written: u64,
    read: u64,
    /// The writer has finished, or given the stream up.
    finished: bool,
    /// The writer has given the stream up.
    given_up: bool,
    /// The reader was told that nothing more comes.
    ended: bool,
}

struct Pair {
    /// Host and guest.
    ends: [End; 2],
    /// Bytes on their way to each.
    line: [VecDeque<u8>; 2],
    /// By stream, from host and from guest.
    ways: Vec<[Way; 2]>,
}

fn byte(stream: usize, at: u64) -> u8 {
    u8::try_from((at * 7 + stream as u64) % 251).expect("below 256")
}

impl Pair {
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let side = usize::from(input.arbitrary::<bool>()?);
        let most = self.ends[side].streams().saturating_sub(1);
        let stream = input.int_in_range(0..=most)?;
        let length =
            if input.ratio(1, 8)? { input.int_in_range(0..=300_000)? } else { input.int_in_range(0..=64)? };
        match input.int_in_range(0..=9)? {
            0 if self.ways.len() < STREAMS => {
                if self.ends[0].open(1024) {
                    self.ways.push(Default::default());
                }
            }
            1 | 2 => self.write(side, stream, length),
            3 | 4 => drop(self.read(side, stream, length)),
            5 => self.finish(side, stream),
            6 if input.ratio(1, 2)? => self.give_up(side, stream),
            _ => {
                self.say(side);
                self.deliver(side, length);
            }
        }
        Ok(())
    }

    fn write(&mut self, side: usize, stream: usize, length: usize) {
        if stream >= self.ends[side].streams() {
            return;
        }
        let way = &mut self.ways[stream][side];
        let bytes: Vec<u8> = (0..length as u64).map(|at| byte(stream, way.written + at)).collect();
        match self.ends[side].write(stream, &bytes) {
            Some(taken) => {
                assert!(!way.finished, "a finished stream took bytes");
                way.written += taken as u64;
            }
            None => assert!(way.finished || self.ways[stream][1 - side].given_up, "a stream broke"),
        }
    }

    /// Whether anything came.
    fn read(&mut self, side: usize, stream: usize, length: usize) -> bool {
        if stream >= self.ends[side].streams() || length == 0 || self.ways[stream][side].given_up {
            return false;
        }
        let heard = self.ends[side].read(stream, length);
        let way = &mut self.ways[stream][1 - side];
        match heard {
            Heard::Bytes(bytes) => {
                assert!(!way.ended, "bytes after the end");
                for heard in bytes {
                    assert_eq!(heard, byte(stream, way.read));
                    way.read += 1;
                }
                assert!(way.read <= way.written);
                true
            }
            Heard::End => {
                assert!(way.finished && way.read == way.written, "an end too early");
                way.ended = true;
                false
            }
            Heard::Nothing => false,
        }
    }

    fn finish(&mut self, side: usize, stream: usize) {
        if stream < self.ends[side].streams() {
            self.ends[side].finish(stream);
            self.ways[stream][side].finished = true;
        }
    }

    fn give_up(&mut self, side: usize, stream: usize) {
        if stream < self.ends[side].streams() {
            self.ends[side].drop(stream);
            let way = &mut self.ways[stream][side];
            (way.finished, way.given_up) = (true, true);
        }
    }

    /// Whether there was anything to say.
    fn say(&mut self, side: usize) -> bool {
        let said = self.ends[side].say();
        self.line[1 - side].extend(&said);
        !said.is_empty()
    }

    /// Whether there was anything to deliver.
    fn deliver(&mut self, side: usize, length: usize) -> bool {
        let length = length.min(self.line[side].len());
        let bytes: Vec<u8> = self.line[side].drain(..length).collect();
        assert!(self.ends[side].hear(&bytes), "an honest end was taken for a hostile one");
        length > 0
    }

    /// Everything is finished, delivered and read.
    fn settle(&mut self) {
        let streams = self.ways.len();
        let mut moved = true;
        while moved {
            moved = false;
            for side in [0, 1] {
                moved |= self.say(side) | self.deliver(side, usize::MAX);
                for stream in 0..streams.min(self.ends[side].streams()) {
                    moved |= self.read(side, stream, 1 << 20) | !self.ways[stream][side].finished;
                    self.finish(side, stream);
                }
            }
        }
        for (stream, ways) in self.ways.iter().enumerate() {
            for side in [0, 1] {
                let (way, back) = (&ways[side], &ways[1 - side]);
                let complete = way.ended && way.read == way.written;
                assert!(complete || back.given_up, "stream {stream} stands still");
            }
        }
    }
}
