//! Large data that can be made and recognised without being kept.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// Random-looking bytes, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
    left: u64,
}

impl Pattern {
    /// `length` bytes.
    pub fn new(seed: u64, length: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, left: length }
    }

    /// All of it.
    pub fn bytes(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).expect("memory does not fail");
        bytes
    }

    fn next(&mut self) -> [u8; 8] {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.to_le_bytes()
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        // Only whole words until the last ones, so that the bytes do not depend on how they are read.
        while self.left > 0 && buffer.len() - filled >= 8 {
            let take = usize::try_from(self.left.min(8)).expect("at most 8");
            buffer[filled..filled + take].copy_from_slice(&self.next()[..take]);
            filled += take;
            self.left -= take as u64;
        }
        Ok(filled)
    }
}

/// A reader that takes a breath after each piece of 64 KiB, and a long one before the first.
pub struct Slowly<R> {
    stream: R,
    pieces: u64,
}

impl<R> Slowly<R> {
    /// Reads `stream` at 30 MB/s at most.
    pub fn new(stream: R) -> Self {
        Self { stream, pieces: 0 }
    }
}

impl<R: Read> Read for Slowly<R> {
    #[expect(clippy::disallowed_methods, reason = "being slow is what it is for")]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = buffer.len().min(1 << 16);
        std::thread::sleep(Duration::from_millis(if self.pieces == 0 { 2000 } else { 2 }));
        self.pieces += 1;
        self.stream.read(&mut buffer[..piece])
    }
}

/// The SHA-256 of a stream, in hexadecimal digits, and its length.
pub fn sha256(mut stream: impl Read) -> io::Result<(String, u64)> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut length = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => {
                digest.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
    Ok((digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), length))
}

/// The SHA-256 of a file, in hexadecimal digits, and its length.
pub fn sha256_of_file(path: &Path) -> io::Result<(String, u64)> {
    sha256(std::fs::File::open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_does_not_depend_on_how_it_is_read() {
        let whole = Pattern::new(7, 100_003).bytes();
        let mut pieces = Vec::new();
        let mut pattern = Pattern::new(7, 100_003);
        let mut buffer = [0; 333];
        while let Ok(length @ 1..) = pattern.read(&mut buffer) {
            pieces.extend_from_slice(&buffer[..length]);
        }
        assert_eq!(whole.len(), 100_003);
        assert_eq!(whole, pieces);
    }
}
