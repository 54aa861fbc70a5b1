//! A private apt state: packages from suites that the machine itself does not use (backports), and not one
//! file of the machine's own apt touched. The archives' addresses are taken from the machine's sources, so
//! that mirrors and proxies keep working.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

mod sources;
#[cfg(test)]
mod tests;

use sources::Entry;

/// A Debian release: its code name and where the machine gets it from.
pub(crate) struct Release {
    codename: String,
    entries: Vec<Entry>,
}

impl Release {
    /// Reads `/etc/os-release` and the machine's apt sources.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let text = fs::read_to_string("/etc/os-release").context("Cannot read /etc/os-release")?;
        let codename = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename =
            codename.context("/etc/os-release names no VERSION_CODENAME: is this Debian stable?")?;
        let entries = sources::read(Path::new("/etc/apt"))?;
        let release = Self { codename: codename.trim_matches('"').to_owned(), entries };
        if release.main().is_none() {
            bail!("No apt source offers {} main: add one to /etc/apt/sources.list.d", release.codename);
        }
        Ok(release)
    }

    /// The release's name, such as `bookworm`.
    pub(crate) fn codename(&self) -> &str {
        &self.codename
    }

    /// Sources in deb822 form with the release, its updates and its security fixes.
    pub(crate) fn sources(&self) -> String {
        self.official().map(|entry| entry.stanza(&entry.suites)).collect::<Vec<_>>().join("\n")
    }

    /// As [`Release::sources`], with backports from the same archive as the release itself.
    pub(crate) fn sources_with_backports(&self) -> String {
        let backports = [format!("{}-backports", self.codename)];
        let main = self.main().map(|entry| entry.stanza(&backports)).unwrap_or_default();
        format!("{}\n{main}", self.sources())
    }

    /// Entries of Debian itself; other vendors use the same suite names, but hardly a component `main`.
    fn official(&self) -> impl Iterator<Item = &Entry> {
        let suites = ["", "-updates", "-security"].map(|suffix| format!("{}{suffix}", self.codename));
        self.entries.iter().filter(move |entry| {
            entry.components.iter().any(|c| c == "main") && entry.suites.iter().any(|s| suites.contains(s))
        })
    }

    fn main(&self) -> Option<&Entry> {
        self.official().find(|entry| entry.suites.contains(&self.codename))
    }
}

/// The addresses of all archives the machine uses; none where there is no apt.
pub(crate) fn addresses() -> Vec<String> {
    let entries = sources::read(Path::new("/etc/apt")).unwrap_or_default();
    entries.into_iter().flat_map(|entry| entry.uris).collect()
}

/// An apt state of its own in a directory of ours.
pub(crate) struct PrivateApt {
    directory: PathBuf,
    log: PathBuf,
}

impl PrivateApt {
    /// Makes the state in `directory`, with these sources (deb822).
    pub(crate) fn new(directory: &Path, sources: &str, log: &Path) -> Result<Self> {
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(directory.join(part))?;
        }
        fs::write(directory.join("private.sources"), sources)?;
        Ok(Self { directory: directory.to_owned(), log: log.to_owned() })
    }

    /// Fetches the lists of packages.
    pub(crate) fn update(&self) -> Result<()> {
        process::logged(self.command("apt-get").arg("update"), &self.log)
    }

    /// The packages that `package` depends on, for metapackages.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = process::text(self.command("apt-cache").args(["depends", "--important", package]))?;
        Ok(text.lines().filter_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// Downloads one package; returns the path of its file.
    pub(crate) fn download(&self, package: &str) -> Result<PathBuf> {
        let directory = self.directory.join(format!("download-{package}"));
        fs::create_dir_all(&directory)?;
        let mut command = self.command("apt-get");
        process::logged(command.current_dir(&directory).args(["download", package]), &self.log)?;
        let mut files = fs::read_dir(&directory)?;
        let file = files.next().with_context(|| format!("apt-get downloaded nothing for {package}"))??;
        Ok(file.path())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.directory.join(name).display().to_string();
        let settings = [
            ("Dir::Etc::sourcelist", at("private.sources")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::State::lists", at("lists")),
            ("Dir::Cache::archives", at("archives")),
            ("Dir::Cache::pkgcache", String::new()),
            ("Dir::Cache::srcpkgcache", String::new()),
            ("APT::Sandbox::User", "root".to_owned()),
        ];
        command
            .args(settings.into_iter().flat_map(|(key, value)| ["-o".to_owned(), format!("{key}={value}")]));
        command.env("LC_ALL", "C");
        command
    }
}
