//! Guests without a runtime around them: QEMU as our driver starts it, or plain, with an init that does one thing.
//!
//! Our driver's command line is taken from a running sandbox, so that it can never be another one than users get.

use std::fs;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::backing;
use super::containers::Containers;
use super::payload;
use crate::process;

/// What reaches `init` when nobody else's boot is measured against it.
const PLAIN_MEMORY: &str = "2048M";
const DEADLINE: &str = "600";
const SHARE: &str = "vhost-user-fs-pci,";

/// QEMU's command line without initrd.
pub(crate) struct BareGuest {
    program: String,
    arguments: Vec<String>,
    /// The device of the shared directory, which is left out there.
    share: Option<String>,
}

impl BareGuest {
    /// Our kernel, memory, CPU and devices, but for the shared directory and the control channel, which need somebody
    /// at their other end.
    pub(crate) fn of(containers: &Containers<'_>) -> Result<Self> {
        let mut words = containers.qemu_command_line()?.into_iter();
        let program = words.next().context("A process has a program")?;
        let words: Vec<_> = words.collect();
        let share = words.iter().find(|word| word.starts_with(SHARE)).cloned();
        Ok(Self { program, arguments: without_peers(words), share })
    }

    /// Another kernel on a default `q35`.
    pub(crate) fn plain(kernel: &Path) -> Self {
        let kernel = kernel.display().to_string();
        let arguments =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"];
        let arguments =
            arguments.into_iter().chain(["-accel", "tcg", "-m", PLAIN_MEMORY, "-kernel", &kernel]);
        let arguments = arguments.chain(["-append", "quiet reboot=k panic=1"]);
        let arguments = arguments.map(str::to_owned).collect();
        Self { program: "qemu-system-x86_64".to_owned(), arguments, share: None }
    }

    /// Seconds from starting QEMU to its end, with an init that powers off at once.
    pub(crate) fn boot(&self) -> Result<f64> {
        let directory = tempfile::tempdir()?;
        let initrd = initrd(&directory, &payload::power_off())?;
        backing::obtain(1)?;
        let begun = Instant::now();
        process::output(&mut self.command(&initrd, "null,id=agent"))?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// MB/s (10⁶ bytes) through the agent's virtio-serial port, written by `dd` in pieces of 32 KiB.
    pub(crate) fn throughput(&self) -> Result<f64> {
        self.at_port(&payload::writer()?, &[], |port| rate_of(port, payload::PORT_BYTES))
    }

    /// What the guest writes to the agent's virtio-serial port before it powers off. It has these `devices` more.
    pub(crate) fn tells(&self, initrd: &[u8], devices: &[String]) -> Result<String> {
        self.at_port(initrd, devices, |port| {
            let mut told = String::new();
            port.read_to_string(&mut told)?;
            Ok(told)
        })
    }

    /// The shared directory's device, with a daemon at the other end of `socket`.
    pub(crate) fn sharing(&self, socket: &Path) -> Result<Vec<String>> {
        let device = self.share.clone().context("A sandbox has a shared directory")?;
        let name = device.split(',').find_map(|word| word.strip_prefix("chardev="));
        let name = name.context("The device names its other end")?;
        let other_end = format!("socket,id={name},path={}", socket.display());
        Ok(vec!["-chardev".to_owned(), other_end, "-device".to_owned(), device])
    }

    /// Runs a guest with somebody at the other end of the agent's port.
    fn at_port<T>(
        &self,
        initrd_bytes: &[u8],
        devices: &[String],
        listen: impl FnOnce(&mut UnixStream) -> Result<T>,
    ) -> Result<T> {
        let directory = tempfile::tempdir()?;
        let initrd = initrd(&directory, initrd_bytes)?;
        let socket = directory.path().join("port.sock");
        let listener = UnixListener::bind(&socket)?;
        let mut command = self.command(&initrd, &format!("socket,id=agent,path={}", socket.display()));
        command.args(devices).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut qemu = command.spawn()?;
        let (mut port, _) = listener.accept()?;
        let heard = listen(&mut port);
        // It powers off by itself; killing it is for the case that it does not.
        let _ = qemu.kill();
        qemu.wait()?;
        heard
    }

    fn command(&self, initrd: &Path, agent: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", DEADLINE, &self.program]).args(&self.arguments);
        if self.arguments.iter().any(|word| word.contains("chardev=agent")) {
            command.args(["-chardev", agent]);
        }
        command.arg("-initrd").arg(initrd);
        command
    }
}

fn initrd(directory: &TempDir, bytes: &[u8]) -> Result<PathBuf> {
    let path = directory.path().join("initrd");
    fs::write(&path, bytes)?;
    Ok(path)
}

/// MB/s between the first and the last byte of a stream that must have exactly this length.
pub(crate) fn rate_of(stream: &mut impl Read, expected: u64) -> Result<f64> {
    let mut buffer = vec![0; 1 << 18];
    let (mut begun, mut total) = (None, 0_u64);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        begun.get_or_insert_with(Instant::now);
        total += length as u64;
        if total >= expected {
            break;
        }
    }
    let seconds = begun.context("Nothing came through")?.elapsed().as_secs_f64();
    if total != expected {
        bail!("{total} bytes came through, not {expected}");
    }
    Ok(f64::from(u32::try_from(total / 1000)?) / 1000.0 / seconds)
}

/// The options of a running sandbox's QEMU without those that refer to open descriptors.
fn without_peers(words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(option) = words.next() {
        let value = words.next_if(|word| !word.starts_with('-'));
        let shown = value.as_deref().unwrap_or_default();
        let has_peer = match option.as_str() {
            "-chardev" => shown.contains(",fd=") || shown.contains("/dev/fdset/"),
            "-device" => shown.contains("vhost-user") || shown.contains("vhost-vsock"),
            "-mon" | "-add-fd" | "-initrd" | "-name" => true,
            _ => false,
        };
        if option == "-chardev" && shown.contains("id=console") {
            kept.extend([option, "null,id=console".to_owned()]);
        } else if !has_peer {
            kept.push(option);
            kept.extend(value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_descriptors_go_and_the_console_stays() {
        let line = "-no-reboot -m 2048M -initrd /i -chardev socket,id=qmp,fd=17 -mon chardev=qmp,mode=control \
                    -add-fd fd=27,set=1 -chardev file,id=console,path=/dev/fdset/1 \
                    -device virtconsole,chardev=console -chardev socket,id=agent,fd=20 \
                    -device virtserialport,chardev=agent -chardev socket,id=fs4,fd=15 \
                    -device vhost-user-fs-pci,chardev=fs4 -sandbox on";
        let words = line.split_whitespace().map(str::to_owned).collect();
        let expected = "-no-reboot -m 2048M -chardev null,id=console -device virtconsole,chardev=console \
                        -device virtserialport,chardev=agent -sandbox on";
        assert_eq!(without_peers(words), expected.split_whitespace().collect::<Vec<_>>());
    }
}
