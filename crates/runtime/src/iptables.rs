//! `kata-runtime iptables`: the packet filter of a sandbox's guest.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Command, Subcommand};
use hyper::Method;

use crate::global::Global;
use crate::input;
use crate::management::Sandbox;

/// Arguments of `iptables`.
#[derive(Debug, Args)]
pub(crate) struct IptablesArgs {
    #[command(subcommand)]
    command: IptablesCommand,
}

#[derive(Debug, Subcommand)]
enum IptablesCommand {
    /// Print the guest's rules, as iptables-save does
    #[command(override_usage = "kata-runtime iptables get [OPTIONS] <SANDBOX>")]
    Get(Which),
    /// Set the guest's rules to what iptables-save has printed
    #[command(override_usage = "kata-runtime iptables set [OPTIONS] <SANDBOX> [FILE]")]
    Set(Set),
}

/// Which rules.
#[derive(Debug, Args)]
struct Which {
    /// The sandbox's id, or a beginning of it that no other has
    #[arg(required_unless_present = "sandbox_id", conflicts_with = "sandbox_id")]
    sandbox: Option<String>,

    /// The same, as upstream writes it
    #[arg(long, value_name = "ID")]
    sandbox_id: Option<String>,

    /// Those of IPv6
    #[arg(long)]
    v6: bool,
}

#[derive(Debug, Args)]
struct Set {
    /// The sandbox's id, or a beginning of it that no other has, unless --sandbox-id names it; then the file with the
    /// rules, or `-` for standard input, which is also meant without it
    #[arg(value_names = ["SANDBOX", "FILE"], num_args = 0..=2)]
    words: Vec<String>,

    /// The sandbox, as upstream writes it
    #[arg(long, value_name = "ID")]
    sandbox_id: Option<String>,

    /// Those of IPv6
    #[arg(long)]
    v6: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &IptablesArgs, global: &Global) -> anyhow::Result<ExitCode> {
    match &args.command {
        IptablesCommand::Get(which) => {
            let id = which.sandbox.as_deref().or(which.sandbox_id.as_deref()).unwrap_or_default();
            show(&Sandbox::find(&global.root, id)?.ask(Method::GET, path(which.v6), Vec::new())?)?;
        }
        IptablesCommand::Set(set) => {
            let (id, file) = set.parts();
            let sandbox = Sandbox::find(&global.root, id)?;
            show(&sandbox.ask(Method::PUT, path(set.v6), input::read(&file)?)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Set {
    /// The sandbox and the file.
    fn parts(&self) -> (&str, PathBuf) {
        let words: Vec<&str> = self.sandbox_id.iter().chain(&self.words).map(String::as_str).collect();
        match words[..] {
            [id] => (id, PathBuf::from("-")),
            [id, file] => (id, Path::new(file).to_owned()),
            [] => wrong(ErrorKind::MissingRequiredArgument, "Which sandbox? Give its id"),
            _ => wrong(ErrorKind::TooManyValues, "One sandbox and one file are enough"),
        }
    }
}

fn wrong(kind: ErrorKind, words: &str) -> ! {
    Set::augment_args(Command::new("kata-runtime iptables set")).error(kind, words).exit()
}

fn path(v6: bool) -> &'static str {
    if v6 { "/ip6tables" } else { "/iptables" }
}

/// The guest's words, as they are; but they shall not control a terminal.
fn show(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        let text = String::from_utf8_lossy(bytes);
        let harmless = |c: &char| !c.is_control() || ['\n', '\t'].contains(c);
        stdout.write_all(text.chars().filter(harmless).collect::<String>().as_bytes())?;
    } else {
        stdout.write_all(bytes)?;
    }
    stdout.flush()
}
