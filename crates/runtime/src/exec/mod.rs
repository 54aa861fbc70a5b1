//! `kata-runtime exec`: a shell in the guest of a sandbox, outside of all containers.

mod bare;
mod terminal;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use kata_protocol::console::{Size, Start};
use rustix::termios::tcgetwinsize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::console::{self, ConsoleArgs, Ends, ShellSource, Way};
use crate::global::Global;

use terminal::Raw;

/// Arguments of `exec`.
#[derive(Debug, Args)]
#[command(
    after_help = "Standard input and output that are a terminal are one in the guest, too, with its size; else they \
                        are streams as they are. The exit code is the command's, or 128 and the signal that ended it; 1 is \
                        also an error of this program's. The debug console must be on (`debug_console_enabled` in \
                        [agent.kata]) when the sandbox starts."
)]
pub(crate) struct ExecArgs {
    /// The sandbox's id, or a beginning of it that no other has
    sandbox: String,

    #[command(flatten)]
    console: ConsoleArgs,

    /// The command and its arguments, as they are (for a line of a shell: sh -c LINE); else an interactive shell
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Signals that end this program; a terminal is restored first.
const ENDINGS: [SignalKind; 4] =
    [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];

/// Runs the subcommand.
pub(crate) fn run(args: &ExecArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("Cannot speak to sandboxes")?;
    let ended = runtime.block_on(converse(args, global));
    // Standard input may be read still, and nobody will type any more.
    runtime.shutdown_background();
    Ok(ExitCode::from(u8::try_from(ended?).unwrap_or(u8::MAX)))
}

async fn converse(args: &ExecArgs, global: &Global) -> anyhow::Result<u32> {
    let sandbox = args.console.sandbox(&args.sandbox, global)?;
    let way = args.console.reach(&sandbox).await?;
    let has_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let terminal = if has_terminal { Some(Terminal::take()?) } else { None };
    let talking = async {
        match way {
            Way::Own(stream) => {
                let (sender, none) = watch::channel(Size::default());
                let sizes = terminal.as_ref().map_or(none, |terminal| terminal.sizes.subscribe());
                drop(sender);
                let start = start(&args.command, terminal.is_some(), &args.console, *sizes.borrow());
                let ends = Ends {
                    input: tokio::io::stdin(),
                    output: tokio::io::stdout(),
                    errors: tokio::io::stderr(),
                    sizes,
                };
                let shell = ShellSource { named: args.console.shell.clone() };
                anyhow::Ok(console::run(stream, &start, &shell, ends).await?)
            }
            Way::Other(url) => bare::run(&url, args.console.kata_debug_port, &args.command).await,
        }
    };
    match &terminal {
        None => talking.await,
        Some(terminal) => tokio::select! {
            ended = talking => ended,
            signal = terminal.watch() => signal,
        },
    }
}

/// What the agent is to run. The command is found by the shell, which may have programs of its own.
fn start(command: &[String], has_terminal: bool, args: &ConsoleArgs, size: Size) -> Start {
    let mut arguments = Vec::new();
    if !command.is_empty() {
        arguments.extend(["-c", "exec \"$@\"", "sh"].map(str::to_owned));
        arguments.extend_from_slice(command);
    }
    Start {
        terminal: has_terminal.then_some(size),
        brings_shell: args.shell.is_some(),
        term: std::env::var("TERM").unwrap_or_default(),
        arguments,
    }
}

/// Our terminal, raw as long as this lives.
struct Terminal {
    _raw: Raw,
    sizes: watch::Sender<Size>,
}

impl Terminal {
    fn take() -> anyhow::Result<Self> {
        let raw = Raw::enter().context("Cannot use the terminal")?;
        Ok(Self { _raw: raw, sizes: watch::channel(window()).0 })
    }

    /// Follows its size until a signal ends this program.
    async fn watch(&self) -> anyhow::Result<u32> {
        let listen = |kind| signal(kind).context("Cannot listen for signals");
        let mut resized = listen(SignalKind::window_change())?;
        let mut endings = ENDINGS.into_iter().map(listen).collect::<anyhow::Result<Vec<Signal>>>()?;
        // It may have changed before anybody listened.
        self.sizes.send_replace(window());
        loop {
            let ending = std::future::poll_fn(|context| {
                let mut ready = endings.iter_mut().zip(ENDINGS);
                let ended =
                    ready.find_map(|(signal, kind)| signal.poll_recv(context).is_ready().then_some(kind));
                ended.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
            });
            tokio::select! {
                kind = ending => return Ok(128 + kind.as_raw_value().unsigned_abs()),
                _ = resized.recv() => drop(self.sizes.send_replace(window())),
            }
        }
    }
}

/// The size of our terminal.
fn window() -> Size {
    tcgetwinsize(rustix::stdio::stdout()).map(|size| (size.ws_row, size.ws_col)).unwrap_or_default()
}
