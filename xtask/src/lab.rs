//! `cargo xtask lab`: an emulated host that has KVM, vhost-vsock and cgroup v2, for what this machine cannot do itself.
//!
//! The host is made by a script named `kvm-lab`, which runs a command in a QEMU machine with this machine's root as a
//! throw-away root. Everything is built outside, as code runs ten to twenty times slower inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::images;
use crate::prefix::Prefix;
use crate::process;
use crate::progress::Progress;
use crate::setup;
use crate::workspace::Workspace;

/// The end-to-end tests that run in the lab unless others are named: one of each way to reach a workload.
const FIRST_TEN: [&str; 10] = [
    "success_is_zero",
    "every_bit_of_the_code_arrives",
    "sigkill_gives_137",
    "a_program_that_is_not_there_is_named_in_the_error",
    "stdout_and_stderr_are_kept_apart",
    "stdin_reaches_sha256sum_to_its_end",
    "the_workload_begins_with_the_size_of_the_terminal",
    "a_file_is_on_the_hosts_snapshot_with_owner_and_mode",
    "metrics_show_what_was_done_in_the_terms_of_the_hosts_cgroups",
    "a_killed_vm_gives_exit_137_within_a_second",
];
const MEMORY_MIB: &str = "8192";
const SECONDS: &str = "3000";

/// Runs a program where systemd is the first process.
const SYSTEMD: &str = include_str!("lab/systemd.sh");

/// Options of `cargo xtask lab`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Run end-to-end tests there
    Test {
        /// On a host that systemd runs: as its only service
        #[arg(long)]
        systemd: bool,
        /// Names of tests; ten chosen ones if there are none
        names: Vec<String>,
    },
    /// Run any command there, with everything staged and its path in KATA_TEST_STAGE
    Run {
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

/// Prepares outside, then runs inside; the exit status is the command's.
pub(crate) fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    let workspace = Workspace::find()?;
    let lab = Lab::find(&workspace)?;
    let prefix = setup::stage(&workspace, &progress)?;
    let script = match &args.what {
        What::Test { names, .. } => {
            images::busybox(&workspace)?;
            images::pause(&workspace)?;
            images::debian(&workspace, &progress)?;
            images::network(&workspace, &progress)?;
            images::tools(&workspace, &progress)?;
            let names: Vec<&str> = if names.is_empty() {
                FIRST_TEN.to_vec()
            } else {
                names.iter().map(String::as_str).collect()
            };
            let programs = test_programs(&workspace, &progress)?;
            let programs = programs.into_iter().map(listed).collect::<Result<Vec<_>>>()?;
            script_of(&programs, &names)?
        }
        What::Run { command } => command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    };
    progress.line("lab", format_args!("{}; it takes minutes", lab.script.display()));
    let systemd = matches!(args.what, What::Test { systemd: true, .. });
    lab.run(&workspace, &prefix, &script, systemd)
}

struct Lab {
    script: PathBuf,
}

impl Lab {
    /// `$KVM_LAB`, else `../shared/tools/kvm-lab` beside the clone.
    fn find(workspace: &Workspace) -> Result<Self> {
        let beside = workspace.root.join("../shared/tools/kvm-lab");
        let script = std::env::var_os("KVM_LAB").map_or(beside, PathBuf::from);
        if !script.is_file() {
            bail!(
                "There is no kvm-lab at {}: name the script in KVM_LAB. These tests need a host with hardware \
                 virtualisation, which it emulates; on such a host, `cargo xtask test` is as good",
                script.display()
            );
        }
        Ok(Self { script: script.canonicalize()? })
    }

    fn run(&self, workspace: &Workspace, prefix: &Prefix, script: &str, systemd: bool) -> Result<()> {
        let out = workspace.target.join("lab");
        fs::create_dir_all(&out)?;
        let stage = prefix.root().display();
        let cache = workspace.cache.display();
        // Inside, /tmp is the only place that can carry overlayfs, and nobody makes the nodes of device-mapper but dmsetup.
        let mut environment = format!(
            "export HOME=/root KATA_TEST_STAGE='{stage}' KATA_TEST_CACHE='{cache}' TMPDIR=/tmp DM_DISABLE_UDEV=1\n"
        );
        environment += &format!("export KATA_CONF_FILE='{}'\n", prefix.configuration().display());
        let file = out.join("inside.sh");
        let inside = format!("{environment}export PATH='{stage}/bin':$PATH\n{script}\n");
        fs::write(&file, inside).with_context(|| format!("Cannot write {}", file.display()))?;
        fs::write(out.join("systemd.sh"), SYSTEMD).context("Cannot write into the build directory")?;
        let mut lab = Command::new(&self.script);
        lab.args(["-m", MEMORY_MIB, "-t", SECONDS, "-o"]).arg(&out).args(["--", "bash"]);
        if systemd {
            lab.args(["/mnt/out/systemd.sh", "/bin/bash"]);
        }
        lab.arg("/mnt/out/inside.sh");
        process::shown_to_user(&mut lab)
    }
}

/// Runs the tests of these names, each in the program that has it; the verdict comes last.
fn script_of(programs: &[(PathBuf, Vec<String>)], names: &[&str]) -> Result<String> {
    let mut script = "kata-runtime check\nfailed=0\n".to_owned();
    let known = |name: &&str| programs.iter().any(|(_, tests)| tests.iter().any(|test| test == name));
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        bail!("There is no end-to-end test {unknown:?}: `cargo test -p kata-e2e -- --list` shows all");
    }
    for (program, tests) in programs {
        let mine: Vec<_> =
            names.iter().filter(|name| tests.iter().any(|t| t == *name)).map(|n| quoted(n)).collect();
        if !mine.is_empty() {
            let program = quoted(&program.display().to_string());
            script += &format!("{program} --exact --test-threads=1 {} || failed=1\n", mine.join(" "));
        }
    }
    Ok(script + "exit $failed")
}

/// The tests a program has, as it lists them itself.
fn listed(program: PathBuf) -> Result<(PathBuf, Vec<String>)> {
    let list = process::text(Command::new(&program).args(["--list", "--format", "terse"]))?;
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    Ok((program, tests))
}

/// One line of what cargo says about a build.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

fn test_programs(workspace: &Workspace, progress: &Progress) -> Result<Vec<PathBuf>> {
    progress.line("tests", "building what has changed");
    let mut programs = Vec::new();
    // The second are those that are made for the lab.
    for chosen in [["--tests"].as_slice(), &["--test", "lab"]] {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--package", "kata-e2e", "--no-run", "--message-format", "json"]).args(chosen);
        let messages = process::output(&mut cargo)?;
        let messages = String::from_utf8_lossy(&messages);
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
        let is_test =
            |target: Option<Target>| target.is_some_and(|t| t.kind.iter().any(|kind| kind == "test"));
        programs
            .extend(messages.filter_map(|message| message.executable.filter(|_| is_test(message.target))));
    }
    if programs.is_empty() {
        bail!("cargo names no test programs of kata-e2e");
    }
    if let Some(lost) = programs.iter().find(|program| is_empty_inside(program)) {
        bail!("{} is not visible in the lab: choose another target directory", lost.display());
    }
    Ok(programs)
}

/// Directories that the lab covers with empty ones.
fn is_empty_inside(path: &Path) -> bool {
    path.starts_with("/tmp") || path.starts_with("/run")
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn each_test_runs_in_the_programs_that_have_it() {
        let program = |path: &str, tests: &[&str]| {
            (PathBuf::from(path), tests.iter().map(|test| (*test).to_owned()).collect())
        };
        let programs =
            [program("/a", &["one", "two"]), program("/b c", &["two", "three"]), program("/d", &["four"])];
        let script = script_of(&programs, &["one", "two"]).unwrap();
        assert!(script.contains("'/a' --exact --test-threads=1 'one' 'two' || failed=1\n"));
        assert!(script.contains("'/b c' --exact --test-threads=1 'two' || failed=1\n"));
        assert!(!script.contains("/d"));
        assert!(script_of(&programs, &["five"]).is_err());
    }

    /// A test was given another name, and the lab ran none.
    #[test]
    fn the_tests_of_the_lab_are_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/tests");
        let files = fs::read_dir(folder).unwrap();
        let sources: String = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        for test in FIRST_TEN {
            assert!(sources.contains(&format!("fn {test}(")), "{test} is not there");
        }
    }
}
