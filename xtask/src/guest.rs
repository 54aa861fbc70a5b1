//! What runs in the virtual machine: the guest kernel and the initrd with the agent.

pub(crate) mod additions;
pub(crate) mod cpio;
pub(crate) mod edits;
pub(crate) mod fragments;
pub(crate) mod initrd;
pub(crate) mod kernel;
pub(crate) mod kernel_source;
pub(crate) mod policies;

use anyhow::Result;

use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{binaries, packages};

/// Options of `cargo xtask guest`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the kernel
    #[arg(long)]
    kernel: bool,
}

/// Builds what runs in the virtual machine and prints where it is.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (workspace, progress) = (Workspace::find()?, Progress::new());
    packages::ensure(&workspace, &progress)?;
    println!("{}", kernel::ensure(&workspace, &progress)?.display());
    if !args.kernel {
        let agent = binaries::agent(&workspace, &progress)?;
        let image_pull = binaries::image_pull(&workspace, &progress)?;
        let initrds = initrd::ensure(&workspace, &progress, &agent, &image_pull)?;
        println!("{}\n{}", initrds.plain.display(), initrds.guest_pull.display());
    }
    Ok(())
}
