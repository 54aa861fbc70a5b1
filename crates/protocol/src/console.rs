//! How a stream to the port [`CONSOLE`](crate::ports::CONSOLE) is spoken. Both sides send messages: a kind (1 byte), the
//! length of the body (4 bytes, big-endian), and the body.
//!
//! The client begins with [`Kind::Start`]. If the guest has no shell, or the client wants to use its own, the agent answers
//! [`Kind::WantShell`], and the client sends a static program in pieces ([`Kind::Shell`], the last one empty). Then input and
//! output flow until [`Kind::Exit`]. When the client ends the stream before, its shell is hung up, and killed soon after.

/// Bytes of a message before its body.
pub const HEADER: usize = 5;
/// The longest body.
pub const MAX_BODY: usize = 64 * 1024;
/// The most bytes of standard input that the agent keeps for a shell which does not read them.
pub const WINDOW: u32 = 256 * 1024;
/// The largest shell that a client can bring.
pub const MAX_SHELL: usize = 16 * 1024 * 1024;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To the agent: a [`Start`].
    Start,
    /// To the agent: a piece of the shell, which is an executable that needs no other file; empty: that was all.
    Shell,
    /// To the agent: bytes for standard input; empty: it has ended.
    Input,
    /// To the agent: the terminal's new size, see [`size`].
    Resize,
    /// To the client: bring a shell.
    WantShell,
    /// To the client: so many more bytes of standard input may be sent (4 bytes, big-endian). The first one says that the shell
    /// runs; nothing but a shell may be sent before.
    Allow,
    /// To the client: bytes of standard output, or of the terminal.
    Output,
    /// To the client: bytes of standard error.
    Errors,
    /// To the client: the exit status (4 bytes, big-endian), after all output. Nothing follows.
    Exit,
    /// To the client: why there will be no shell, as text. Nothing follows.
    Refused,
}

const KINDS: [(u8, Kind); 10] = [
    (1, Kind::Start),
    (2, Kind::Shell),
    (3, Kind::Input),
    (4, Kind::Resize),
    (16, Kind::WantShell),
    (17, Kind::Allow),
    (18, Kind::Output),
    (19, Kind::Errors),
    (20, Kind::Exit),
    (21, Kind::Refused),
];

/// The other side does not speak this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The other end of the console does not keep to the protocol; are runtime and guest of one release?")]
pub struct Breach;

/// The header of a message with a body of so many bytes, which must be no more than [`MAX_BODY`].
#[must_use]
pub fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    let number = KINDS.iter().find(|(_, known)| *known == kind).map_or(0, |(number, _)| *number);
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [number, length[0], length[1], length[2], length[3]]
}

/// The kind of a message, and the length of its body.
///
/// # Errors
/// No such kind, or too long a body.
pub fn read_header([number, length @ ..]: [u8; HEADER]) -> Result<(Kind, usize), Breach> {
    let (_, kind) = KINDS.iter().find(|(known, _)| *known == number).ok_or(Breach)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_BODY { Err(Breach) } else { Ok((*kind, length)) }
}

/// The size of a terminal, in rows and columns.
pub type Size = (u16, u16);

/// The body of [`Kind::Resize`].
#[must_use]
pub fn size((rows, columns): Size) -> [u8; 4] {
    let ([a, b], [c, d]) = (rows.to_be_bytes(), columns.to_be_bytes());
    [a, b, c, d]
}

/// Reads the body of [`Kind::Resize`].
///
/// # Errors
/// It is none.
pub fn read_size(body: &[u8]) -> Result<Size, Breach> {
    let [a, b, c, d] = *body else { return Err(Breach) };
    Ok((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// A number as [`Kind::Allow`] and [`Kind::Exit`] have it.
///
/// # Errors
/// It is none.
pub fn read_number(body: &[u8]) -> Result<u32, Breach> {
    body.try_into().map(u32::from_be_bytes).map_err(|_| Breach)
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// A terminal of this size; without it, standard input, output and error are streams of their own.
    pub terminal: Option<Size>,
    /// The client brings its own shell, even if the guest has one.
    pub brings_shell: bool,
    /// The kind of terminal (`TERM`); may be empty.
    pub term: String,
    /// The shell's arguments, without its name; none: it is interactive.
    pub arguments: Vec<String>,
}

/// The flags of [`Start`].
const TERMINAL: u8 = 1;
const BRINGS_SHELL: u8 = 2;

impl Start {
    /// The body of the message: flags, the size, and the words, each ended by a zero byte. `None`: it is too long, or a word
    /// has a zero byte.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let terminal = if self.terminal.is_some() { TERMINAL } else { 0 };
        let mut body = vec![terminal | if self.brings_shell { BRINGS_SHELL } else { 0 }];
        body.extend(size(self.terminal.unwrap_or_default()));
        for word in std::iter::once(&self.term).chain(&self.arguments) {
            if word.contains('\0') {
                return None;
            }
            body.extend(word.as_bytes());
            body.push(0);
        }
        (body.len() <= MAX_BODY).then_some(body)
    }

    /// Reads the body of the message.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &[u8]) -> Result<Self, Breach> {
        let (head, words) = body.split_at_checked(5).ok_or(Breach)?;
        let text = std::str::from_utf8(words).map_err(|_| Breach)?;
        let mut words = text.strip_suffix('\0').ok_or(Breach)?.split('\0').map(str::to_owned);
        Ok(Self {
            terminal: if head[0] & TERMINAL == 0 { None } else { Some(read_size(&head[1..])?) },
            brings_shell: head[0] & BRINGS_SHELL != 0,
            term: words.next().ok_or(Breach)?,
            arguments: words.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_on_the_wire_are_fixed() {
        assert_eq!(header(Kind::Input, 258), [3, 0, 0, 1, 2]);
        assert_eq!(size((24, 80)), [0, 24, 0, 80]);
        let start = Start {
            terminal: Some((1, 2)),
            term: "vt100".into(),
            arguments: vec!["-c".into()],
            ..Start::default()
        };
        assert_eq!(start.encode().unwrap(), b"\x01\0\x01\0\x02vt100\0-c\0");
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        for (_, kind) in KINDS {
            assert_eq!(read_header(header(kind, MAX_BODY)), Ok((kind, MAX_BODY)));
        }
    }

    #[test]
    fn a_long_body_and_an_unknown_kind_are_refused() {
        assert_eq!(read_header(header(Kind::Input, MAX_BODY + 1)), Err(Breach));
        assert_eq!(read_header([9, 0, 0, 0, 0]), Err(Breach));
        assert_eq!(read_header([0; HEADER]), Err(Breach));
    }

    #[test]
    fn a_start_is_read_as_it_was_written() {
        let plain = Start::default();
        let full = Start {
            terminal: Some((50, 132)),
            brings_shell: true,
            term: "xterm".into(),
            arguments: vec!["-c".into(), String::new(), "ls -l; é".into()],
        };
        for start in [plain, full] {
            assert_eq!(Start::decode(&start.encode().unwrap()), Ok(start));
        }
    }

    #[test]
    fn what_is_no_start_is_refused() {
        for body in [&b""[..], b"\0\0\0\0\0", b"\0\0\0\0\0word", b"\0\0\0\0\0\xff\0"] {
            assert_eq!(Start::decode(body), Err(Breach), "{body:?}");
        }
        let word = |word: &str| Start { arguments: vec![word.to_owned()], ..Start::default() }.encode();
        assert_eq!((word("a\0b"), word(&"x".repeat(MAX_BODY))), (None, None));
    }
}
