//! Which accelerator to use, and why.
//!
//! `/dev/kvm` alone proves nothing: on a host that is itself a PVM guest it opens, and an ordinary guest kernel
//! hangs in its first instructions. So on x86 KVM counts only if the CPU has vmx or svm as well.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use crate::plan::Accelerator;

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// KVM if it works, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// TCG, even where KVM would work.
    Tcg,
}

/// The accelerator to use, and the reason in a sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What to use.
    pub accelerator: Accelerator,
    /// Why, for example `/dev/kvm opens and the CPU has vmx`.
    pub reason: String,
}

/// KVM was asked for by name and does not work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("KVM is asked for, but {reason}: set the configuration's `accelerator` to \"auto\" or \"tcg\"")]
pub struct KvmUnusable {
    /// What is missing.
    pub reason: String,
}

/// Where the facts about the host are read from.
#[derive(Debug, Clone)]
pub struct Host {
    /// The KVM device, `/dev/kvm`.
    pub kvm_device: PathBuf,
    /// The CPU's description, `/proc/cpuinfo`.
    pub cpuinfo: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self { kvm_device: "/dev/kvm".into(), cpuinfo: "/proc/cpuinfo".into() }
    }
}

/// Chooses for `preference` on `host`.
///
/// # Errors
/// KVM was asked for by name and is not usable.
pub fn choose(preference: Preference, host: &Host) -> Result<Choice, KvmUnusable> {
    if preference == Preference::Tcg {
        let reason = "the configuration asks for TCG".to_owned();
        return Ok(Choice { accelerator: Accelerator::Tcg, reason });
    }
    match (detect(&host.kvm_device, &host.cpuinfo), preference) {
        (Choice { accelerator: Accelerator::Tcg, reason }, Preference::Kvm) => Err(KvmUnusable { reason }),
        (choice, _) => Ok(choice),
    }
}

/// Finds out whether KVM is usable, from the device `kvm` and the CPU's description in `cpuinfo`.
#[must_use]
pub fn detect(kvm: &Path, cpuinfo: &Path) -> Choice {
    let tcg = |reason: String| Choice { accelerator: Accelerator::Tcg, reason };
    if let Err(error) = OpenOptions::new().read(true).write(true).open(kvm) {
        return tcg(format!("{} cannot be opened ({error})", kvm.display()));
    }
    if cfg!(not(any(target_arch = "x86_64", target_arch = "x86"))) {
        let reason = format!("{} opens", kvm.display());
        return Choice { accelerator: Accelerator::Kvm, reason };
    }
    match fs::read_to_string(cpuinfo) {
        Ok(text) => match virtualisation_flag(&text) {
            Some(flag) => Choice {
                accelerator: Accelerator::Kvm,
                reason: format!("{} opens and the CPU has {flag}", kvm.display()),
            },
            None => tcg(format!("{} opens, but the CPU has neither vmx nor svm", kvm.display())),
        },
        Err(error) => tcg(format!("{} cannot be read ({error})", cpuinfo.display())),
    }
}

/// `vmx` or `svm`, if the first CPU of a `/proc/cpuinfo` has it.
fn virtualisation_flag(cpuinfo: &str) -> Option<&'static str> {
    let line = cpuinfo.lines().find(|line| line.split(':').next().map(str::trim) == Some("flags"))?;
    let flags = line.split_once(':')?.1;
    ["vmx", "svm"].into_iter().find(|wanted| flags.split_whitespace().any(|flag| flag == *wanted))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Choice, Host, Preference, choose, detect};
    use crate::plan::Accelerator;

    fn host(kvm: bool, flags: &str) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        let host = Host { kvm_device: dir.path().join("kvm"), cpuinfo: dir.path().join("cpuinfo") };
        if kvm {
            fs::write(&host.kvm_device, "").unwrap();
        }
        fs::write(&host.cpuinfo, format!("processor\t: 0\nvmx flags\t: tricky\nflags\t\t: {flags}\n"))
            .unwrap();
        (dir, host)
    }

    #[test]
    fn kvm_needs_both_the_device_and_the_cpu() {
        for (device, flags, expected) in [
            (true, "fpu vmx sse2", Accelerator::Kvm),
            (true, "fpu svm", Accelerator::Kvm),
            (true, "fpu avmx svm_lock", Accelerator::Tcg),
            (false, "fpu vmx", Accelerator::Tcg),
        ] {
            let (_dir, host) = host(device, flags);
            let choice = detect(&host.kvm_device, &host.cpuinfo);
            assert_eq!(choice.accelerator, expected, "{device} {flags}: {}", choice.reason);
            assert!(choice.reason.contains("kvm"), "{}", choice.reason);
        }
    }

    #[test]
    fn the_reason_names_what_is_missing() {
        let (_dir, host) = host(true, "fpu");
        let reason = choose(Preference::Kvm, &host).unwrap_err().reason;
        assert!(reason.ends_with("neither vmx nor svm"), "{reason}");
        assert_eq!(choose(Preference::Auto, &host).unwrap().accelerator, Accelerator::Tcg);
    }

    #[test]
    fn tcg_can_be_asked_for() {
        let (_dir, host) = host(true, "vmx");
        let Choice { accelerator, reason } = choose(Preference::Tcg, &host).unwrap();
        assert_eq!((accelerator, reason.as_str()), (Accelerator::Tcg, "the configuration asks for TCG"));
    }

    #[test]
    fn an_unreadable_cpuinfo_means_tcg() {
        let (_dir, mut host) = host(true, "vmx");
        host.cpuinfo.set_extension("missing");
        assert_eq!(choose(Preference::Auto, &host).unwrap().accelerator, Accelerator::Tcg);
    }
}
