//! `kata-runtime cp`: files and directories into and out of a guest, through a console.
//!
//! A shell in the guest runs `tar`; here the archive is written (`pack.rs`) or read (`unpack.rs`). What is copied appears
//! under its name at once, when it is whole and has the right hash; before, it is in a folder of its own beside it, which
//! goes when anything fails.

mod pack;
mod place;
mod unpack;
mod words;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use kata_protocol::console::{Size, Start};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::console::{self, ConsoleArgs, Ends, ShellSource, Way};
use crate::global::Global;

use place::Place;
use words::Words;

/// Arguments of `cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "A directory that is there takes what is copied into it under its own name; a file that is there is \
                        replaced, a directory of the same name is not. Modes are kept, and so are links inside directories; \
                        set-user-id and set-group-id bits and owners are not taken out of a guest. What was copied has been \
                        compared by its SHA-256 when this returns, and nothing is left of what failed. The debug console must \
                        be on (`debug_console_enabled` in [agent.kata]) when the sandbox starts."
)]
pub(crate) struct CpArgs {
    /// What is copied: a path of this host, or SANDBOX:/PATH in a guest
    #[arg(value_name = "SRC")]
    from: String,

    /// Where to: SANDBOX:/PATH, or a path of this host
    #[arg(value_name = "DST")]
    to: String,

    #[command(flatten)]
    console: ConsoleArgs,
}

/// The scripts that a shell in the guest runs.
const PUT: &str = include_str!("put.sh");
const GET: &str = include_str!("get.sh");

/// Runs the subcommand.
pub(crate) fn run(args: &CpArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("Cannot speak to sandboxes")?;
    let code = runtime.block_on(async {
        let mut ending = Endings::new()?;
        tokio::select! {
            copied = copy(args, global) => copied.map(|()| 0),
            signal = ending.next() => Ok(128 + signal),
        }
    });
    Ok(ExitCode::from(code?))
}

async fn copy(args: &CpArgs, global: &Global) -> anyhow::Result<()> {
    match (Place::parse(&args.from)?, Place::parse(&args.to)?) {
        (Place::Here(from), Place::Guest { sandbox, path }) => {
            let source = pack::Source::open(&from)?;
            Guest::reach(&sandbox, args, global).await?.put(source, &path).await
        }
        (Place::Guest { sandbox, path }, Place::Here(to)) => {
            let name = Path::new(&path).file_name().and_then(|name| name.to_str());
            let target =
                unpack::Target::prepare(&to, name.context("The path in the guest has no last name")?)?;
            Guest::reach(&sandbox, args, global).await?.get(&path, target).await
        }
        (Place::Here(_), Place::Here(_)) => {
            bail!("Neither is in a guest; write SANDBOX:/PATH for the one that is")
        }
        _ => bail!("Both are in guests; copy to this host first"),
    }
}

/// A guest that is reached for one copy.
struct Guest {
    way: Way,
    shell: ShellSource,
}

impl Guest {
    async fn reach(id: &str, args: &CpArgs, global: &Global) -> anyhow::Result<Self> {
        let way = args.console.reach(&args.console.sandbox(id, global)?).await?;
        Ok(Self { way, shell: ShellSource { named: args.console.shell.clone() } })
    }

    /// Into the guest.
    async fn put(self, source: pack::Source, to: &str) -> anyhow::Result<()> {
        let arguments = [to.to_owned(), source.name()?];
        let (input, writer) = pipe()?;
        set_nonblocking(&input)?;
        let input = pipe::Receiver::from_owned_fd(input.into())?;
        let packing = tokio::task::spawn_blocking(move || source.pack(writer));
        let ran = self.run(PUT, arguments, input, tokio::io::sink()).await;
        // Nobody reads any more: it has ended, or does. Whoever failed first has the reason.
        let packed = packing.await?.context("Cannot read all that is to be copied");
        first_failure(packed, ran).map(drop)
    }

    /// Out of the guest.
    async fn get(self, from: &str, target: unpack::Target) -> anyhow::Result<()> {
        let (reader, output) = pipe()?;
        set_nonblocking(&output)?;
        let output = pipe::Sender::from_owned_fd(output.into())?;
        let unpacking = tokio::task::spawn_blocking(move || target.unpack(reader));
        let ran = self.run(GET, [from.to_owned()], tokio::io::empty(), output).await;
        let unpacked = unpacking.await?.context("Cannot take what comes out of the guest");
        let (unpacked, words) = first_failure(unpacked, ran)?;
        if words.last_line().split(' ').next() != Some(unpacked.hash()) {
            bail!("What came out of the guest is not what was sent; try again");
        }
        unpacked.commit()
    }

    /// Runs a script in the guest. Its own words, if it succeeds.
    async fn run<I, O>(
        self,
        script: &str,
        arguments: impl IntoIterator<Item = String>,
        input: I,
        output: O,
    ) -> anyhow::Result<Words>
    where
        I: AsyncRead + Unpin,
        O: AsyncWrite + Unpin,
    {
        let Way::Own(stream) = self.way else {
            bail!("The agent in the guest is not of this release, and files are not copied by way of others");
        };
        let mut words = ["-c".to_owned(), script.to_owned(), "kata-runtime cp".to_owned()].to_vec();
        words.extend(arguments);
        // The host's has all the programs that the scripts need.
        let start = Start { brings_shell: self.shell.is_there(), arguments: words, ..Start::default() };
        let mut errors = Words::default();
        let ends = Ends { input, output, errors: &mut errors, sizes: watch::channel(Size::default()).1 };
        match console::run(stream, &start, &self.shell, ends).await? {
            0 => Ok(errors),
            127 => bail!("The guest's shell lacks a program that copies: {}", errors.text()),
            code => bail!(
                "{}",
                Some(errors.text())
                    .filter(|text| !text.is_empty())
                    .unwrap_or_else(|| { format!("The shell in the guest ended with status {code}") })
            ),
        }
    }
}

/// Both, or why not: the end of one side breaks the other's pipe, or cuts short what it reads.
fn first_failure<T>(here: anyhow::Result<T>, guest: anyhow::Result<Words>) -> anyhow::Result<(T, Words)> {
    match (here, guest) {
        (Ok(here), Ok(guest)) => Ok((here, guest)),
        (Err(here), Err(guest)) => Err(if is_cut_off(&here) { guest } else { here }),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn is_cut_off(error: &anyhow::Error) -> bool {
    let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::UnexpectedEof];
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    error.is::<unpack::Nothing>() || causes.any(|cause| kinds.contains(&cause.kind()))
}

/// A pipe; the asynchronous end is made non-blocking by its user.
fn pipe() -> io::Result<(File, File)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((read.into(), write.into()))
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    Ok(fcntl_setfl(file, fcntl_getfl(file)? | OFlags::NONBLOCK)?)
}

/// Signals that end this program; what is half-done is removed first.
struct Endings([(u8, tokio::signal::unix::Signal); 3]);

impl Endings {
    fn new() -> anyhow::Result<Self> {
        let listen = |number: u8| {
            let signal = signal(SignalKind::from_raw(number.into()));
            signal.map(|signal| (number, signal)).context("Cannot listen for signals")
        };
        Ok(Self([listen(1)?, listen(2)?, listen(15)?]))
    }

    async fn next(&mut self) -> u8 {
        let [(hangup, one), (interrupt, two), (terminate, three)] = &mut self.0;
        tokio::select! {
            _ = one.recv() => *hangup,
            _ = two.recv() => *interrupt,
            _ = three.recv() => *terminate,
        }
    }
}

/// What a name is in an archive; the file or directory itself.
const TREE: &str = "tree";

/// A file's path in the archive, below [`TREE`].
fn in_tree(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { TREE.into() } else { Path::new(TREE).join(path) }
}
