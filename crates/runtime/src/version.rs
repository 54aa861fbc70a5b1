//! `kata-runtime version`, and what the other subcommands say about this build.

use std::process::ExitCode;

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

/// Prints the three, in upstream's form.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let commit = if COMMIT.is_empty() { "<<unknown>>" } else { COMMIT };
    output::lines([
        format!("kata-runtime  : {SEMVER}"),
        format!("   commit   : {commit}"),
        format!("   OCI specs: {}", oci()),
    ])?;
    Ok(ExitCode::SUCCESS)
}
