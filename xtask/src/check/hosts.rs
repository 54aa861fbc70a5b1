//! No address of a package registry stands in the repository: mirrors and proxies are the machine's business.
//! Which addresses those are is read from the machine's own settings.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::apt;
use crate::process;
use crate::workspace::Workspace;

/// Every line of a tracked file that names one of the machine's package registries.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut texts = apt::addresses();
    for home in
        [std::env::var_os("CARGO_HOME").map(Into::into), std::env::home_dir().map(|h| h.join(".cargo"))]
    {
        let config = home.map(|home| home.join("config.toml"));
        texts.extend(config.and_then(|config| fs::read_to_string(config).ok()));
    }
    let hosts: BTreeSet<String> = texts.iter().flat_map(|text| hosts_in(text)).collect();
    let mut git = std::process::Command::new("git");
    git.current_dir(&workspace.root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let files = process::text(&mut git)?;
    let files = files.split('\0').filter(|file| !file.is_empty() && *file != "Cargo.lock");
    Ok(files.flat_map(|file| named_in(&workspace.root, file, &hosts)).collect())
}

fn named_in(root: &Path, file: &str, hosts: &BTreeSet<String>) -> Vec<String> {
    // What is no text names nothing.
    let text = fs::read_to_string(root.join(file)).unwrap_or_default();
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        findings.extend(
            hosts
                .iter()
                .filter(|host| line.contains(*host))
                .map(|host| format!("{file}:{} names {host}", index + 1)),
        );
    }
    findings
}

/// The host of every `scheme://host/…` in a text, except those that mean the machine itself or a forge.
pub(crate) fn hosts_in(text: &str) -> Vec<String> {
    let after = text.split("://").skip(1);
    let hosts = after.map(|rest| {
        let authority = rest.split(['/', '"', '\'', ' ', '\n', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        host.split(':').next().unwrap_or_default().to_owned()
    });
    hosts.filter(|host| host.contains('.') && host != "github.com" && host != "127.0.0.1").collect()
}
