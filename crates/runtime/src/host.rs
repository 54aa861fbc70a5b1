//! Facts about the host, read from `/proc`, `/dev` and `/etc`.

use std::fs;
use std::path::{Path, PathBuf};

/// The host below a root directory: `/`, or a tree made for a test.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: PathBuf,
}

/// What `/proc/cpuinfo` says about the first CPU, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cpu {
    /// `vendor_id`, such as `GenuineIntel`.
    pub(crate) vendor: String,
    /// `model name`.
    pub(crate) model: String,
    /// How many CPUs are listed.
    pub(crate) count: usize,
    /// `vmx` or `svm`, if the CPU has it.
    pub(crate) virtualization: Option<&'static str>,
}

/// `/proc/meminfo`, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Memory {
    /// `MemTotal`
    pub(crate) total: u64,
    /// `MemFree`
    pub(crate) free: u64,
    /// `MemAvailable`
    pub(crate) available: u64,
}

/// `/etc/os-release`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Distro {
    /// `NAME`
    pub(crate) name: String,
    /// `VERSION_ID`
    pub(crate) version: String,
}

impl Host {
    /// The machine this runs on.
    pub(crate) fn this() -> Self {
        Self::below(Path::new("/"))
    }

    /// A host whose files lie below `root`.
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where an absolute path of the host is found.
    pub(crate) fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// Whether a file or device is there.
    pub(crate) fn has(&self, absolute: &str) -> bool {
        self.path(absolute).exists()
    }

    /// A file's text, or nothing if it cannot be read: facts are shown as unknown, they never fail a command.
    fn text(&self, absolute: &str) -> String {
        fs::read_to_string(self.path(absolute)).unwrap_or_default()
    }

    /// The CPU.
    pub(crate) fn cpu(&self) -> Cpu {
        let text = self.text("/proc/cpuinfo");
        let field = |name| value_of(&text, name, ':').unwrap_or_default().to_owned();
        let flags = field("flags");
        let virtualization =
            ["vmx", "svm"].into_iter().find(|f| flags.split_whitespace().any(|flag| flag == *f));
        let count = text.lines().filter(|line| line.starts_with("processor")).count();
        Cpu { vendor: field("vendor_id"), model: field("model name"), count, virtualization }
    }

    /// The memory.
    pub(crate) fn memory(&self) -> Memory {
        let text = self.text("/proc/meminfo");
        let field = |name| {
            value_of(&text, name, ':').and_then(|v| v.trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
        };
        Memory { total: field("MemTotal"), free: field("MemFree"), available: field("MemAvailable") }
    }

    /// The distribution.
    pub(crate) fn distro(&self) -> Distro {
        let text = self.text("/etc/os-release");
        let field = |name| value_of(&text, name, '=').unwrap_or_default().trim_matches('"').to_owned();
        Distro { name: field("NAME"), version: field("VERSION_ID") }
    }

    /// How many use a module of the kernel; nothing if it is not loaded.
    pub(crate) fn module_users(&self, name: &str) -> Option<u32> {
        let text = self.text("/proc/modules");
        let mut fields =
            text.lines().map(str::split_whitespace).find(|fields| fields.clone().next() == Some(name))?;
        fields.nth(2)?.parse().ok()
    }

    /// The kernel's release, such as `6.1.0-13-amd64`.
    pub(crate) fn kernel(&self) -> String {
        self.text("/proc/sys/kernel/osrelease").trim().to_owned()
    }
}

/// The architecture under the name that Go, and so upstream's output, gives it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The value of the first line `name <separator> value`.
fn value_of<'a>(text: &'a str, name: &str, separator: char) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(separator));
    pairs.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Distro, Host, Memory};

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::below(dir.path());
        (dir, host)
    }

    #[test]
    fn facts_are_read() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nvmx flags\t: x\n\
                       flags\t\t: fpu svm sse\n\nprocessor\t: 1\nvendor_id\t: AuthenticAMD\n";
        let (_dir, host) = host(&[
            ("proc/cpuinfo", cpuinfo),
            ("proc/meminfo", "MemTotal:       100 kB\nMemFree: 50 kB\nMemAvailable:    75 kB\n"),
            ("etc/os-release", "PRETTY_NAME=\"Debian\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n"),
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
        ]);
        let cpu = host.cpu();
        assert_eq!((cpu.vendor.as_str(), cpu.model.as_str(), cpu.count), ("AuthenticAMD", "AMD EPYC", 2));
        assert_eq!(cpu.virtualization, Some("svm"));
        assert_eq!(host.memory(), Memory { total: 100, free: 50, available: 75 });
        assert_eq!(host.distro(), Distro { name: "Debian GNU/Linux".into(), version: "12".into() });
        assert_eq!(host.kernel(), "6.1.0");
    }

    #[test]
    fn what_is_missing_is_empty() {
        let (_dir, host) = host(&[]);
        assert_eq!(host.cpu().virtualization, None);
        assert_eq!(host.memory(), Memory::default());
        assert!(!host.has("/dev/vhost-vsock"));
    }
}
