//! A forwarded port through containerd's streaming server: two channels of a WebSocket, one for the bytes and one for the
//! error, each of which begins with the port's number.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use tungstenite::{Error, Message, WebSocket};

use super::stream::connect;
use crate::command::PATIENCE;
use crate::failure::fail;

const DATA: u8 = 0;
const ERROR: u8 = 1;

/// A message's bytes, which the server copies as they are.
const PIECE: usize = 32 * 1024;

/// A connection to a port of a pod.
pub struct Forward {
    socket: WebSocket<TcpStream>,
    port: u16,
    /// Channels whose first message has come.
    announced: [bool; 2],
    /// What the server says went wrong.
    error: Vec<u8>,
    received: Vec<u8>,
    is_open: bool,
}

impl Forward {
    #[track_caller]
    pub(super) fn open(url: &str, port: u16) -> Self {
        let socket = connect(&format!("{url}?port={port}"));
        let (error, received) = (Vec::new(), Vec::new());
        let mut forward = Self { socket, port, announced: [false; 2], error, received, is_open: true };
        let deadline = Instant::now() + PATIENCE;
        // What is not read when it is closed would be a reset.
        while forward.announced != [true; 2] {
            if !forward.receive() || Instant::now() > deadline {
                fail(format_args!("The server does not forward port {port}"));
            }
        }
        forward
    }

    /// Sends bytes to the port, as fast as they are taken; what comes meanwhile is kept.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE) {
            let message = std::iter::once(DATA).chain(piece.iter().copied()).collect::<Vec<u8>>();
            let sent = self.socket.send(Message::Binary(message.into()));
            sent.unwrap_or_else(|e| fail(format_args!("Cannot send to port {}: {e}", self.port)));
        }
    }

    /// The next so many bytes that the port sends.
    #[track_caller]
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut deadline = Instant::now() + PATIENCE;
        let mut so_far = self.received.len();
        while self.received.len() < length {
            if !self.receive() || Instant::now() > deadline {
                let (came, error) = (self.received.len(), String::from_utf8_lossy(&self.error));
                fail(format_args!("{came} of {length} bytes came from port {}; {error}", self.port));
            }
            if self.received.len() > so_far {
                so_far = self.received.len();
                deadline = Instant::now() + PATIENCE;
            }
        }
        let rest = self.received.split_off(length);
        std::mem::replace(&mut self.received, rest)
    }

    /// Reads to the end: what came, and the server's complaint.
    #[track_caller]
    pub fn finish(mut self) -> (Vec<u8>, String) {
        let deadline = Instant::now() + PATIENCE;
        while self.receive() {
            if Instant::now() > deadline {
                fail(format_args!("Port {} does not end: {} bytes", self.port, self.received.len()));
            }
        }
        (std::mem::take(&mut self.received), String::from_utf8_lossy(&self.error).into_owned())
    }

    /// Says that nothing more comes, and waits until the server knows.
    #[track_caller]
    pub fn close(mut self) {
        self.socket
            .close(None)
            .unwrap_or_else(|e| fail(format_args!("Cannot close port {}: {e}", self.port)));
        self.finish();
    }

    /// Goes away without a farewell.
    pub fn abandon(self) {
        // It is closed in any case.
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
    }

    /// Takes one message, or a moment of silence; false at the end.
    fn receive(&mut self) -> bool {
        if !self.is_open {
            return false;
        }
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => self.take(&bytes),
            Ok(Message::Close(_)) => self.is_open = false,
            Err(Error::Io(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // The server closes without a farewell.
            Err(_) => self.is_open = false,
            Ok(_) => {}
        }
        self.is_open
    }

    fn take(&mut self, message: &[u8]) {
        let Some((channel @ (&DATA | &ERROR), bytes)) = message.split_first() else {
            fail(format_args!("A message for nobody: {:?}", message.get(..16)))
        };
        let announced = &mut self.announced[usize::from(*channel)];
        if !std::mem::replace(announced, true) {
            assert_eq!(bytes, self.port.to_le_bytes(), "a channel begins with its port");
        } else if *channel == DATA {
            self.received.extend_from_slice(bytes);
        } else {
            self.error.extend_from_slice(bytes);
        }
    }
}
