//! Guests that do one thing and power off: initrds for bare boots and bare ports.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::guest::cpio::Archive;

/// Bytes that [`writer`] sends.
pub(crate) const PORT_BYTES: u64 = 256 << 20;

/// An initrd whose `/init` powers off in its first instructions.
pub(crate) fn power_off() -> Vec<u8> {
    let mut archive = skeleton();
    archive.file("init", 0o755, power_off_program());
    archive.to_bytes()
}

/// An initrd whose `/init` writes [`PORT_BYTES`] zero bytes in pieces of 32 KiB to the agent's port, then powers off.
pub(crate) fn writer() -> Result<Vec<u8>> {
    let blocks = PORT_BYTES >> 15;
    let commands = format!("/bin/busybox dd if=/dev/zero of=/dev/vport0p1 bs=32768 count={blocks}\n");
    Ok(shell(&commands)?.to_bytes())
}

/// An initrd whose `/init` carries out `commands` of busybox's shell, with `program` as `/probe` and a directory `/data`, then
/// powers off.
pub(crate) fn worker(program: Vec<u8>, commands: &str) -> Result<Vec<u8>> {
    let mut archive = shell(commands)?;
    archive.directory("data", 0o755).file("probe", 0o755, program);
    Ok(archive.to_bytes())
}

fn shell(commands: &str) -> Result<Archive> {
    let busybox = Path::new("/bin/busybox");
    let busybox = fs::read(busybox).context("Cannot read /bin/busybox: install busybox-static")?;
    let (mount, power_off) = ("/bin/busybox mount -t devtmpfs dev /dev", "/bin/busybox poweroff -f");
    let init = format!("#!/bin/busybox sh\n{mount}\n{commands}{power_off}\n");
    let mut archive = skeleton();
    archive.directory("bin", 0o755).file("bin/busybox", 0o755, busybox).file(
        "init",
        0o755,
        init.into_bytes(),
    );
    Ok(archive)
}

fn skeleton() -> Archive {
    let mut archive = Archive::default();
    archive.directory("dev", 0o755).device("dev/console", 0o600, 5, 1);
    archive
}

/// A static program for x86-64, complete: ELF header, one program header, code.
fn power_off_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: &[&[u8]] = &[
        &[0xb8, 169, 0, 0, 0],           // mov eax, SYS_reboot
        &[0xbf, 0xad, 0xde, 0xe1, 0xfe], // mov edi, LINUX_REBOOT_MAGIC1
        &[0xbe, 0x69, 0x19, 0x12, 0x28], // mov esi, LINUX_REBOOT_MAGIC2
        &[0xba, 0xdc, 0xfe, 0x21, 0x43], // mov edx, LINUX_REBOOT_CMD_POWER_OFF
        &[0x0f, 0x05],                   // syscall
        &[0xeb, 0xfe],                   // jmp to itself
    ];
    let code = code.concat();
    let size = HEADERS + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend(value.to_le_bytes());
    half(&mut elf, 2); // an executable
    half(&mut elf, 62); // for x86-64
    word(&mut elf, 1);
    long(&mut elf, BASE + HEADERS); // entry
    long(&mut elf, 64); // program headers
    long(&mut elf, 0); // no section headers
    word(&mut elf, 0);
    for value in [64, 56, 1, 64, 0, 0] {
        half(&mut elf, value); // sizes and numbers of headers
    }
    word(&mut elf, 1); // to be loaded
    word(&mut elf, 5); // readable and executable
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut elf, value); // offset, addresses, sizes, alignment
    }
    elf.extend(code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_have_the_length_they_say() {
        let program = power_off_program();
        assert_eq!(program.len(), 64 + 56 + 24);
        assert_eq!(program[24..32], (0x40_0000_u64 + 120).to_le_bytes(), "the entry lies behind the headers");
        assert_eq!(program[120], 0xb8, "where the code begins");
    }
}
