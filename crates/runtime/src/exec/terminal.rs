//! The terminal in raw mode: what is typed goes to the guest as it is.

use std::io;
use std::panic;

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Raw as long as this lives, and not after a panic either.
pub(super) struct Raw(Termios);

impl Raw {
    /// Makes the terminal of standard input raw.
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        let (kept, told) = (before.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |panic| {
            restore(&kept);
            told(panic);
        }));
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore(&self.0);
    }
}

fn restore(before: &Termios) {
    // A terminal that is gone needs nothing.
    let _ = tcsetattr(stdin(), OptionalActions::Drain, before);
}
