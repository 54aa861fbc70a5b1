//! Guests without a runtime around them: QEMU as our driver starts it, or plain, with an init that does one thing.
//!
//! Our driver's command line is taken from a running sandbox, so that it can never be another one than users get.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::containers::Containers;
use super::payload;
use crate::process;

/// What reaches `init` when nobody else's boot is measured against it.
const PLAIN_MEMORY: &str = "2048M";
const DEADLINE: &str = "120";
/// The host's end of a bare guest's network card, in a network namespace of its own, and both addresses.
const TAP: &str = "bench0";
pub(crate) const HOST_ADDRESS: &str = "10.9.0.1";
pub(crate) const GUEST_ADDRESS: &str = "10.9.0.2";

/// QEMU's command line without initrd.
pub(crate) struct BareGuest {
    program: String,
    arguments: Vec<String>,
}

impl BareGuest {
    /// Our kernel, memory, CPU and devices, but for the shared directory and the control channel, which need somebody
    /// at their other end.
    pub(crate) fn of(containers: &Containers<'_>) -> Result<Self> {
        Self::like(containers.qemu_command_line()?)
    }

    /// As [`BareGuest::of`], from the words of a QEMU; a network card becomes one with the TAP device [`TAP`].
    pub(crate) fn like(words: Vec<String>) -> Result<Self> {
        let mut words = words.into_iter();
        let program = words.next().context("A process has a program")?;
        Ok(Self { program, arguments: without_peers(words.collect()) })
    }

    /// Another kernel on a default `q35`.
    pub(crate) fn plain(kernel: &Path) -> Self {
        let kernel = kernel.display().to_string();
        let arguments =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"];
        let arguments =
            arguments.into_iter().chain(["-accel", "tcg", "-m", PLAIN_MEMORY, "-kernel", &kernel]);
        let arguments = arguments.chain(["-append", "quiet reboot=k panic=1"]);
        Self { program: "qemu-system-x86_64".to_owned(), arguments: arguments.map(str::to_owned).collect() }
    }

    /// Seconds from starting QEMU to its end, with an init that powers off at once.
    pub(crate) fn boot(&self) -> Result<f64> {
        let directory = tempfile::tempdir()?;
        let initrd = initrd(&directory, &payload::power_off())?;
        let begun = Instant::now();
        process::output(&mut self.command(&initrd, "null,id=agent"))?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// MB/s (10⁶ bytes) through the agent's virtio-serial port, written by `dd` in pieces of 32 KiB.
    pub(crate) fn throughput(&self) -> Result<f64> {
        let directory = tempfile::tempdir()?;
        let initrd = initrd(&directory, &payload::writer()?)?;
        let socket = directory.path().join("port.sock");
        let listener = UnixListener::bind(&socket)?;
        let mut command = self.command(&initrd, &format!("socket,id=agent,path={}", socket.display()));
        let mut qemu = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let (mut port, _) = listener.accept()?;
        let rate = rate_of(&mut port, payload::PORT_BYTES);
        // It powers off by itself; killing it is for the case that it does not.
        let _ = qemu.kill();
        qemu.wait()?;
        rate
    }

    /// Bits per second that iperf3 sends from the guest to the other end of its TAP device, which nothing else stands on.
    pub(crate) fn network_throughput(&self) -> Result<f64> {
        let directory = tempfile::tempdir()?;
        let initrd = initrd(&directory, &payload::network_client()?)?;
        let guest = self.command(&initrd, "null,id=agent");
        let script = format!(
            "set -e; ip tuntap add {TAP} mode tap; ip addr add {HOST_ADDRESS}/24 dev {TAP}; ip link set {TAP} up; \
             timeout {DEADLINE} iperf3 --server --one-off --json --bind {HOST_ADDRESS} & \
             \"$@\" >/dev/null 2>&1; wait $!"
        );
        let mut host = Command::new("unshare");
        host.args(["--net", "sh", "-c", &script, "sh"]).arg(guest.get_program()).args(guest.get_args());
        received(&process::output(&mut host)?)
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

/// Bits per second, as an iperf3 server reports them.
fn received(report: &[u8]) -> Result<f64> {
    let report: Value = serde_json::from_slice(report).context("iperf3 reports no JSON")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.with_context(|| format!("iperf3 was given nothing: {}", report["error"]))
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
        if option == "-netdev" {
            let id = shown.split(',').find(|word| word.starts_with("id=")).unwrap_or_default();
            kept.extend([option, format!("tap,{id},ifname={TAP},script=no,downscript=no")]);
        } else if option == "-chardev" && shown.contains("id=console") {
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
                    -device vhost-user-fs-pci,chardev=fs4 -netdev tap,id=net8,fd=18 \
                    -device virtio-net-pci,netdev=net8 -sandbox on";
        let words = line.split_whitespace().map(str::to_owned).collect();
        let expected = "-no-reboot -m 2048M -chardev null,id=console -device virtconsole,chardev=console \
                        -device virtserialport,chardev=agent \
                        -netdev tap,id=net8,ifname=bench0,script=no,downscript=no \
                        -device virtio-net-pci,netdev=net8 -sandbox on";
        assert_eq!(without_peers(words), expected.split_whitespace().collect::<Vec<_>>());
    }
}
