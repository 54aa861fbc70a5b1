//! `kata-runtime direct-volume`: block devices that a CSI driver leaves to the guest to mount. Flags and files are
//! upstream's.

mod add;
mod remove;
mod resize;
mod size;
mod stats;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use kata_storage::direct_volume::DirectVolumes;

use crate::global::Global;
use crate::management::Sandbox;

/// Arguments of `direct-volume`.
#[derive(Debug, Args)]
pub(crate) struct DirectVolumeArgs {
    #[command(subcommand)]
    command: DirectVolumeCommand,

    /// Where volumes are written down, below it: for tests
    #[arg(long, global = true, hide = true, default_value = "/run")]
    run_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum DirectVolumeCommand {
    /// Leave a block device to the guest: it is mounted there in place of the volume's directory
    ///
    /// For the containers that are made from then on. The sandbox of the first of them has the device alone.
    Add(add::AddArgs),
    /// Make a volume an ordinary directory again
    Remove(Which),
    /// Print how full a volume is, by the guest that has mounted it, as JSON
    Stats(Which),
    /// Let a volume grow while it is mounted: its disk in the VM, and then its file system
    ///
    /// The device on the host must have grown before; an image file is made longer.
    Resize(resize::ResizeArgs),
}

/// A volume.
#[derive(Debug, Args)]
struct Which {
    /// Absolute path that the pod's volume is published at
    #[arg(long, value_name = "PATH")]
    volume_path: PathBuf,
}

/// The volumes of this host.
struct Host<'a> {
    volumes: DirectVolumes,
    root: &'a Path,
}

impl Host<'_> {
    /// The sandbox that has the volume.
    fn sandbox_of(&self, volume: &Path) -> anyhow::Result<Sandbox> {
        let user = self.volumes.user(volume)?;
        let id = user.with_context(|| {
            format!("No sandbox that runs has the volume {volume:?}; it has one from its first container on")
        })?;
        Sandbox::find(self.root, &id)
    }
}

/// The command line as clap takes it: upstream's documents write these flags with one hyphen, too. What other subcommands get is theirs.
pub(crate) fn spelled(mut words: Vec<OsString>) -> Vec<OsString> {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let begin = words.iter().position(|word| word == "direct-volume").unwrap_or(end);
    for word in words.get_mut(begin..end).unwrap_or_default() {
        *word = flag(std::mem::take(word));
    }
    words
}

fn flag(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let name = text.split('=').next().unwrap_or(text);
    match name {
        "-volume-path" | "-mount-info" | "-size" => format!("-{text}").into(),
        _ => argument,
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &DirectVolumeArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let volumes = kata_sandbox::direct_volumes_below(&args.run_dir, &global.root);
    let host = Host { volumes, root: &global.root };
    match &args.command {
        DirectVolumeCommand::Add(args) => add::run(args, &host)?,
        DirectVolumeCommand::Remove(which) => remove::run(which, &host)?,
        DirectVolumeCommand::Stats(which) => stats::run(which, &host)?,
        DirectVolumeCommand::Resize(args) => resize::run(args, &host)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::spelled;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn flags_of_upstreams_documents_are_taken() {
        let line = "kata-runtime direct-volume resize -volume-path /a -size=1G";
        assert_eq!(
            spelled(words(line)),
            words("kata-runtime direct-volume resize --volume-path /a --size=1G")
        );
    }

    /// `find` got `--size`.
    #[test]
    fn what_a_program_in_the_guest_gets_is_left_as_it_is() {
        for line in
            ["kata-runtime exec id -- find / -size +10M", "kata-runtime exec id -- direct-volume -size 1"]
        {
            assert_eq!(spelled(words(line)), words(line));
        }
    }
}
