//! Files in memory: the streams of programs that the agent runs. A pipe would fill up while nobody reads it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};

/// An empty one, to be written by a program.
pub(crate) fn empty(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// One with this content, to be read by a program.
pub(crate) fn with(name: &str, content: &[u8]) -> io::Result<File> {
    let mut file = empty(name)?;
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// All that is in it.
pub(crate) fn content(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a program complained of, for an error: no more than the last `most` bytes, where a program says why.
pub(crate) fn last_words(file: &mut File, most: usize) -> String {
    let bytes = content(file).unwrap_or_default();
    let last = &bytes[bytes.len().saturating_sub(most)..];
    String::from_utf8_lossy(last).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_words_are_told() {
        let mut file = with("words", b"much before\nno such name\n").expect("made");
        assert_eq!(last_words(&mut file, 13), "no such name");
    }
}
