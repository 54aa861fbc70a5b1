//! Images that the guest pulls itself (upstream's storage driver `image_guest_pull`). The work is done by a program of its
//! own, which only the initrd with guest pull has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kata_protocol::agent::Storage;
use kata_protocol::guest;
use kata_protocol::oci::Spec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use crate::memory_file;
use crate::reaper::Reaper;

/// The guest's resolver configuration, which the program reads.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What is shown of the program's complaint, in bytes.
const WORDS: usize = 1000;

/// How images are pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullOptions {
    /// Within this time.
    pub(crate) timeout: Duration,
    /// For connections with TLS.
    pub(crate) https_proxy: Option<String>,
    /// Hosts that are connected to without the proxy, separated by commas.
    pub(crate) no_proxy: Option<String>,
    /// Registries that are spoken to without TLS: `HOST` or `HOST:PORT`.
    pub(crate) insecure_registries: Vec<String>,
}

impl Default for PullOptions {
    fn default() -> Self {
        // Upstream's.
        let timeout = Duration::from_secs(1200);
        Self { timeout, https_proxy: None, no_proxy: None, insecure_registries: Vec::new() }
    }
}

/// An image could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// The guest is another one.
    #[error(
        "The guest cannot pull the image {image:?}: its initrd has no {}; set `initrd` to kata-containers-initrd-guest-pull.img, \
         which is installed beside the usual one",
        guest::IMAGE_PULL_PROGRAM
    )]
    NoProgram { image: String },
    /// An option has no meaning.
    #[error("The image {image:?} cannot be pulled: its option {option:?} is not understood")]
    Option { image: String, option: String },
    /// The program could not be run.
    #[error("{} cannot be run in the guest", guest::IMAGE_PULL_PROGRAM)]
    Run(#[source] io::Error),
    /// It says why.
    #[error("The guest could not pull the image (status {code}): {words}")]
    Failed { code: i32, words: String },
    /// Nobody wants it any more.
    #[error("The image {image:?} was not pulled to its end: its container is not wanted any more")]
    CalledOff { image: String },
    /// It took too long.
    #[error(
        "The guest did not pull the image {image:?} within {} s (`agent.image_pull_timeout`); is the registry too slow?",
        limit.as_secs()
    )]
    Timeout { image: String, limit: Duration },
}

type Result<T> = std::result::Result<T, PullError>;

/// Whether a storage is an image to be pulled.
pub(crate) fn is_pulled(storage: &Storage) -> bool {
    storage.driver == guest::IMAGE_GUEST_PULL
}

/// Whether this guest has the program.
pub(crate) fn is_there() -> bool {
    Path::new(guest::IMAGE_PULL_PROGRAM).is_file()
}

/// Gives the guest the resolver that the container is to have: the image comes over the pod's network.
pub(crate) fn use_resolver(spec: &Spec) {
    let mounts = spec.Mounts.iter();
    let Some(mount) = mounts.rev().find(|mount| mount.destination == RESOLV_CONF) else { return };
    if let Err(error) = fs::copy(&mount.source, RESOLV_CONF) {
        tracing::warn!(from = mount.source, %error, "The guest has no name servers to find registries by");
    }
}

impl PullOptions {
    /// Pulls the image of `storage` into its mount point, which is mounted, unless it is called off.
    pub(crate) async fn pull(
        &self,
        reaper: &Reaper,
        storage: &Storage,
        called_off: impl Future<Output = ()>,
    ) -> Result<()> {
        let mut words = memory_file::empty("words").map_err(PullError::Run)?;
        let mut command = self.command(storage)?;
        command.stderr(words.try_clone().map_err(PullError::Run)?);
        let spawning = reaper.expect();
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PullError::NoProgram { image: storage.source.clone() },
            _ => PullError::Run(error),
        })?;
        let mut running = Running(Some(child.id().cast_signed()));
        let mut exit = spawning.claim_only(child.id().cast_signed());
        let image = storage.source.clone();
        let ended = timeout(self.timeout, async {
            tokio::select! {
                code = exit.wait() => Some(code),
                () = called_off => None,
            }
        });
        let ended = match ended.await {
            Ok(Some(code)) => Ok(code),
            Ok(None) => Err(PullError::CalledOff { image }),
            Err(_) => Err(PullError::Timeout { image, limit: self.timeout }),
        };
        if ended.is_err() {
            drop(running);
            exit.wait().await;
        } else {
            running.0 = None;
        }
        match ended? {
            0 => Ok(()),
            code => Err(PullError::Failed { code, words: memory_file::last_words(&mut words, WORDS) }),
        }
    }

    fn command(&self, storage: &Storage) -> Result<Command> {
        // What the snapshotter knows of the image, which changes nothing of what is pulled.
        let is_known = |option: &&String| {
            option.strip_prefix(guest::IMAGE_GUEST_PULL).is_some_and(|rest| rest.starts_with('='))
        };
        let strange = storage.driver_options.iter().find(|option| !is_known(option));
        if let Some(option) = strange.or(storage.options.first()) {
            let (image, option) = (storage.source.clone(), option.clone());
            return Err(PullError::Option { image, option });
        }
        let mut command = Command::new(guest::IMAGE_PULL_PROGRAM);
        command.arg("--root").arg(PathBuf::from(&storage.mount_point));
        for registry in &self.insecure_registries {
            command.arg("--plain-http").arg(registry);
        }
        for (name, value) in [("--https-proxy", &self.https_proxy), ("--no-proxy", &self.no_proxy)] {
            if let Some(value) = value {
                command.arg(name).arg(value);
            }
        }
        command.arg("--").arg(&storage.source);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }
}

/// A program that is killed if nobody waits for it any more.
struct Running(Option<i32>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Gone already: nothing is left to do.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(option: &str) -> Storage {
        Storage {
            driver: guest::IMAGE_GUEST_PULL.into(),
            source: "r:5000/a:1".into(),
            mount_point: "/run/c/rootfs".into(),
            driver_options: vec![option.into()],
            ..Default::default()
        }
    }

    #[test]
    fn the_program_is_told_what_the_kernels_command_line_says() {
        let options = PullOptions {
            https_proxy: Some("http://p:1".into()),
            insecure_registries: vec!["r:5000".into(), "s".into()],
            ..Default::default()
        };
        let command = options.command(&storage("image_guest_pull={}")).expect("understood");
        let arguments: Vec<_> = command.get_args().map(|word| word.to_str().expect("is text")).collect();
        let expected =
            "--root /run/c/rootfs --plain-http r:5000 --plain-http s --https-proxy http://p:1 -- r:5000/a:1";
        assert_eq!(arguments.join(" "), expected);
    }

    #[test]
    fn an_option_that_is_not_known_is_refused() {
        let refused = PullOptions::default().command(&storage("image_guest_pulls={}")).expect_err("strange");
        assert!(matches!(refused, PullError::Option { .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_guest_without_the_program_says_which_initrd_has_it() {
        let pulled = PullOptions::default()
            .pull(&Reaper::default(), &storage("image_guest_pull={}"), std::future::pending())
            .await;
        let message = pulled.expect_err("no such program here").to_string();
        let names = ["r:5000/a:1", "kata-image-pull", "kata-containers-initrd-guest-pull.img"];
        assert!(names.iter().all(|name| message.contains(name)), "{message}");
    }
}
