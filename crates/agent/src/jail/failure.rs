//! The reason of a failure, collected from all processes that take part in making a container.
//!
//! `libcontainer` passes only the outermost message from the container's process to its maker and logs the causes.
//! So error records go to a file that all of these processes have open, and the first one, which is the cause,
//! is added to the message.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};
use tracing::level_filters::LevelFilter;

use crate::report::chain;

/// Marks a message that needs no addition.
const FINAL: char = '\0';

/// The file that collects reasons.
#[derive(Clone, Debug)]
pub(super) struct Failures(Arc<File>);

impl Failures {
    /// Starts collecting error records of this process and those it will fork.
    pub(super) fn record() -> io::Result<Self> {
        let file = memfd_create("failures", MemfdFlags::CLOEXEC)?;
        fcntl_setfl(&file, OFlags::APPEND)?;
        let file = Arc::new(File::from(file));
        let subscriber = tracing_subscriber::fmt()
            .compact()
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false)
            .with_max_level(LevelFilter::ERROR)
            .with_writer(Arc::clone(&file))
            .finish();
        // Fails only if there is a subscriber already, which then records.
        let _ = tracing::subscriber::set_global_default(subscriber);
        Ok(Self(file))
    }

    /// Says that this is the whole reason.
    pub(super) fn conclude(&self, message: &str) {
        // Without it there is still the message that libcontainer makes of it.
        let _ = (&*self.0).write_all(format!("{FINAL}{message}{FINAL}").as_bytes());
    }

    /// The message for `error`.
    pub(super) fn explain(&self, error: &dyn Error) -> String {
        let mut records = String::new();
        let mut file = &*self.0;
        if file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut records)).is_err() {
            return chain(error);
        }
        compose(&chain(error), &records)
    }
}

fn compose(message: &str, records: &str) -> String {
    if let Some(reason) = records.split(FINAL).nth(1) {
        return reason.to_owned();
    }
    let message = message
        .strip_prefix("exec process failed with error error in executing process : ")
        .unwrap_or(message);
    match records.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(cause) if !message.contains(cause) => format!("{message}: {cause}"),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::compose;

    #[test]
    fn a_concluded_reason_stands_alone() {
        assert_eq!(
            compose("exec process failed", "noise\n\0exec: \"x\": no\0failed again"),
            "exec: \"x\": no"
        );
    }

    #[test]
    fn the_first_record_is_the_cause() {
        let message = "exec process failed with error error in executing process : failed to prepare rootfs";
        assert_eq!(
            compose(message, "  failed to mount err=ENOENT\nfailed to prepare rootfs\n"),
            "failed to prepare rootfs: failed to mount err=ENOENT"
        );
    }

    #[test]
    fn without_records_the_message_stays() {
        assert_eq!(compose("container already exists", ""), "container already exists");
    }
}
