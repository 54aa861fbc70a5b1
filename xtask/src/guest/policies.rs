//! The policies of the guest's security modules, compiled by Debian's tools: the default AppArmor profile and the SELinux
//! policy.
//!
//! The tools are fetched through a private apt state: where `apparmor_parser` is installed, container managers would begin
//! to use AppArmor. The results are kept in the cache under the hash of what they are made from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::apt::{PrivateApt, Release};
use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Raise this when the steps below change what comes out.
const RECIPE: &str = "1";

/// Longer than any name that the agent puts in its place; it looks for the beginning.
const NAME: &str = "container-default.";
const NAME_LENGTH: usize = 127;
/// Names that the profile has in the end.
const PEERS: &str =
    "{cri-containerd.apparmor.d,docker-default,nerdctl-default,crio-default,containers-default-*}";

/// Categories of a multi-category policy, as managers choose from them.
const CATEGORIES: usize = 1024;
/// The newest format of a policy that both the compiler and the guest's kernel know.
const SELINUX_FORMAT: &str = "33";

/// Compiled policies.
pub(crate) struct Policies {
    /// The AppArmor profile.
    pub(crate) apparmor: Vec<u8>,
    /// The SELinux policy.
    pub(crate) selinux: Vec<u8>,
}

/// Takes both from the cache, or compiles them.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<Policies> {
    let _lock = workspace.lock("policies", progress)?;
    let maker = Maker { workspace, progress };
    let apparmor = Job {
        what: "apparmor",
        packages: &["apparmor"],
        source: filled(&maker.read("apparmor/container-default")?),
        other: maker.read("apparmor/features")?,
        compile: compile_apparmor,
    };
    let selinux = Job {
        what: "selinux",
        packages: &["secilc", "libsepol2"],
        source: maker.read("selinux/containers.cil")?,
        other: categories(),
        compile: compile_selinux,
    };
    Ok(Policies { apparmor: maker.make(&apparmor)?, selinux: maker.make(&selinux)? })
}

struct Maker<'a> {
    workspace: &'a Workspace,
    progress: &'a Progress,
}

/// One policy to be compiled.
struct Job {
    what: &'static str,
    packages: &'static [&'static str],
    source: String,
    other: String,
    compile: fn(&Tools, &Sources) -> Result<()>,
}

/// The unpacked packages.
struct Tools(PathBuf);

/// The files of one job.
struct Sources {
    source: PathBuf,
    other: PathBuf,
    result: PathBuf,
}

impl Maker<'_> {
    fn read(&self, name: &str) -> Result<String> {
        let path = self.workspace.root.join("guest").join(name);
        fs::read_to_string(&path).with_context(|| format!("Cannot read {}", path.display()))
    }

    fn make(&self, job: &Job) -> Result<Vec<u8>> {
        let digest = Sha256::new().chain_update(RECIPE).chain_update(&job.source).chain_update(&job.other);
        let hash: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let cached = self.workspace.cache.join(format!("policy-{}-{hash}", job.what));
        if !cached.is_file() {
            self.compile(job, &cached)?;
        }
        fs::read(&cached).with_context(|| format!("Cannot read {}", cached.display()))
    }

    fn compile(&self, job: &Job, cached: &Path) -> Result<()> {
        let scratch = tempfile::Builder::new().prefix(".policy-").tempdir_in(&self.workspace.cache)?;
        let tools = self.tools(job, scratch.path())?;
        let file = |name: &str| scratch.path().join(name);
        let sources = Sources { source: file("source"), other: file("other"), result: file("result") };
        fs::write(&sources.source, &job.source)?;
        fs::write(&sources.other, &job.other)?;
        (job.compile)(&tools, &sources)?;
        fs::rename(&sources.result, cached).context("Cannot put the policy into the cache")
    }

    fn tools(&self, job: &Job, scratch: &Path) -> Result<Tools> {
        let log = self.workspace.log(job.what)?;
        let what = format_args!("fetching Debian's compiler, once (log: {})", log.display());
        self.progress.line(job.what, what);
        let unpacked = scratch.join("unpacked");
        let fetch = || -> Result<()> {
            let apt = PrivateApt::new(&scratch.join("apt"), &Release::of_this_machine()?.sources(), &log)?;
            apt.update()?;
            for package in job.packages {
                let package = apt.download(package)?;
                process::output(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
            }
            Ok(())
        };
        self.progress.watch(job.what, &log, fetch)?;
        Ok(Tools(unpacked))
    }
}

impl Tools {
    fn program(&self, name: &str) -> Result<Command> {
        let places = ["sbin", "usr/sbin", "usr/bin"].map(|folder| self.0.join(folder).join(name));
        let found = places.into_iter().find(|place| place.is_file());
        let mut command = Command::new(found.with_context(|| format!("Debian's packages hold no {name}"))?);
        let libraries = ["lib", "usr/lib"].map(|folder| self.0.join(folder).join("x86_64-linux-gnu"));
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
        Ok(command)
    }
}

fn filled(source: &str) -> String {
    source.replace("@NAME@", &format!("{NAME:x<NAME_LENGTH$}")).replace("@PEERS@", PEERS)
}

/// Neither the machine's kernel nor its own profiles have a say.
fn compile_apparmor(tools: &Tools, sources: &Sources) -> Result<()> {
    let mut parser = tools.program("apparmor_parser")?;
    parser.args(["--config-file", "/dev/null", "--skip-kernel-load", "--skip-cache", "--quiet"]);
    parser.arg("--base").arg(&tools.0).arg("--features-file").arg(&sources.other);
    process::output(parser.arg("--ofile").arg(&sources.result).arg(&sources.source))?;
    if !is_named(&fs::read(&sources.result)?) {
        bail!("The compiled AppArmor profile does not hold its name once: guest/apparmor/container-default");
    }
    Ok(())
}

fn is_named(profile: &[u8]) -> bool {
    profile.windows(NAME.len()).filter(|found| *found == NAME.as_bytes()).count() == 1
}

/// Their declarations and their order, in the policy's language.
fn categories() -> String {
    let names: Vec<String> = (0..CATEGORIES).map(|number| format!("c{number}")).collect();
    let declared: String = names.iter().map(|name| format!("(category {name})\n")).collect();
    format!("{declared}(categoryorder ({}))\n", names.join(" "))
}

fn compile_selinux(tools: &Tools, sources: &Sources) -> Result<()> {
    let mut compiler = tools.program("secilc")?;
    compiler
        .args(["--policyvers", SELINUX_FORMAT, "--filecontexts", "/dev/null", "--output"])
        .arg(&sources.result);
    process::output(compiler.arg(&sources.source).arg(&sources.other))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profiles_name_leaves_room_for_every_managers() {
        let source = filled("profile @NAME@ { signal peer=@PEERS@, }");
        let name = source.split(' ').nth(1).unwrap();
        assert!(name.len() == NAME_LENGTH && name.starts_with(NAME));
        assert!(!source.contains('@'));
    }

    #[test]
    fn a_profile_has_its_name_in_one_place() {
        assert!(is_named(b"..container-default.xx.."));
        assert!(!is_named(b"container-default.x container-default.x") && !is_named(b""));
    }

    #[test]
    fn categories_are_declared_in_their_order() {
        let text = categories();
        assert!(text.starts_with("(category c0)\n(category c1)\n"));
        assert!(text.ends_with(" c1022 c1023))\n"));
    }
}
