//! `containerd-shim-kata-v2`: what containerd starts for each pod. It speaks containerd's task API on one
//! side and drives a sandbox (`kata-sandbox`) on the other.
//!
//! One binary, three lives: `start` makes the server and answers with its address, the server lives as long
//! as the pod, `delete` removes what a dead server left.
#![cfg_attr(
    feature = "fuzzing",
    expect(dead_code, unreachable_pub, reason = "what fuzz targets call is called in the library")
)]

mod address;
mod args;
mod backend;
mod bootstrap;
mod chain;
mod connections;
mod core_scheduling;
mod cri;
mod decorate;
mod delete;
mod environment;
mod events;
mod handover;
mod info;
mod kata;
mod kills;
mod ledger;
mod logging;
mod management;
mod options;
mod pod;
mod pod_limits;
mod publisher;
mod rpcs;
mod server;
mod service;
mod start;
mod stdio;
mod traces;

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::args::Command;
use crate::environment::Environment;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows what stands here to the user. If nobody listens there is nobody to tell.
            let _ = writeln!(io::stderr(), "containerd-shim-kata-v2: {}", chain::text(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let environment = Environment::read();
    let words = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    match args::parse(words, environment.bind_fd.is_some())? {
        Command::Help => writeln!(io::stdout(), "{}", args::USAGE)?,
        Command::Version => io::stdout().write_all(info::version().as_bytes())?,
        Command::Info => io::stdout().write_all(&info::runtime_info())?,
        Command::Start(identity) => start::run(&identity)?,
        Command::Delete(identity) => delete::run(&identity, Path::new(kata::STATE_ROOT))?,
        Command::Serve(identity) => server::run(&identity, &environment)?,
    }
    Ok(())
}
