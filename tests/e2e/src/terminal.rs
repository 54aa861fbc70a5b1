//! A program on a terminal whose other end is in the test's hands.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use rustix::termios::tcsetwinsize;

use crate::command::{PATIENCE, exit_within, shown};
use crate::failure::fail;

/// `ctr` with `--tty` on a pseudo-terminal, as if a person sat there.
pub struct Terminal {
    child: Child,
    name: String,
    controller: File,
    output: Receiver<Vec<u8>>,
    seen: String,
    unread: usize,
}

impl Terminal {
    pub(crate) fn open(program: &Command, columns: u16, rows: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("a terminal can be had");
        let name = shown(program);
        let slave = || Stdio::from(pair.slave.try_clone().expect("a descriptor can be had twice"));
        // The terminal must be the controlling one, or no SIGWINCH arrives.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args());
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn();
        let child = child.unwrap_or_else(|e| fail(format_args!("Cannot run {name}: {e}")));
        let controller = File::from(pair.master);
        let reader = controller.try_clone().expect("a descriptor can be had twice");
        let (sender, output) = mpsc::channel();
        thread::spawn(move || forward(reader, &sender));
        Self { child, name, controller, output, seen: String::new(), unread: 0 }
    }

    /// Types this.
    pub fn type_in(&mut self, text: &str) {
        let typed = self.controller.write_all(text.as_bytes());
        typed.unwrap_or_else(|e| fail(format_args!("Cannot type: {e}")));
    }

    /// Waits until this appears after what was expected before; returns what came up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        self.expect_within(text, PATIENCE)
    }

    /// As [`Terminal::expect`], with another limit.
    #[track_caller]
    pub fn expect_within(&mut self, text: &str, limit: Duration) -> String {
        if let Some(before) = self.look_for(text, limit) {
            return before;
        }
        fail(format_args!("No {text:?} on the terminal of {}; its screen:\n{}", self.name, self.seen));
    }

    /// Whether this appears within the limit; if so, as [`Terminal::expect`].
    pub fn look_for(&mut self, text: &str, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.seen[self.unread..].find(text) {
                let before = self.seen[self.unread..self.unread + at].to_owned();
                self.unread += at + text.len();
                return Some(before);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Changes the terminal's size, as when a window is dragged.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.controller, size).expect("the terminal is open");
    }

    /// Waits for the program's end; returns its exit code and everything that was on the screen, lines ended by `\\n`.
    #[track_caller]
    pub fn finish(mut self) -> (i32, String) {
        let Some(status) = exit_within(&mut self.child, PATIENCE) else {
            fail(format_args!("Not done: {}; its screen:\n{}", self.name, self.seen));
        };
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_secs(1)) {
            self.seen += &String::from_utf8_lossy(&bytes);
        }
        // `ctr` leaves its own terminal adding a carriage return to that of the container's.
        (status.code().unwrap_or(-1), self.seen.replace('\r', ""))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal whose last user is gone gives an error, not an end of file.
fn forward(mut reader: File, sender: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = reader.read(&mut buffer) {
        if sender.send(buffer[..length].to_vec()).is_err() {
            return;
        }
    }
}
