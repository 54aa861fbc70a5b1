//! What opens a multiplexed stream: which port it is for, and who asks.

use crate::Port;

/// Length of an encoded [`StreamHeader`] in bytes.
pub(crate) const LEN: usize = 8;

/// The body of an open frame: two big-endian numbers of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamHeader {
    /// Port of the listener.
    pub(crate) destination: Port,
    /// The identity of the connecting end.
    pub(crate) local: Port,
}

impl StreamHeader {
    pub(crate) fn encode(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&self.destination.to_be_bytes());
        bytes[4..].copy_from_slice(&self.local.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: [u8; LEN]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { destination: u32::from_be_bytes([a, b, c, d]), local: u32::from_be_bytes([e, f, g, h]) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::StreamHeader;

    #[test]
    fn the_bytes_on_the_wire_are_fixed() {
        let header = StreamHeader { destination: 1027, local: 0x0102_0304 };
        assert_eq!(header.encode(), [0, 0, 4, 3, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(destination: u32, local: u32) {
            let header = StreamHeader { destination, local };
            prop_assert_eq!(StreamHeader::decode(header.encode()), header);
        }

        #[test]
        fn every_eight_bytes_are_a_header(bytes: [u8; 8]) {
            prop_assert_eq!(StreamHeader::decode(bytes).encode(), bytes);
        }
    }
}
