//! CPUs and memory that come and go while the guest runs.
//!
//! Whoever adds them cannot wait for the guest; the guest's kernel announces what has come. It takes memory into use by
//! itself and leaves new CPUs off: they are taken into use here, and left off when the host asks for fewer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;

use crate::announcements;

/// CPUs, as `cpu0`. Those that cannot be left off have no file `online`.
const CPUS: &str = "/sys/devices/system/cpu";
/// Memory, as blocks `memory0` of the same size.
const MEMORY: &str = "/sys/devices/system/memory";

/// CPUs or memory cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResourceError {
    /// The kernel refused, or has no such file.
    #[error("Cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Not all have come, or gone.
    #[error("The guest uses {found} after {} s, not {wanted}; has the VM got them?", limit.as_secs_f32())]
    Missing { found: Has, wanted: Has, limit: Duration },
    /// What comes cannot be seen.
    #[error("Cannot watch the devices of the guest")]
    Watch(#[source] io::Error),
    /// Only some kernels are told of memory.
    #[error("The guest's kernel finds memory by itself and cannot be told of it (it has no {}); leave out the request", path.display())]
    NoProbe { path: PathBuf },
}

type Result<T> = std::result::Result<T, ResourceError>;

/// What is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Has {
    cpus: u32,
    memory: u64,
}

impl std::fmt::Display for Has {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} CPUs and {} bytes of memory", self.cpus, self.memory)
    }
}

/// Which CPUs are to be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cpus {
    /// So many.
    Exactly(u32),
    /// So many more of those that are left off, at least.
    More(u32),
}

/// What is to be in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) cpus: Cpus,
    /// Bytes with those of the boot, counted in whole blocks; 0 for what there is.
    pub(crate) memory: u64,
    /// Memory that is not in use is taken.
    pub(crate) takes_memory: bool,
}

/// The files by which the kernel is told.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    cpus: PathBuf,
    memory: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self { cpus: CPUS.into(), memory: MEMORY.into() }
    }
}

impl Files {
    /// Takes into use what is there.
    pub(crate) async fn change(self, wanted: Wanted) -> Result<()> {
        self.step(wanted).await.map(drop)
    }

    /// Takes into use what is there, and what comes, until it is enough or nothing has come for as long as `limit`.
    pub(crate) async fn reach(self, mut wanted: Wanted, limit: Duration) -> Result<()> {
        if let Cpus::More(more) = wanted.cpus {
            let used = self.cpus().iter().filter(|cpu| cpu.is_used).count();
            wanted.cpus = Cpus::Exactly(u32::try_from(used).unwrap_or(u32::MAX).saturating_add(more));
        }
        // Listening comes before looking, so that nothing is missed in between.
        let events =
            announcements::of_devices().and_then(|socket| crate::sys::watch(socket, Interest::READABLE));
        let events = events.map_err(ResourceError::Watch)?;
        while !wanted.is_met_by(self.clone().step(wanted).await?) {
            match tokio::time::timeout(limit, announcements::next(&events)).await {
                Ok(announced) => announced.map_err(ResourceError::Watch)?,
                // It may have come while nobody looked, on a busy host.
                Err(_) if wanted.is_met_by(self.has()) => return Ok(()),
                Err(_) => {
                    let Wanted { memory, .. } = wanted;
                    let cpus = if let Cpus::Exactly(cpus) = wanted.cpus { cpus } else { 0 };
                    let wanted = Has { cpus, memory };
                    return Err(ResourceError::Missing { found: self.has(), wanted, limit });
                }
            }
        }
        Ok(())
    }

    /// The kernel takes its time for each CPU.
    async fn step(self, wanted: Wanted) -> Result<Has> {
        let step = tokio::task::spawn_blocking(move || {
            self.switch_cpus(wanted.cpus)?;
            if wanted.takes_memory {
                self.take_memory()?;
            }
            Ok(self.has())
        });
        step.await.map_err(|error| ResourceError::Watch(io::Error::other(error)))?
    }

    /// The first ones are in use, the last ones are left off.
    fn switch_cpus(&self, wanted: Cpus) -> Result<()> {
        let cpus = self.cpus();
        let used = cpus.iter().filter(|cpu| cpu.is_used).count();
        let (target, is_limit) = match wanted {
            Cpus::Exactly(count) => (count as usize, true),
            Cpus::More(count) => (used + count as usize, false),
        };
        let missing = target.saturating_sub(used);
        for cpu in cpus.iter().filter(|cpu| !cpu.is_used).take(missing) {
            switch(cpu.online(), "1")?;
        }
        let surplus = if is_limit { used.saturating_sub(target) } else { 0 };
        for cpu in cpus.iter().rev().filter(|cpu| cpu.is_used && cpu.may_be_off).take(surplus) {
            switch(cpu.online(), "0")?;
        }
        Ok(())
    }

    fn take_memory(&self) -> Result<()> {
        let files = self.blocks().into_iter().map(|block| block.join("state"));
        files.filter(|state| is(state, "offline")).try_for_each(|state| switch(state, "online"))
    }

    fn has(&self) -> Has {
        let cpus = self.cpus().iter().filter(|cpu| cpu.is_used).count();
        let blocks = self.blocks().iter().filter(|block| is(&block.join("state"), "online")).count() as u64;
        Has { cpus: u32::try_from(cpus).unwrap_or(u32::MAX), memory: blocks * self.block_size() }
    }

    /// In the kernel's order.
    fn cpus(&self) -> Vec<Cpu> {
        let mut cpus: Vec<_> = numbered(&self.cpus, "cpu").into_iter().map(Cpu::at).collect();
        cpus.sort_by_key(|cpu| cpu.number);
        cpus
    }

    fn blocks(&self) -> Vec<PathBuf> {
        numbered(&self.memory, "memory").into_iter().map(|(_, path)| path).collect()
    }

    /// Bytes in a block of memory; 0 if the kernel does not tell.
    pub(crate) fn block_size(&self) -> u64 {
        let size = fs::read_to_string(self.memory.join("block_size_bytes")).unwrap_or_default();
        u64::from_str_radix(size.trim(), 16).unwrap_or(0)
    }

    /// Whether the kernel can be told of memory.
    pub(crate) fn can_probe(&self) -> bool {
        self.probe().exists()
    }

    /// Tells the kernel of blocks of memory that begin at these addresses.
    pub(crate) fn tell_of(&self, addresses: &[u64]) -> Result<()> {
        let probe = self.probe();
        if !probe.exists() {
            return Err(ResourceError::NoProbe { path: probe });
        }
        addresses.iter().try_for_each(|address| write(probe.clone(), &format!("{address:#x}")))
    }

    fn probe(&self) -> PathBuf {
        self.memory.join("probe")
    }
}

impl Wanted {
    fn is_met_by(&self, has: Has) -> bool {
        let enough = match self.cpus {
            Cpus::Exactly(count) => has.cpus == count,
            Cpus::More(_) => true,
        };
        enough && has.memory >= self.memory
    }
}

/// One CPU.
#[derive(Debug)]
struct Cpu {
    number: u32,
    path: PathBuf,
    is_used: bool,
    may_be_off: bool,
}

impl Cpu {
    fn at((number, path): (u32, PathBuf)) -> Self {
        let online = fs::read_to_string(path.join("online")).ok();
        let is_used = online.as_ref().is_none_or(|online| online.trim() == "1");
        Self { number, path, is_used, may_be_off: online.is_some() }
    }

    fn online(&self) -> PathBuf {
        self.path.join("online")
    }
}

/// The entries of a directory that are called so, with a number behind it.
fn numbered(directory: &Path, name: &str) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix(name)?.parse().ok();
    entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect()
}

fn is(path: &Path, content: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|found| found.trim() == content)
}

/// Somebody else may have done the same in the meantime, which the kernel refuses.
fn switch(path: PathBuf, state: &str) -> Result<()> {
    match fs::write(&path, state) {
        Err(source) if !is(&path, state) => Err(ResourceError::File { path, source }),
        _ => Ok(()),
    }
}

fn write(path: PathBuf, content: &str) -> Result<()> {
    fs::write(&path, content).map_err(|source| ResourceError::File { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest with four CPUs, of which so many are in use, and two blocks of memory of 128 MiB, one of them in use.
    fn guest(used: u32) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let files = Files { cpus: dir.path().join("cpu"), memory: dir.path().join("memory") };
        for number in 0..4 {
            let cpu = files.cpus.join(format!("cpu{number}"));
            fs::create_dir_all(&cpu).expect("a folder");
            if number > 0 {
                fs::write(cpu.join("online"), if number < used { "1\n" } else { "0\n" }).expect("a file");
            }
        }
        fs::create_dir(files.cpus.join("cpuidle")).expect("a folder");
        for (block, state) in [("memory0", "online\n"), ("memory32", "offline\n")] {
            fs::create_dir_all(files.memory.join(block)).expect("a folder");
            fs::write(files.memory.join(block).join("state"), state).expect("a file");
        }
        fs::write(files.memory.join("block_size_bytes"), "8000000\n").expect("a file");
        (dir, files)
    }

    fn used(files: &Files) -> Vec<u32> {
        files.cpus().iter().filter(|cpu| cpu.is_used).map(|cpu| cpu.number).collect()
    }

    fn wanted(cpus: Cpus, memory: u64) -> Wanted {
        Wanted { cpus, memory, takes_memory: true }
    }

    /// For what is there at once, however busy this machine is.
    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_first_cpus_are_in_use_and_the_last_ones_left_off() {
        let (_dir, files) = guest(1);
        files.clone().reach(wanted(Cpus::Exactly(3), 0), LIMIT).await.expect("they are there");
        assert_eq!(used(&files), [0, 1, 2]);
        files.clone().reach(wanted(Cpus::Exactly(2), 0), LIMIT).await.expect("they may be off");
        assert_eq!(used(&files), [0, 1]);
    }

    #[tokio::test]
    async fn cpus_that_were_added_are_beside_those_in_use() {
        let (_dir, files) = guest(2);
        files.clone().change(wanted(Cpus::More(1), 0)).await.expect("it is there");
        assert_eq!(used(&files), [0, 1, 2]);
        files.clone().reach(wanted(Cpus::More(1), 0), LIMIT).await.expect("it is there");
        assert_eq!(used(&files), [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn what_does_not_come_is_named() {
        let (_dir, files) = guest(1);
        let error =
            files.reach(wanted(Cpus::Exactly(5), 1 << 30), Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "The guest uses 4 CPUs and 268435456 bytes of memory after 0.02 s, not 5 CPUs and 1073741824 bytes of memory; \
             has the VM got them?"
        );
    }

    #[tokio::test]
    async fn the_first_cpu_cannot_be_left_off() {
        let (_dir, files) = guest(4);
        files.clone().change(wanted(Cpus::Exactly(0), 0)).await.expect("the others may be off");
        assert_eq!(used(&files), [0]);
    }

    #[tokio::test]
    async fn memory_is_taken_unless_it_is_to_be_left_alone() {
        let (_dir, files) = guest(1);
        let left = Wanted { takes_memory: false, ..wanted(Cpus::More(0), 0) };
        files.clone().change(left).await.expect("nothing to do");
        assert_eq!(files.has().memory, 128 << 20);
        files.clone().reach(wanted(Cpus::More(0), 256 << 20), LIMIT).await.expect("it is there");
        assert_eq!(files.has().memory, 256 << 20);
    }

    #[test]
    fn a_kernel_is_told_of_memory_if_it_asks_for_that() {
        let (_dir, files) = guest(1);
        assert!(!files.can_probe());
        let error = files.tell_of(&[0x1000_0000]).unwrap_err();
        assert!(error.to_string().contains("finds memory by itself"), "{error}");
        fs::write(files.probe(), "").expect("a file");
        files.tell_of(&[0x1000_0000]).expect("it can be told");
        assert_eq!(fs::read_to_string(files.probe()).expect("the file"), "0x10000000");
    }
}
