//! An end of the multiplexer whose peer writes whatever it likes: frames that are nearly right, and plain noise. It
//! must keep to the protocol itself, and to a bounded amount of memory.
#![no_main]

use std::collections::HashMap;

use kata_transport::fuzzing::{End, frame};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const TO_GUEST: u64 = 256 * 1024;
const TO_HOST: u64 = 1024 * 1024;
/// What a stream may hold: its window twice, as buffers grow by doubling, and one more of it that is being read.
const HELD: usize = 3 << 20;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    // An input that ends early has zeros behind it.
    let is_host = input.arbitrary().unwrap_or(true);
    let end = if is_host { End::host() } else { End::guest() };
    let window = if is_host { TO_GUEST } else { TO_HOST };
    let mut watch = Watch { end, window, sent: HashMap::new(), given: HashMap::new() };
    while !input.is_empty() && watch.step(&mut input).is_ok_and(|lives| lives) {}
    watch.say();
});

struct Watch {
    end: End,
    window: u64,
    /// Bytes by stream that the end has sent.
    sent: HashMap<u32, u64>,
    /// Credit by stream that it was given.
    given: HashMap<u32, u64>,
}

impl Watch {
    /// False when the end has given the connection up.
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<bool> {
        let last = self.end.streams().saturating_sub(1);
        let stream = input.int_in_range(0..=last)?;
        match input.int_in_range(0..=8)? {
            0 => drop(self.end.open(7)),
            1 => drop(self.end.read(stream, input.int_in_range(0..=100_000)?)),
            2 => drop(self.end.write(stream, &vec![1; input.int_in_range(0..=100_000)?])),
            3 => self.end.finish(stream),
            4 => self.end.drop(stream),
            5 => self.say(),
            6 => {
                let noise = input.bytes(input.len().min(40))?;
                return Ok(self.end.hear(noise));
            }
            _ => return self.frame(input),
        }
        Ok(true)
    }

    /// A frame that is nearly right.
    fn frame(&mut self, input: &mut Unstructured<'_>) -> Result<bool> {
        let kind: u8 = input.int_in_range(0..=6)?;
        let id: u32 = if input.ratio(15, 16)? { input.int_in_range(0..=6)? } else { input.arbitrary()? };
        let length: u32 = match input.int_in_range(0..=3)? {
            0 => 0,
            1 => 8,
            2 => input.int_in_range(0..=300_000)?,
            _ => input.arbitrary()?,
        };
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend(id.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        if let Some(again) = frame(bytes[..].try_into().expect("twelve bytes")) {
            assert_eq!(again, bytes[..]);
        }
        if kind == 3 {
            *self.given.entry(id).or_default() += u64::from(length);
        }
        let body = if kind == 3 { 0 } else { length.min(1 << 20) };
        // Sometimes the body is cut, and what follows is taken for the rest.
        let body = if input.ratio(1, 8)? { body / 2 } else { body };
        bytes.resize(12 + body as usize, 0);
        let lives = self.end.hear(&bytes);
        assert!(self.end.held() <= HELD, "{} bytes are held", self.end.held());
        Ok(lives)
    }

    /// What the end writes are frames, within the credit it was given.
    fn say(&mut self) {
        loop {
            let said = self.end.say();
            let mut rest = &said[..];
            if rest.is_empty() {
                return;
            }
            while let Some((header, body)) = rest.split_first_chunk::<12>() {
                assert_eq!(frame(*header), Some(*header));
                let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
                let has_body = header[0] <= 2;
                rest = &body[if has_body { length as usize } else { 0 }..];
                if header[0] == 2 {
                    let sent = self.sent.entry(id).or_default();
                    *sent += u64::from(length);
                    let given = self.given.get(&id).copied().unwrap_or(0);
                    assert!(*sent <= self.window + given, "stream {id} has sent {sent} bytes");
                }
            }
            assert!(rest.is_empty(), "half a frame");
        }
    }
}
