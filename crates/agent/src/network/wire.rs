//! Messages of netlink (linux/netlink.h): composed and read. Numbers are in the machine's byte order, and every part begins
//! at a multiple of four bytes.

/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// Bits of an attribute's type that say how it is written.
const TYPE_MASK: u16 = 0x3fff;

/// A message that is being composed.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A message of a type, with its fixed part.
    pub(super) fn new(kind: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(fixed);
        Self(bytes)
    }

    /// Adds an attribute. Values are some tens of bytes, far below what the length can say.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(attribute(kind, value));
        self
    }

    /// Adds a number.
    pub(super) fn with_number(self, kind: u16, number: u32) -> Self {
        self.with(kind, &number.to_ne_bytes())
    }

    /// Adds a text, which ends with a zero.
    pub(super) fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Ready to be sent, with its flags and the number that its answers will have.
    pub(super) fn into_bytes(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// One attribute.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A message that was received.
#[derive(Debug)]
pub(super) struct Received<'a> {
    /// Its type.
    pub(super) kind: u16,
    /// Its flags.
    pub(super) flags: u16,
    /// The request that it answers.
    pub(super) sequence: u32,
    /// Fixed part and attributes.
    pub(super) body: &'a [u8],
}

/// The messages of a datagram, until one is cut short.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = number(rest, 0)? as usize;
        let body = rest.get(HEADER..length)?;
        let message =
            Received { kind: short(rest, 4)?, flags: short(rest, 6)?, sequence: number(rest, 8)?, body };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes by their types, until one is cut short.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(short(rest, 0)?);
        let found = (short(rest, 2)? & TYPE_MASK, rest.get(4..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// Four bytes at a place.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Two bytes at a place.
pub(super) fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// A text without the zero at its end.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_composed_can_be_read() {
        let message = Message::new(16, &[9; 4]).with_text(3, "eth0").with_number(4, 1500).into_bytes(5, 7);
        assert_eq!(message.len() % 4, 0);
        let read: Vec<_> = messages(&message).collect();
        assert_eq!((read.len(), read[0].kind, read[0].flags, read[0].sequence), (1, 16, 5, 7));
        let found: Vec<_> = attributes(&read[0].body[4..]).collect();
        assert_eq!(text(found[0].1), "eth0");
        assert_eq!(number(found[1].1, 0), Some(1500));
    }

    #[test]
    fn several_messages_are_read_from_one_datagram() {
        let mut datagram = Message::new(1, &[]).with(1, b"abc").into_bytes(0, 1);
        datagram.extend(Message::new(2, &[]).into_bytes(0, 1));
        assert_eq!(messages(&datagram).map(|message| message.kind).collect::<Vec<_>>(), [1, 2]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes: Vec<u8>) {
            let read: usize = messages(&bytes).map(|message| HEADER + message.body.len()).sum();
            assert!(read <= bytes.len());
            let read: usize = attributes(&bytes).map(|(_, value)| 4 + value.len()).sum();
            assert!(read <= bytes.len());
        }
    }
}
