//! kata-agent: the guest side of a sandbox, and PID 1 of its VM.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(
    feature = "fuzzing",
    expect(dead_code, unreachable_pub, reason = "what fuzz targets call is called in the library")
)]

mod agent;
mod announcements;
mod block;
mod boot;
mod cgroup;
mod clock;
mod console;
mod container;
mod forward;
mod hooks;
mod id;
mod image;
mod jail;
mod logging;
mod memory_file;
mod mountinfo;
mod network;
mod options;
mod pci;
mod random;
mod reaper;
mod report;
mod resources;
mod rpc;
mod service;
mod signals;
mod spans;
mod stdio;
mod storage;
mod swap;
mod sys;
mod task;
mod traffic;
mod watches;

use std::env;

use options::{Options, ServerAddress};

/// Where the program begins.
#[cfg(not(test))]
mod entry {
    mod sys {
        #![expect(unsafe_code, reason = "the C library's entry point, and a signal's disposition")]

        /// Where the C library begins, in place of the standard library's own beginning: that reads
        /// `/proc/self/maps` to find the end of the stack, in every jail again. What it does for SIGPIPE is done here.
        #[unsafe(no_mangle)]
        extern "C" fn main(_: libc::c_int, _: *const *const libc::c_char) -> libc::c_int {
            // SAFETY: no handler is installed, so no code can run in signal context.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
            crate::run_program().into()
        }
    }
}

/// The test harness has a beginning of its own, but this names what there is to test.
#[cfg(test)]
fn main() -> std::process::ExitCode {
    run_program().into()
}

/// Does what the arguments say; returns the exit status.
fn run_program() -> u8 {
    match env::args().nth(1).as_deref() {
        Some("container") => jail::main(env::args().skip(2)),
        Some("version" | "--version") => {
            println!("kata-agent {}", rpc::VERSION);
            0
        }
        // The kernel passes on what it does not understand, so anything else is nothing.
        _ => run(),
    }
}

fn run() -> u8 {
    let environment = |name: &str| env::var(name).ok();
    let has_socket = Options::new("", environment).server != ServerAddress::Auto;
    let owns_guest = std::process::id() == 1 && !has_socket;
    let set_up = if owns_guest { boot::set_up() } else { Ok(()) };
    let cmdline =
        if owns_guest { std::fs::read_to_string("/proc/cmdline").unwrap_or_default() } else { String::new() };
    let options = Options::new(&cmdline, environment);
    let log = logging::start(options.log_level);
    for complaint in &options.complaints {
        tracing::warn!("{complaint}");
    }
    let result =
        set_up.map_err(service::ServiceError::from).and_then(|()| service::run(options, log, owns_guest));
    if let Err(error) = &result {
        tracing::error!("{}", report::chain(error));
    }
    if owns_guest {
        boot::power::settle();
        boot::power::off();
    }
    u8::from(result.is_err())
}
