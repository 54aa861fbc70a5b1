//! `kata-runtime config validate`

use std::process::ExitCode;

use crate::global::Global;
use crate::{check, output};

/// Runs the subcommand: exit code 0 if the configuration is good and the files it names are there.
pub(crate) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let wrong: Vec<_> = check::files(&config).into_iter().filter(check::Item::is_remarkable).collect();
    let path = config.path.display();
    if wrong.is_empty() {
        output::lines([format!("{path} is valid, and the files it names are there")])?;
        return Ok(ExitCode::SUCCESS);
    }
    output::lines([format!("{path} is valid, but not all that it names can be used:")])?;
    output::lines(wrong.iter().map(|item| format!("  {item}")))?;
    Ok(ExitCode::FAILURE)
}
