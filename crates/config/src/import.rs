//! A configuration of upstream's, written as ours: what is understood is kept, and the rest is told, line by line.

use std::path::Path;

use crate::build;
use crate::derive::HostSize;
use crate::error::{ConfigError as Error, Problem};
use crate::file::{self, Role};
use crate::layer::{Given, Layer};
use crate::options::{self, Table};
use crate::settings::Settings;

/// What has become of a foreign configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// A configuration that [`load`](crate::load) takes.
    pub text: String,
    /// How many keys are in it.
    pub taken: usize,
    /// What is not, and why, in the order of the file.
    pub left_out: Vec<Problem>,
}

/// Reads a configuration as far as it is understood. Each value that is kept does here what it did there.
///
/// # Errors
/// The file cannot be read, or is no TOML; values that only go wrong together are none's fault alone.
pub fn import(path: &Path, host_cpus: u32) -> Result<Import, Error> {
    let Layer { given, problems } = file::read(path, Role::Base, "the command line")?;
    if given.is_empty() && problems.iter().any(|problem| problem.text.starts_with("Not valid TOML")) {
        return Err(Error::Invalid(problems));
    }
    let (kept, refused) = usable(given, path, host_cpus)?;
    let mut left_out: Vec<Problem> = problems.into_iter().chain(refused).collect();
    left_out.sort();
    Ok(Import { text: written(path, &kept, &left_out), taken: kept.len(), left_out })
}

/// Leaves out one after the other whatever stands in the way of a usable configuration.
fn usable(mut kept: Vec<Given>, path: &Path, host_cpus: u32) -> Result<(Vec<Given>, Vec<Problem>), Error> {
    let mut refused = Vec::new();
    loop {
        let mut settings = Settings::defaults();
        settings.overlay(Layer { given: kept.clone(), problems: Vec::new() });
        // No fault depends on the host's memory.
        let host = HostSize { cpus: host_cpus, memory_mib: 0 };
        let Err(problems) = build::build(&settings, path.to_owned(), host) else {
            return Ok((kept, refused));
        };
        let before = kept.len();
        kept.retain(|given| !problems.iter().any(|problem| problem.place == given.origin));
        if kept.len() == before {
            return Err(Error::Invalid(problems));
        }
        refused.extend(problems);
    }
}

/// Table by table in the order of the shipped file. What is left out stays as a comment.
fn written(path: &Path, kept: &[Given], left_out: &[Problem]) -> String {
    let mut text = format!("# Imported from {} by `kata-runtime config import`.\n", path.display());
    for table in Table::ALL {
        let rows = options::rows().filter(|row| row.table == table);
        let given = rows.filter_map(|row| kept.iter().find(|given| std::ptr::eq(given.row, row)));
        let lines: Vec<String> =
            given.map(|given| format!("{} = {}\n", given.row.key, given.value)).collect();
        if !lines.is_empty() {
            text += &format!("\n[{}]\n{}", table.header(), lines.concat());
        }
    }
    if !left_out.is_empty() {
        text += "\n# Left out:\n";
    }
    for problem in left_out {
        text += &format!("#   {}\n", problem.to_string().replace('\n', " "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::import;
    use crate::{Error, LoadRequest, load};

    const UPSTREAM: &str = r#"
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
kernel = "/opt/kata/share/kata-containers/vmlinux.container"
image = "/opt/kata/share/kata-containers/kata-containers.img"
machine_type = "q35"
default_vcpus = 2
default_memory = 512
enable_iommu = true
enable_iothreads = false
nonsense = 1

[hypervisor.clh]
path = "/opt/kata/bin/cloud-hypervisor"

[agent.kata]
debug_console_enabled = true
dial_timeout = 45
enable_tracing = false

[runtime]
internetworking_model = "macvtap"
emptydir_mode = "block-encrypted"
"#;

    #[test]
    fn what_is_understood_is_kept_and_the_rest_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upstream.toml");
        fs::write(&path, UPSTREAM).unwrap();
        let import = import(&path, 4).unwrap();
        let line = |text: &str| import.text.lines().any(|line| line == text);
        assert!(
            line("path = \"/opt/kata/bin/qemu-system-x86_64\"") && line("default_vcpus = 2"),
            "{}",
            import.text
        );
        assert!(line("reconnect_timeout_ms = 45000"), "the other dialect's key: {}", import.text);
        assert!(line("internetworking_model = \"macvtap\""), "{}", import.text);
        let told = import.left_out.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for key in ["image", "enable_iommu", "nonsense", "clh", "emptydir_mode"] {
            assert!(told.contains(key), "{key}: {told}");
        }
        assert!(
            !told.contains("enable_iothreads") && !told.contains("enable_tracing"),
            "as it is anyway: {told}"
        );
        let own = dir.path().join("own.toml");
        fs::write(&own, &import.text).unwrap();
        let config = load(&LoadRequest { explicit: Some(own), ..LoadRequest::default() }).unwrap();
        assert_eq!(config.hypervisor.default_memory_mib, 512);
    }

    #[test]
    fn our_own_file_comes_out_with_nothing_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ours.toml");
        fs::write(&path, crate::render_template(&crate::Placement::default())).unwrap();
        assert_eq!(import(&path, 4).unwrap().left_out, []);
    }

    #[test]
    fn what_is_no_toml_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        fs::write(&path, "[runtime\n").unwrap();
        assert!(matches!(import(&path, 4), Err(Error::Invalid(_))));
    }
}
