//! How a stream to the port [`FORWARD`](crate::ports::FORWARD) begins: the host names a [`Destination`] on the guest's
//! loopback, the agent gives an [`Answer`], and the raw bytes of the connection follow both ways.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A destination on the wire: an IPv6 address, or an IPv4 address as its IPv4-mapped one, and the port, all big-endian.
pub type Destination = [u8; 18];

/// An answer on the wire: 0 if the connection stands, else the number of Linux's error, big-endian.
pub type Answer = [u8; 2];

/// What an error without a number is called: `ECONNREFUSED`.
const REFUSED: u16 = 111;

/// Encodes a destination; an IPv6 address loses its scope and its flow label.
#[must_use]
pub fn destination(address: SocketAddr) -> Destination {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

/// Decodes a destination; all bytes are one.
#[must_use]
pub fn read_destination(bytes: Destination) -> SocketAddr {
    let [ip @ .., high, low] = bytes;
    SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16::from_be_bytes([high, low]))
}

/// Encodes how connecting ended.
#[must_use]
pub fn answer<T>(connected: &io::Result<T>) -> Answer {
    let number = match connected {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().and_then(|number| u16::try_from(number).ok()).unwrap_or(REFUSED),
    };
    number.to_be_bytes()
}

/// Decodes how connecting ended.
///
/// # Errors
/// The agent's.
pub fn read_answer(bytes: Answer) -> io::Result<()> {
    match u16::from_be_bytes(bytes) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_on_the_wire_are_fixed() {
        let v4 = destination(SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!(v4, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1, 0x1f, 0x90]);
        let v6 = destination(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1));
        assert_eq!(v6, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!(answer::<()>(&Err(io::Error::from_raw_os_error(111))), [0, 111]);
    }

    #[test]
    fn a_destination_is_read_as_it_was_written() {
        for text in ["127.0.0.1:80", "127.1.2.3:65535", "[::1]:443", "10.0.0.1:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(read_destination(destination(address)), address);
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_given() {
        assert!(read_answer(answer(&Ok(()))).is_ok());
        let refused = answer::<()>(&Err(io::Error::from_raw_os_error(113)));
        assert_eq!(read_answer(refused).unwrap_err().raw_os_error(), Some(113));
    }

    #[test]
    fn an_error_without_a_number_is_a_refusal() {
        let refused = answer::<()>(&Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(read_answer(refused).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
