//! The systemd journal, over its native datagram protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::Level;

use super::logfmt::Fields;

const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "kata";
/// Well below what a unix datagram holds by default.
const LONGEST_VALUE: usize = 32 << 10;

/// Where datagrams go.
pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Ready if the host has a journal.
    pub(super) fn open() -> io::Result<Self> {
        Path::new(SOCKET).metadata()?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Sends an entry. The address is looked up each time, so that a restarted journal is found; a journal
    /// that is busy or gone costs the entry, nothing else.
    pub(super) fn write(&self, level: Level, line: &str, fields: &Fields) {
        let _ = self.socket.send_to(&entry(level, line, fields), SOCKET);
    }
}

/// The message is the whole line, which importers take apart; each field is there by itself, too.
fn entry(level: Level, line: &str, fields: &Fields) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    put(&mut bytes, "SYSLOG_IDENTIFIER", IDENTIFIER);
    put(&mut bytes, "PRIORITY", priority(level));
    put(&mut bytes, "MESSAGE", line.trim_end());
    for (name, value) in fields.iter() {
        put(&mut bytes, &format!("KATA_{}", name.to_ascii_uppercase().replace(['.', '-'], "_")), value);
    }
    bytes
}

/// `NAME=value`, or with the length in front if the value has line breaks.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(LONGEST_VALUE)];
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

/// syslog's numbers.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::super::logfmt::Fields;
    use super::entry;

    #[test]
    fn entries_are_in_the_native_format() {
        let mut fields = Fields::default();
        fields.push("exec-id", "e1");
        fields.push("reason", "two\nlines");
        let expected =
            b"SYSLOG_IDENTIFIER=kata\nPRIORITY=4\nMESSAGE=level=warning exec-id=e1\nKATA_EXEC_ID=e1\n\
              KATA_REASON\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(entry(Level::WARN, "level=warning exec-id=e1\n", &fields), expected);
    }
}
