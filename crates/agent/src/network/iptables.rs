//! The packet filter, through the programs of the guest's image where it has them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Network;
use crate::memory_file;
use crate::reaper::Reaper;

/// Where a guest's image keeps them.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// What is shown of a program's complaint, in bytes.
const WORDS: usize = 400;

/// The packet filter could not be read or set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IpTablesError {
    /// No such program.
    #[error(
        "The guest image has no {program}; add iptables to the image, or let a container with CAP_NET_ADMIN bring its own"
    )]
    Missing { program: &'static str },
    /// It could not be run.
    #[error("Cannot run {program} in the guest")]
    Run { program: &'static str, source: io::Error },
    /// It says so.
    #[error("{program} failed in the guest (status {code}): {words}")]
    Failed { program: &'static str, code: i32, words: String },
}

type Result<T> = std::result::Result<T, IpTablesError>;

impl Network {
    /// The rules, as iptables-save(8) writes them.
    pub(crate) async fn packet_filter(&self, reaper: &Reaper, v6: bool) -> Result<Vec<u8>> {
        run(reaper, if v6 { "ip6tables-save" } else { "iptables-save" }, &[]).await
    }

    /// Sets the rules to those of such a text; what the program says of it.
    pub(crate) async fn set_packet_filter(&self, reaper: &Reaper, v6: bool, rules: &[u8]) -> Result<Vec<u8>> {
        run(reaper, if v6 { "ip6tables-restore" } else { "iptables-restore" }, rules).await
    }
}

fn find(program: &'static str, folders: &[&str]) -> Result<PathBuf> {
    let paths = folders.iter().map(|folder| Path::new(folder).join(program));
    paths.into_iter().find(|path| path.is_file()).ok_or(IpTablesError::Missing { program })
}

async fn run(reaper: &Reaper, program: &'static str, input: &[u8]) -> Result<Vec<u8>> {
    let path = find(program, &FOLDERS)?;
    let failed = |source| IpTablesError::Run { program, source };
    let streams = || -> io::Result<_> {
        let rules = memory_file::with("rules", input)?;
        Ok((rules, memory_file::empty("output")?, memory_file::empty("words")?))
    };
    let (rules, mut output, mut words) = streams().map_err(failed)?;
    let theirs = (output.try_clone().map_err(failed)?, words.try_clone().map_err(failed)?);
    let mut command = Command::new(path);
    command.env_clear().env("PATH", FOLDERS.join(":")).stdin(rules).stdout(theirs.0).stderr(theirs.1);
    let spawning = reaper.expect();
    let child = command.spawn().map_err(failed)?;
    let code = spawning.claim_only(child.id().cast_signed()).wait().await;
    if code == 0 {
        return memory_file::content(&mut output).map_err(failed);
    }
    Err(IpTablesError::Failed { program, code, words: memory_file::last_words(&mut words, WORDS) })
}
