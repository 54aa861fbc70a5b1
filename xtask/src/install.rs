//! `cargo xtask install` and `uninstall`: the runtime in a prefix, for use by any containerd.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::prefix::Prefix;
use crate::progress::Progress;
use crate::setup;
use crate::workspace::Workspace;

const DEFAULT_PREFIX: &str = "/usr/local";

/// Options of `cargo xtask install`.
#[derive(clap::Args)]
pub(crate) struct InstallArgs {
    /// Where to put everything
    #[arg(long, default_value = DEFAULT_PREFIX)]
    prefix: PathBuf,
}

/// Options of `cargo xtask uninstall`.
#[derive(clap::Args)]
pub(crate) struct UninstallArgs {
    /// Where everything was put
    #[arg(long, default_value = DEFAULT_PREFIX)]
    prefix: PathBuf,
}

/// Builds what is missing, puts it into the prefix and says how to use it.
pub(crate) fn install(args: &InstallArgs) -> Result<()> {
    let progress = Progress::new();
    let prefix = Prefix::new(&args.prefix)?;
    let report = setup::into(&Workspace::find()?, &progress, &prefix)?;
    for path in report.done {
        println!("put {}", path.display());
    }
    for path in report.kept {
        println!("kept {}: it was changed by hand", path.display());
    }
    print!("{}", next_steps(&prefix));
    Ok(())
}

/// Removes exactly what was put.
pub(crate) fn uninstall(args: &UninstallArgs) -> Result<()> {
    let report = Prefix::new(&args.prefix)?.remove()?;
    for path in report.done {
        println!("removed {}", path.display());
    }
    for path in report.kept {
        println!("kept {}: it was changed by hand; remove it yourself if you do not need it", path.display());
    }
    Ok(())
}

fn next_steps(prefix: &Prefix) -> String {
    let bin = prefix.bin();
    let mut text = String::from("\nNext, for a containerd started by hand:\n");
    if prefix.root() != Path::new(DEFAULT_PREFIX) {
        text += &format!("  export PATH={}:$PATH\n", bin.display());
        text += &format!("  export KATA_CONF_FILE={}\n", prefix.configuration().display());
        text +=
            "(containerd itself needs both in its environment; with systemd: `systemctl edit containerd`)\n";
    }
    text += "  kata-runtime check\n";
    text += "  ctr run --rm --runtime io.containerd.kata.v2 IMAGE NAME COMMAND\n";
    text
}
