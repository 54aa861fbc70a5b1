//! The shim's lines in the systemd journal.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use super::line::Line;

fn journalctl(id: &str) -> Command {
    let mut command = Command::new("journalctl");
    command.args(["-t", "kata", "-o", "cat", "--no-pager", "-q"]).arg(format!("KATA_SANDBOX={id}"));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// All that is there; nothing on a host without a journal.
pub(super) fn read(id: &str) -> Vec<Line> {
    let output = journalctl(id).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut before = SystemTime::UNIX_EPOCH;
    let line = |raw| {
        let line = Line::of_shim(raw, before);
        before = line.time;
        line
    };
    text.lines().map(line).collect()
}

/// Tells each line that comes, until [`Followed`] is dropped.
pub(super) fn follow(id: &str, tell: impl Fn(Line) + Send + 'static) -> Option<Followed> {
    let mut child = journalctl(id).args(["-f", "-n", "0"]).stdout(Stdio::piped()).spawn().ok()?;
    let lines = BufReader::new(child.stdout.take()?).lines();
    std::thread::spawn(move || {
        for raw in lines.map_while(Result::ok) {
            tell(Line::of_shim(&raw, SystemTime::now()));
        }
    });
    Some(Followed(child))
}

/// Ends the program when it is dropped.
pub(super) struct Followed(Child);

impl Drop for Followed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
