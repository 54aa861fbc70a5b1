//! What QEMU's error messages mean for the user.

const NO_9P: &str = "This QEMU was built without 9p: set `shared_fs = \"virtio-fs\"`, which needs virtiofsd";

const KVM_FAILED: &str = "KVM could not go on with the guest: see the host's kernel log. Below another hypervisor \
                          `accelerator = \"tcg\"` may be the way";

/// A part of a message, and what to do when it is there. The first that fits counts.
const ADVICE: &[(&str, &str)] = &[
    (
        "without PVH ELF Note",
        "The guest kernel has no PVH entry point: build it with CONFIG_PVH=y or use a bzImage",
    ),
    (
        "invalid kernel header",
        "`kernel` in the configuration is neither a bzImage nor a vmlinux with a PVH note",
    ),
    (
        "linux kernel too old",
        "`kernel` in the configuration is neither a bzImage nor a vmlinux with a PVH note",
    ),
    (
        "loading elf kernel",
        "`kernel` in the configuration is a damaged vmlinux: install the guest kernel again",
    ),
    ("could not load kernel", "`kernel` in the configuration cannot be loaded: check the path and the file"),
    ("could not open kernel", "`kernel` in the configuration cannot be opened: check the path and the file"),
    ("could not load initrd", "`initrd` in the configuration cannot be loaded: check the path and the file"),
    ("error reading initrd", "`initrd` in the configuration cannot be loaded: check the path and the file"),
    ("Could not access KVM", "KVM cannot be used: see `kata-runtime check`, or set `accelerator = \"tcg\"`"),
    (
        "failed to initialize kvm",
        "KVM cannot be used: see `kata-runtime check`, or set `accelerator = \"tcg\"`",
    ),
    (
        "kvm run failed Bad address",
        "The host has no page for memory of the guest's: is it out of huge pages?",
    ),
    ("KVM internal error", KVM_FAILED),
    ("KVM: entry failed", KVM_FAILED),
    (
        "Failed to get \"write\" lock",
        "Another VM or program has the image of a disk open for writing: end it, or mount the volume read-only",
    ),
    ("io_uring was specified", "This QEMU has no io_uring: set `block_device_aio = \"threads\"`"),
    ("use linux io_uring", "The host's kernel forbids io_uring: set `block_device_aio = \"threads\"`"),
    ("Cannot allocate memory", "The host has too little free memory: lower `default_memory` or free some"),
    ("Failed to read msg header", "The shared directory's daemon (virtiofsd) ended: see its own error"),
    ("Failed to write msg", "The shared directory's daemon (virtiofsd) ended: see its own error"),
    (
        "vhost-user",
        "The shared directory's daemon (virtiofsd) does not work with this QEMU: check its version",
    ),
    ("guest-cid", "The vsock context id is taken: start the sandbox again"),
    (
        "could not load PC BIOS",
        "`firmware` in the configuration cannot be loaded: check the path and the file",
    ),
    (
        "unsupported machine type",
        "This QEMU does not know the `machine_type` of the configuration: use \"q35\"",
    ),
    ("seccomp", "This QEMU cannot filter system calls: set `disable_seccomp = true`"),
    ("-sandbox", "This QEMU cannot filter system calls: set `disable_seccomp = true`"),
    ("fsdev support is disabled", NO_9P),
    ("'virtio-9p-pci' is not a valid device model name", NO_9P),
    (
        "cannot initialize fsdev",
        "The shared directory cannot be opened: has something removed it from below /run?",
    ),
    ("is not a valid device model name", "This QEMU lacks a device: version 7.2 or newer is needed"),
    ("invalid option", "This QEMU does not know an option: version 7.2 or newer is needed"),
    ("invalid accelerator", "This QEMU was built without the accelerator: set `accelerator = \"tcg\"`"),
    ("not found", "This QEMU lacks a property of a device: version 7.2 or newer is needed"),
];

/// What to do about what QEMU wrote to its standard error, if it is understood.
pub(super) fn advice(stderr: &str) -> Option<String> {
    let found = ADVICE.iter().find(|(part, _)| stderr.contains(part));
    found.map(|(_, advice)| (*advice).to_owned())
}

/// What lines on a failure of KVM begin with; the CPU's registers come behind them.
const KVM: &[&str] = &["KVM internal error", "KVM: entry failed", "error: kvm run failed"];

/// The line that says what went wrong: the last that QEMU began with its own name, or KVM's, and that is no warning, else
/// the last of all. Lines without the name are hints to the line before.
pub(super) fn cause(stderr: &str) -> Option<String> {
    let of_kvm = |line: &str| KVM.iter().any(|start| line.starts_with(start));
    let named = |line: &&str| (line.starts_with("qemu") || of_kvm(line)) && !line.contains(": warning: ");
    let line = stderr.lines().rfind(named).or_else(|| stderr.lines().next_back());
    line.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{advice, cause};

    #[test]
    fn the_cause_is_found_between_warnings_and_hints() {
        let stderr = "qemu: warning: a\nqemu: unsupported machine type\nUse -machine help\nqemu: warning: b";
        assert_eq!(cause(stderr).unwrap(), "qemu: unsupported machine type");
        assert_eq!(cause("x\nSegmentation fault").unwrap(), "Segmentation fault");
        let kvm =
            "KVM internal error. Suberror: 1\nextra data[0]: 1\nRAX=0000000000000000 RBX=0000000000000000";
        assert_eq!(cause(kvm).unwrap(), "KVM internal error. Suberror: 1");
        assert_eq!(cause(""), None);
    }

    #[test]
    fn known_messages_get_advice() {
        for (stderr, expected) in [
            ("qemu: Error loading uncompressed kernel without PVH ELF Note", "CONFIG_PVH"),
            ("Could not access KVM kernel module: No such file or directory", "accelerator"),
            ("-device vhost-user-fs-pci: Failed to read msg header. Read 0 instead of 12.", "virtiofsd"),
            ("KVM internal error. Suberror: 1\nRAX=0", "kernel log"),
            ("error: kvm run failed Bad address\nRAX=0", "huge pages"),
            ("qemu: -device foo: 'foo' is not a valid device model name", "7.2"),
            (
                "qemu: -device virtio-9p-pci,bus=x: 'virtio-9p-pci' is not a valid device model name",
                "virtiofsd",
            ),
        ] {
            let advice = advice(stderr).unwrap();
            assert!(advice.contains(expected), "{stderr}: {advice}");
        }
        assert_eq!(advice("qemu-system-x86_64: something new"), None);
    }
}
