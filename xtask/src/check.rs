//! `cargo xtask check`: everything that is judged without running the product.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

mod arrows;
mod documents;
mod hosts;
mod modules;
mod sizes;
mod source;
#[cfg(test)]
mod tests;

use source::Source;

/// Options of `cargo xtask check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what needs no compiler: crate arrows, sizes, files
    #[arg(long)]
    quick: bool,
}

/// Runs all checks, also after one has failed, and names those that failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::find()?;
    let mut report = Report { progress: Progress::new(), failed: Vec::new() };
    let sources = Source::read_all(&workspace.root)?;
    report.findings("crate arrows", &arrows::check(&workspace)?);
    report.findings("sizes", &sizes::check(&sources));
    report.findings("file headers", &headers(&sources));
    report.findings("orphan files", &modules::orphans(&sources));
    report.findings("tests in documents", &documents::check(&workspace.root, &sources)?);
    report.findings("registry hosts", &hosts::check(&workspace)?);
    report.command("format", workspace.cargo().args(["fmt", "--all", "--check"]));
    if !args.quick {
        let mut clippy = workspace.cargo();
        clippy.args(["clippy", "--quiet", "--workspace", "--exclude", "kata-fuzz", "--all-targets"]);
        report.command("clippy", clippy.args(["--", "-D", "warnings"]));
        // By itself, so that the other crates are judged without what they open to it.
        let mut clippy = workspace.cargo();
        clippy.args(["clippy", "--quiet", "--package", "kata-fuzz", "--all-targets", "--", "-D", "warnings"]);
        report.command("clippy of fuzz targets", &mut clippy);
        let mut doc = workspace.cargo();
        doc.args(["doc", "--quiet", "--workspace", "--exclude", "kata-fuzz", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings");
        report.command("documentation", &mut doc);
        deny(&workspace, &mut report);
    }
    report.close()
}

/// cargo-deny takes minutes to build, so it is used where it is and not fetched.
fn deny(workspace: &Workspace, report: &mut Report) {
    if process::output(workspace.cargo().args(["deny", "--version"])).is_err() {
        report
            .progress
            .line("licences", "SKIPPED: cargo-deny is not here (cargo install cargo-deny --locked)");
        return;
    }
    report.command("licences", workspace.cargo().args(["deny", "check", "bans", "licenses", "sources"]));
}

/// Every file says at its top what it is for.
fn headers(sources: &[Source]) -> Vec<String> {
    let is_silent =
        |source: &&Source| !source.file.attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
    let silent = sources.iter().filter(is_silent);
    silent.map(|source| format!("{} does not start with `//!`", source.path.display())).collect()
}

struct Report {
    progress: Progress,
    failed: Vec<&'static str>,
}

impl Report {
    fn findings(&mut self, name: &'static str, findings: &[String]) {
        for finding in findings {
            eprintln!("  {finding}");
        }
        self.verdict(name, findings.is_empty());
    }

    fn command(&mut self, name: &'static str, command: &mut Command) {
        let result = process::shown_to_user(command);
        if let Err(error) = &result {
            eprintln!("  {error:#}");
        }
        self.verdict(name, result.is_ok());
    }

    fn verdict(&mut self, name: &'static str, good: bool) {
        self.progress.line(name, if good { "ok" } else { "FAILED" });
        if !good {
            self.failed.push(name);
        }
    }

    fn close(self) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("Failed: {}", self.failed.join(", "));
        }
        self.progress.line("check", "all good");
        Ok(())
    }
}
