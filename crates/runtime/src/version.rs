//! `kata-runtime version`, and what the other subcommands say about this build.

use std::process::ExitCode;

use clap::Args;

use crate::output;

/// This runtime's version, `MAJOR.MINOR.PATCH`.
pub(crate) const SEMVER: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, if the build was told (`KATA_COMMIT`).
pub(crate) const COMMIT: &str = match option_env!("KATA_COMMIT") {
    Some(commit) => commit,
    None => "",
};

/// The version of the OCI runtime specification.
pub(crate) fn oci() -> String {
    oci_spec::runtime::VERSION.to_owned()
}

/// Arguments of `version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The three, for programs.
pub(crate) fn json() -> serde_json::Value {
    let commit = Some(COMMIT).filter(|commit| !commit.is_empty());
    serde_json::json!({ "version": SEMVER, "commit": commit, "oci": oci() })
}

/// Prints the three, in upstream's form.
pub(crate) fn run(args: &VersionArgs) -> anyhow::Result<ExitCode> {
    let commit = Some(COMMIT).filter(|commit| !commit.is_empty());
    if args.json {
        output::json(&json())?;
        return Ok(ExitCode::SUCCESS);
    }
    output::lines([
        format!("kata-runtime  : {SEMVER}"),
        format!("   commit   : {}", commit.unwrap_or("<<unknown>>")),
        format!("   OCI specs: {}", oci()),
    ])?;
    Ok(ExitCode::SUCCESS)
}
