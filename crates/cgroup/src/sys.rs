#![expect(unsafe_code, reason = "a process joins cgroups between fork and exec")]
//! What a new process does before it becomes another program.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use tokio::process::Command;

/// Lets the process of `command` write itself into each of the files before it begins: so no child of its own can be
/// made before. One that the kernel does not let in stays where it is.
pub(crate) fn enter(command: &mut Command, files: Arc<[File]>) {
    let enter = move || {
        for mut file in files.iter() {
            // 0 is whoever writes.
            let _ = file.write(b"0");
        }
        Ok(())
    };
    // SAFETY: the closure makes the system call write(2) on open descriptors and nothing else: no lock, no allocation.
    unsafe { command.pre_exec(enter) };
}
