//! Everything that must be there before a container can run: packages, programs, guest kernel, guest image, and all
//! of it put into a prefix. Nothing is done twice; a second call takes a second or two.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries::{self, Binaries};
use crate::guest::initrd::{self, Initrds};
use crate::guest::kernel;
use crate::packages;
use crate::prefix::{Content, Item, Prefix, Report};
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Where Debian's package puts QEMU.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Sets everything up in the workspace's own prefix, for demo, tests and measurements.
pub(crate) fn stage(workspace: &Workspace, progress: &Progress) -> Result<Prefix> {
    let prefix = Prefix::new(&workspace.stage())?;
    let report = into(workspace, progress, &prefix)?;
    if let Some(kept) = report.kept.first() {
        progress.line("stage", format_args!("using your changed {}", kept.display()));
    }
    Ok(prefix)
}

/// Sets everything up and puts it into `prefix`.
pub(crate) fn into(workspace: &Workspace, progress: &Progress, prefix: &Prefix) -> Result<Report> {
    packages::ensure(workspace, progress)?;
    let binaries = binaries::ensure(workspace, progress)?;
    let kernel = kernel::ensure(workspace, progress)?;
    let initrds = initrd::ensure(workspace, progress, &binaries.agent, &binaries.image_pull)?;
    let report = prefix.put(&items(workspace, prefix, binaries, kernel.as_path(), &initrds)?)?;
    progress
        .line("stage", format_args!("{} ready, {} files new", prefix.root().display(), report.done.len()));
    Ok(report)
}

fn items(
    workspace: &Workspace,
    prefix: &Prefix,
    binaries: Binaries,
    kernel: &Path,
    initrds: &Initrds,
) -> Result<Vec<Item>> {
    let template = workspace.root.join("crates/config/configuration.toml.in");
    let template =
        fs::read_to_string(&template).with_context(|| format!("Cannot read {}", template.display()))?;
    let configuration = Content::Text(configuration(&template, prefix)?);
    let copy = |path: &Path| Content::Copy(path.to_owned());
    let mut items = of_the_command_line(&binaries.runtime)?;
    items.extend([
        Item { path: "bin/kata-ctl", mode: 0o777, content: Content::Link("kata-runtime") },
        Item { path: "bin/containerd-shim-kata-v2", mode: 0o755, content: Content::Copy(binaries.shim) },
        Item { path: "bin/kata-runtime", mode: 0o755, content: Content::Copy(binaries.runtime) },
        Item { path: "bin/kata-monitor", mode: 0o755, content: Content::Copy(binaries.monitor) },
        Item { path: "bin/kata-agent-ctl", mode: 0o755, content: Content::Copy(binaries.agent_ctl) },
        Item { path: "bin/kata-log-parser", mode: 0o755, content: Content::Copy(binaries.log_parser) },
        Item {
            path: "bin/kata-trace-forwarder",
            mode: 0o755,
            content: Content::Copy(binaries.trace_forwarder),
        },
        Item { path: "libexec/virtiofsd", mode: 0o755, content: Content::Copy(binaries.virtiofsd) },
        Item { path: "share/kata-containers/vmlinux.container", mode: 0o644, content: copy(kernel) },
        Item {
            path: "share/kata-containers/kata-containers-initrd.img",
            mode: 0o644,
            content: copy(&initrds.plain),
        },
        Item {
            path: "share/kata-containers/kata-containers-initrd-guest-pull.img",
            mode: 0o644,
            content: copy(&initrds.guest_pull),
        },
        Item {
            path: "share/defaults/kata-containers/configuration.toml",
            mode: 0o644,
            content: configuration,
        },
    ]);
    Ok(items)
}

/// The manual page and the shells' completions, which the program itself writes.
fn of_the_command_line(runtime: &Path) -> Result<Vec<Item>> {
    let says = |words: &[&str]| {
        let output = Command::new(runtime).args(words).output();
        let output = output.with_context(|| format!("Cannot run {}", runtime.display()))?;
        if !output.status.success() {
            bail!(
                "{} {} fails: {}",
                runtime.display(),
                words.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(Content::Text(String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let places: [(&str, &[&str]); 4] = [
        ("share/man/man1/kata-runtime.1", &["man"]),
        ("share/bash-completion/completions/kata-runtime", &["completion", "bash"]),
        ("share/zsh/site-functions/_kata-runtime", &["completion", "zsh"]),
        ("share/fish/vendor_completions.d/kata-runtime.fish", &["completion", "fish"]),
    ];
    let item = |(path, words)| Ok(Item { path, mode: 0o644, content: says(words)? });
    places.into_iter().map(item).collect()
}

/// Fills the placeholders; one that is not known here is an error rather than a broken path later.
fn configuration(template: &str, prefix: &Prefix) -> Result<String> {
    let shown = |path: PathBuf| path.display().to_string();
    let values = [
        ("@QEMU@", QEMU.to_owned()),
        ("@KERNEL@", shown(prefix.kernel())),
        ("@INITRD@", shown(prefix.initrd())),
        ("@VIRTIOFSD@", shown(prefix.root().join("libexec/virtiofsd"))),
    ];
    let filled = values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value));
    let placeholder = |line: &&str| {
        let words = line.split('@').skip(1);
        words.take(1).any(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    if let Some(line) = filled.lines().find(placeholder) {
        bail!("configuration.toml.in holds a placeholder that nobody fills: {line}");
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_unknown_ones_refused() {
        let prefix = Prefix::new(Path::new("/opt/x")).unwrap();
        let text = configuration("kernel = \"@KERNEL@\"\nmail = \"a@b\"\n", &prefix).unwrap();
        assert_eq!(text, "kernel = \"/opt/x/share/kata-containers/vmlinux.container\"\nmail = \"a@b\"\n");
        assert!(configuration("path = \"@OTHER@/x\"\n", &prefix).is_err());
    }
}
