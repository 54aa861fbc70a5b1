//! The guest's cgroup v2 hierarchy and the cgroups of containers in it.

pub(crate) mod devices;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod limits;
pub(crate) mod stats;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_protocol::oci::{LinuxDeviceCgroup, LinuxResources};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use rustix::fs::{Access, Mode, OFlags, access, open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::jail::plan::CGROUP_MOUNT;
use crate::mountinfo::mount_point;
use crate::signals::Signal;
use crate::sys;

/// How long the kernel may take to stop, or to end, all processes of a container.
const SETTLE: Duration = Duration::from_secs(10);

/// A cgroup could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// A file of the cgroup could not be read or written.
    #[error("Cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A rule makes no sense.
    #[error(transparent)]
    Rule(#[from] devices::RuleError),
    /// A limit is none of a cgroup.
    #[error(transparent)]
    Limit(#[from] limits::NameError),
    /// The kernel did not take the program.
    #[error("The container's devices cannot be guarded; does the guest's kernel have CONFIG_CGROUP_BPF?")]
    Guard(#[source] io::Error),
    /// Rules are for the container's whole life.
    #[error("The device rules of a container cannot be changed; create it anew with others")]
    DevicesChange,
    /// More memory is used than the new limit allows.
    #[error(
        "The container uses {used} bytes of memory, more than the new limit of {limit}; free some or set a higher one"
    )]
    InUse { used: i64, limit: i64 },
    /// The kernel did not get there.
    #[error("The processes in {} did not become {state} in {} s; see the guest's log for a hung task", path.display(), SETTLE.as_secs())]
    Unsettled { path: PathBuf, state: &'static str },
}

type Result<T> = std::result::Result<T, CgroupError>;

/// A mounted cgroup v2 hierarchy that the agent may write to.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    root: PathBuf,
    controllers: Vec<String>,
}

impl Hierarchy {
    /// The hierarchy at `named`, or where one is mounted; `None` if there is none that is writable.
    pub(crate) fn find(named: Option<&Path>) -> Option<Self> {
        let candidate = named.map(Path::to_owned).or_else(|| {
            let standard = Path::new(CGROUP_MOUNT);
            is_cgroup2(standard).then(|| standard.to_owned()).or_else(first_mounted)
        })?;
        let usable = is_cgroup2(&candidate) && access(&candidate, Access::WRITE_OK).is_ok();
        let controllers = fs::read_to_string(candidate.join("cgroup.controllers")).ok()?;
        let controllers = controllers.split_whitespace().map(str::to_owned).collect();
        usable.then_some(Self { root: candidate, controllers })
    }

    #[cfg(test)]
    pub(crate) fn for_tests(controllers: &[&str]) -> Self {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Self { root: CGROUP_MOUNT.into(), controllers }
    }

    /// Whether `controller` (for example `memory`) can limit containers.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// The cgroup of a container.
    pub(crate) fn container(&self, id: &str) -> Cgroup {
        Cgroup { path: self.root.join(id) }
    }
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn first_mounted() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(mount_point)
}

/// The cgroup of one container.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes it, with these limits; nothing is left of it if one of them cannot be had. One that is there already is
    /// somebody else's.
    pub(crate) fn create(&self, limits: &LinuxResources) -> Result<()> {
        let program = devices::program(&limits.Devices)?;
        let settings = limits::settings(limits)?;
        let made = fs::create_dir(&self.path);
        made.map_err(|source| CgroupError::File { path: self.path.clone(), source })?;
        let limited = self.limit(&settings, program.as_deref());
        if limited.is_err() {
            // Nobody is in it yet.
            let _ = fs::remove_dir(&self.path);
        }
        limited
    }

    fn limit(&self, settings: &[(String, String)], devices: Option<&[devices::Instruction]>) -> Result<()> {
        settings.iter().try_for_each(|(file, value)| self.write(file, value))?;
        let Some(program) = devices else { return Ok(()) };
        let guarded = self.open().and_then(|folder| sys::guard_devices(&folder, program));
        guarded.map_err(CgroupError::Guard)
    }

    /// Changes limits; what is not given stays. If one cannot be set, those that were set before it are set back.
    ///
    /// The rules for devices are told again by some clients, together with what changes: `rules` are those there are.
    pub(crate) fn update(&self, limits: &LinuxResources, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        if !limits.Devices.is_empty() && limits.Devices != rules {
            return Err(CgroupError::DevicesChange);
        }
        if let Some(memory) = limits.Memory.as_ref().filter(|memory| memory.CheckBeforeUpdate) {
            self.check_memory(memory.Limit)?;
        }
        let mut before: Vec<(String, String)> = Vec::new();
        for (file, value) in limits::settings(limits)? {
            let old = self.read(&file);
            if let Err(error) = self.write(&file, &value) {
                for (file, old) in before.iter().rev() {
                    // What was valid a moment ago.
                    let _ = self.write(file, old);
                }
                return Err(error);
            }
            before.push((file, old));
        }
        Ok(())
    }

    /// Below its use a limit would be met by killing.
    fn check_memory(&self, limit: i64) -> Result<()> {
        let used: i64 = self.read("memory.current").trim().parse().unwrap_or(0);
        match limit > 0 && used > limit {
            true => Err(CgroupError::InUse { used, limit }),
            false => Ok(()),
        }
    }

    /// Where an added process belongs: in this cgroup, or where the container's first process is, if that is below it to
    /// share out controllers (a cgroup that does so has no processes of its own).
    pub(crate) fn beside(&self, first: i32) -> Self {
        let place = fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap_or_default();
        self.below(&place).unwrap_or_else(|| self.clone())
    }

    /// The cgroup below this one that `/proc/…/cgroup` names.
    fn below(&self, place: &str) -> Option<Self> {
        let name = place.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let path = self.path.parent()?.join(name);
        path.starts_with(&self.path).then_some(Self { path })
    }

    /// Its folder, to make processes in.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// The file that a process enters it by.
    pub(crate) fn entrance(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Stops all processes, and waits until the last one stands still.
    pub(crate) async fn freeze(&self) -> Result<()> {
        self.write("cgroup.freeze", "1")?;
        self.settle("frozen", "1").await
    }

    /// Lets all processes go on.
    pub(crate) async fn thaw(&self) -> Result<()> {
        self.write("cgroup.freeze", "0")?;
        self.settle("frozen", "0").await
    }

    /// Ends all processes, frozen or not; a cgroup that is gone has none.
    pub(crate) fn kill(&self) -> Result<()> {
        match self.write("cgroup.kill", "1") {
            // Kernels before 5.14 have no such file.
            Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.signal(Signal::KILL);
                Ok(())
            }
            result => result,
        }
    }

    /// Sends `signal` to all processes there are now.
    pub(crate) fn signal(&self, signal: Signal) {
        for pid in self.pids() {
            // Gone already: as good as signalled.
            let _ = signal.send(pid);
        }
    }

    /// Processes of this cgroup and those below it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for folder in self.folders() {
            let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        pids
    }

    /// Ends all processes, waits for that, and removes the cgroup.
    pub(crate) async fn remove(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        self.kill()?;
        self.settle("populated", "0").await?;
        for folder in self.folders().into_iter().rev() {
            match fs::remove_dir(&folder) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(CgroupError::File { path: folder, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A file's content; empty if the controller is not there.
    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// Watches one of the cgroup's event files.
    pub(crate) fn watch(&self, file: &str) -> Result<EventFile> {
        let path = self.path.join(file);
        let open = File::open(&path).and_then(|file| sys::watch(file.into(), Interest::PRIORITY));
        match open {
            Ok(file) => Ok(EventFile { file, path }),
            Err(source) => Err(CgroupError::File { path, source }),
        }
    }

    /// This folder, then those below it, parents first.
    fn folders(&self) -> Vec<PathBuf> {
        let mut found = vec![self.path.clone()];
        let mut next = 0;
        while let Some(folder) = found.get(next) {
            let below = fs::read_dir(folder).into_iter().flatten().flatten();
            let below: Vec<PathBuf> = below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|e| e.path())
                .collect();
            found.extend(below);
            next += 1;
        }
        found
    }

    async fn settle(&self, key: &str, value: &str) -> Result<()> {
        let mut events = self.watch("cgroup.events")?;
        let wanted = format!("{key} {value}");
        let state = if key == "frozen" && value == "0" {
            "running"
        } else if key == "frozen" {
            "frozen"
        } else {
            "ended"
        };
        let reached = events.until(|content| content.lines().any(|line| line == wanted));
        match tokio::time::timeout(SETTLE, reached).await {
            Ok(result) => result.map(|_| ()),
            Err(_) => Err(CgroupError::Unsettled { path: self.path.clone(), state }),
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|source| CgroupError::File { path, source })
    }
}

/// A file like `cgroup.events`, which the kernel announces changes of.
#[derive(Debug)]
pub(crate) struct EventFile {
    file: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl EventFile {
    /// The content, once it satisfies `condition`.
    pub(crate) async fn until(&mut self, condition: impl Fn(&str) -> bool) -> Result<String> {
        loop {
            // Reading also tells the kernel which state has been seen, so it comes before waiting.
            let content =
                self.read().map_err(|source| CgroupError::File { path: self.path.clone(), source })?;
            if condition(&content) {
                return Ok(content);
            }
            let ready = self.file.ready(Interest::PRIORITY).await;
            ready.map_err(|source| CgroupError::File { path: self.path.clone(), source })?.clear_ready();
        }
    }

    fn read(&self) -> io::Result<String> {
        let mut buffer = [0; 4096];
        let length = rustix::io::pread(&self.file, &mut buffer, 0)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was left, and its name could not be used again.
    #[test]
    fn a_cgroup_whose_limits_are_refused_is_not_left() {
        let root = tempfile::tempdir().expect("temporary folder");
        let cgroup = Cgroup { path: root.path().join("web") };
        // No file has so long a name.
        let limits =
            LinuxResources { Unified: [("x".repeat(300), "1".to_owned())].into(), ..Default::default() };
        cgroup.create(&limits).expect_err("there is no such limit");
        assert!(!root.path().join("web").exists(), "nothing is left");
    }

    #[test]
    fn a_process_below_a_cgroup_is_found_there() {
        let cgroup = Cgroup { path: "/sys/fs/cgroup/box".into() };
        let below = |place: &str| cgroup.below(place).map(|found| found.path);
        assert_eq!(below("0::/box/init\n"), Some("/sys/fs/cgroup/box/init".into()));
        assert_eq!((below("0::/other\n"), below("1:cpu:/box\n")), (None, None));
    }

    #[test]
    fn folders_come_parents_first() {
        let root = tempfile::tempdir().expect("temporary folder");
        fs::create_dir_all(root.path().join("a/b")).expect("folders");
        let folders = Cgroup { path: root.path().to_owned() }.folders();
        assert_eq!(folders, [root.path().to_owned(), root.path().join("a"), root.path().join("a/b")]);
    }
}
