//! `kata-runtime check`: can this host run Kata Containers, and create them now?

mod probes;
mod report;

use std::process::ExitCode;

use clap::Args;
use kata_config::Config;

use crate::global::Global;
use crate::host::Host;
use crate::{output, version};

use report::{Need, Report};

pub(crate) use report::Item;

/// What `--only-list-releases` and its like are told.
const NO_NETWORK: &str = "this runtime asks no network; the project's release page lists its releases";

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// List all checks, not only what is wrong
    #[arg(long, short)]
    verbose: bool,

    /// Fail on warnings, too
    #[arg(long, short)]
    strict: bool,

    /// Accepted for compatibility: no network is ever asked
    #[arg(long, short)]
    no_network_checks: bool,

    /// Print this version only; there is no network check for a newer one
    #[arg(long)]
    check_version_only: bool,

    /// Not available, as no network is asked: fails
    #[arg(long)]
    only_list_releases: bool,

    /// Not available, as no network is asked: changes nothing
    #[arg(long)]
    include_all_releases: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &CheckArgs, global: &Global) -> anyhow::Result<ExitCode> {
    if args.only_list_releases {
        anyhow::bail!("No list of releases: {NO_NETWORK}");
    }
    if args.check_version_only {
        output::lines([format!("Version {} is installed; {NO_NETWORK}", version::SEMVER)])?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = examine(&Host::this(), global, rustix::process::geteuid().is_root(), args.strict);
    if args.json {
        output::json(&report)?;
    } else {
        if args.include_all_releases {
            eprintln!("warning: --include-all-releases changes nothing: {NO_NETWORK}");
        }
        print(&report, args.verbose)?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `check --json` prints.
pub(crate) fn json(global: &Global) -> serde_json::Value {
    let report = examine(&Host::this(), global, rustix::process::geteuid().is_root(), false);
    serde_json::to_value(report).unwrap_or_default()
}

/// All checks. Without a usable configuration the others use the built-in defaults.
fn examine(host: &Host, global: &Global, root: bool, strict: bool) -> Report {
    let loaded = global.load_config();
    let configuration = probes::configuration(loaded.as_ref());
    let config = loaded.unwrap_or_else(|_| Config::built_in(1));
    if root {
        tracing::info!("Not running network checks as super user");
        probes::load_modules(host);
    }
    let mut items = vec![
        configuration,
        probes::cpu(host),
        probes::accelerator(host, config.hypervisor.accelerator),
        probes::vhost_vsock(host),
        probes::vhost_net(host),
        probes::qemu(&config.hypervisor.path),
        probes::shared_fs(&config.hypervisor),
        probes::kernel(&config.hypervisor.kernel),
    ];
    items.extend(config.hypervisor.initrd.as_deref().map(probes::initrd));
    if root {
        items.push(probes::other_hypervisors(host));
    }
    items.push(probes::privileges(root));
    Report::new(items, root, strict)
}

/// Warnings and failures (all checks if verbose), then the verdicts.
fn print(report: &Report, verbose: bool) -> anyhow::Result<()> {
    if verbose {
        output::lines(report.table())?;
        output::lines(["", &format!("Releases: {NO_NETWORK}"), ""])?;
    } else {
        for item in report.items.iter().filter(|item| item.is_remarkable()) {
            eprintln!("{item}");
        }
    }
    output::lines(report.verdicts())?;
    Ok(())
}

/// Whether the host can run containers at all: what `env` shows as `VMContainerCapable`.
pub(crate) fn is_capable(host: &Host, config: &Config) -> bool {
    let accelerator = probes::accelerator(host, config.hypervisor.accelerator);
    !accelerator.is_failure(Need::Run)
}

/// The files a sandbox of this configuration needs: what `config validate` looks at.
pub(crate) fn files(config: &Config) -> Vec<Item> {
    let mut items = vec![
        probes::qemu(&config.hypervisor.path),
        probes::shared_fs(&config.hypervisor),
        probes::kernel(&config.hypervisor.kernel),
    ];
    items.extend(config.hypervisor.initrd.as_deref().map(probes::initrd));
    items.extend(config.hypervisor.firmware.as_deref().map(probes::firmware));
    items.extend(config.runtime.sandbox_bind_mounts.iter().map(|bind| probes::bound(&bind.path)));
    items
}

#[cfg(test)]
mod tests;
