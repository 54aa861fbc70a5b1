//! What the guest's memory is made of on the host, and whether the host has so much of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::numa::Numa;

/// Where the kernel tells of huge pages.
pub(crate) const MM: &str = "/sys/kernel/mm";

/// Where the kernel tells how much memory the host has.
pub(crate) const MEMINFO: &str = "/proc/meminfo";

/// As large a VM is started on hosts that are smaller, too: it is what pods have that nobody has said anything of.
const ALWAYS_TAKEN_MIB: u64 = 2048;

/// Where the kernel tells of the host's NUMA nodes.
pub(crate) const NODES: &str = "/sys/devices/system/node";

/// `statfs` of a hugetlbfs (`HUGETLBFS_MAGIC`).
const HUGETLBFS: u64 = 0x9584_58f6;

/// What the guest's memory is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryBacking {
    /// The kind of pages.
    pub pages: MemoryPages,
    /// All memory is taken from the host before the guest starts, and as it is added, by so many threads; 0: as the guest
    /// touches it.
    pub prealloc_threads: u32,
    /// Memory is a file without a name in this directory, which may be of a hugetlbfs; `None`: anonymous.
    pub dir: Option<PathBuf>,
    /// The host may keep one page for equal ones of several VMs (KSM). Only of memory that is the VMM's alone.
    pub is_mergeable: bool,
}

/// The kind of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryPages {
    /// What the host gives.
    #[default]
    Usual,
    /// Transparent huge pages, which the host must be willing to give.
    Transparent,
    /// Pages of the host's pool for this size.
    Huge {
        /// Their size in KiB.
        kib: u64,
    },
}

/// The host lacks what the memory is to be made of.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The host is smaller than the VM.
    #[error(
        "The VM is to have {mib} MiB and this host has {ram} MiB, and {swap} MiB of swap: lower `default_memory`, or \
         `default_maxmemory` if the pod's limits ask for so much"
    )]
    TooSmallHost {
        /// The VM's memory.
        mib: u32,
        /// The host's.
        ram: u64,
        /// The host's swap.
        swap: u64,
    },
    /// Not so much is free now.
    #[error(
        "The VM's {mib} MiB are to be taken at its start and {free} MiB are free on this host, swap included: set \
         `enable_mem_prealloc = false`, or lower `default_memory`"
    )]
    NotFree {
        /// The VM's memory.
        mib: u32,
        /// What the host could give.
        free: u64,
    },
    /// Memory of that kind cannot be merged.
    #[error(
        "`enable_ksm` is for memory that only the VMM maps, and {why}: remove `enable_ksm`, or what is against it"
    )]
    Unmergeable {
        /// Why it is not.
        why: &'static str,
    },
    /// There is no pool of that size.
    #[error("This host has no huge pages of {kib} KiB: set `hugepage_size` to one of those in {dir:?}")]
    NoPool {
        /// The size of a page.
        kib: u64,
        /// Where there would be one.
        dir: PathBuf,
    },
    /// Not enough pages are free.
    #[error(
        "The VM's {mib} MiB need {needed} huge pages of {kib} KiB and the host has {free} free ones: write a larger number \
         to {file:?}, lower `default_memory`, or set `enable_hugepages = false`"
    )]
    TooFew {
        /// The VM's memory.
        mib: u32,
        /// How many it needs.
        needed: u64,
        /// The size of a page.
        kib: u64,
        /// How many nobody has or has reserved.
        free: u64,
        /// Where the size of the pool stands.
        file: PathBuf,
    },
    /// Not enough pages are free where the memory is to be.
    #[error(
        "The {mib} MiB of the guest's NUMA node {node} need {needed} huge pages of {kib} KiB and the host's nodes {host_nodes:?} \
         have {free} free ones: write a larger number to {file:?}, or name other nodes in `numa_mapping`"
    )]
    TooFewOnNode {
        /// The guest's node.
        node: usize,
        /// Its memory.
        mib: u32,
        /// How many it needs.
        needed: u64,
        /// The size of a page.
        kib: u64,
        /// The host's nodes behind it.
        host_nodes: Vec<u32>,
        /// How many are free there.
        free: u64,
        /// Where the number of the first of these nodes stands.
        file: PathBuf,
    },
    /// The memory is not a whole number of pages.
    #[error("{mib} MiB of memory are no whole number of huge pages of {kib} KiB: correct `default_memory`")]
    Part {
        /// The memory.
        mib: u32,
        /// The size of a page.
        kib: u64,
    },
    /// Transparent huge pages are switched off.
    #[error(
        "The host gives no transparent huge pages to such memory ({file:?} says {says:?}): write \"{write}\" to that file, or \
         set `enable_hugepages = false`"
    )]
    NotTransparent {
        /// The kernel's setting.
        file: PathBuf,
        /// What it says.
        says: String,
        /// What is needed.
        write: &'static str,
    },
    /// The directory cannot be used.
    #[error("The directory {dir:?} for the VM's memory cannot be used: check `file_mem_backend`")]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The directory is of huge pages.
    #[error(
        "The directory {dir:?} is of a hugetlbfs: remove `file_mem_backend` and set `enable_hugepages = true`, which needs no \
         mount"
    )]
    HugeDir {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory's file system is too full.
    #[error(
        "The VM's {mib} MiB do not fit in {dir:?}, where {free} MiB are free: make room, or name another directory in \
         `file_mem_backend`"
    )]
    Full {
        /// The VM's memory.
        mib: u32,
        /// The directory.
        dir: PathBuf,
        /// What is free there.
        free: u64,
    },
}

impl MemoryBacking {
    /// The size in bytes that everything must be a multiple of.
    pub(crate) fn unit(&self) -> u64 {
        match self.pages {
            MemoryPages::Huge { kib } => kib << 10,
            MemoryPages::Usual | MemoryPages::Transparent => 1,
        }
    }

    /// Whether there can be less than was promised when memory is touched: the process would die of it.
    pub(crate) fn may_run_out(&self) -> bool {
        matches!(self.pages, MemoryPages::Huge { .. }) || self.dir.is_some()
    }

    /// Whether the host has `mib` MiB of this. `shared`: other processes map it, too. `mm`: usually [`MM`].
    pub(crate) fn check(&self, mib: u32, shared: bool, mm: &Path) -> Result<(), BackingError> {
        if let Some(why) = self.unmergeable(shared).filter(|_| self.is_mergeable) {
            return Err(BackingError::Unmergeable { why });
        }
        if let Some(dir) = &self.dir {
            room(dir, mib)?;
        }
        match self.pages {
            MemoryPages::Usual => Ok(()),
            MemoryPages::Transparent => transparent(mm, shared),
            MemoryPages::Huge { kib } => pool(mm, kib, mib),
        }
    }

    /// Why the host's kernel would not merge its pages.
    fn unmergeable(&self, shared: bool) -> Option<&'static str> {
        match self.pages {
            MemoryPages::Huge { .. } => Some("this VM's is of the host's huge pages (`enable_hugepages`)"),
            _ if self.dir.is_some() => Some("this VM's is a file (`file_mem_backend`)"),
            _ if shared => {
                Some("virtiofsd (`shared_fs`) or a vhost-user network's daemon maps this VM's, too")
            }
            MemoryPages::Usual | MemoryPages::Transparent => None,
        }
    }

    /// Whether a host with this `/proc/meminfo` can ever have `mib` MiB. A guest takes memory as it touches it, so what is free now
    /// does not matter, unless all is taken at the start. A file is not in the host's memory, or in what has a limit of its own.
    pub(crate) fn check_host(&self, mib: u32, meminfo: &str) -> Result<(), BackingError> {
        let amount = |name: &str| -> Option<u64> {
            let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? >> 10)
        };
        let (Some(ram), None) = (amount("MemTotal"), &self.dir) else { return Ok(()) };
        let swap = amount("SwapTotal").unwrap_or(0);
        if u64::from(mib) > (ram + swap).max(ALWAYS_TAKEN_MIB) {
            return Err(BackingError::TooSmallHost { mib, ram, swap });
        }
        let is_taken = self.prealloc_threads > 0 && !matches!(self.pages, MemoryPages::Huge { .. });
        if let (true, Some(free)) = (is_taken, amount("MemAvailable")) {
            let free = free + amount("SwapFree").unwrap_or(0);
            if u64::from(mib) > free {
                return Err(BackingError::NotFree { mib, free });
            }
        }
        Ok(())
    }

    /// Whether there is so much of this where the guest's nodes are to have it. `nodes`: usually [`NODES`].
    pub(crate) fn check_nodes(&self, numa: &Numa, mm: &Path, nodes: &Path) -> Result<(), BackingError> {
        let MemoryPages::Huge { kib } = self.pages else { return Ok(()) };
        let of_size = format!("hugepages/hugepages-{kib}kB");
        let more = more(&mm.join(&of_size));
        let pool = |node: &u32| nodes.join(format!("node{node}")).join(&of_size);
        for (number, node) in numa.0.iter().enumerate() {
            let (mib, host_nodes) = (node.memory_mib, &node.host_nodes);
            let needed = (u64::from(mib) << 10) / kib;
            let free = host_nodes.iter().filter_map(|node| count(&pool(node), "free_hugepages"));
            let free = free.sum::<u64>() + more;
            if free < needed {
                let file = pool(host_nodes.first().unwrap_or(&0)).join("nr_hugepages");
                let host_nodes = host_nodes.clone();
                return Err(BackingError::TooFewOnNode {
                    node: number,
                    mib,
                    needed,
                    kib,
                    host_nodes,
                    free,
                    file,
                });
            }
        }
        Ok(())
    }
}

/// Enough pages are free, and not promised to anybody.
fn pool(mm: &Path, kib: u64, mib: u32) -> Result<(), BackingError> {
    let dir = mm.join("hugepages").join(format!("hugepages-{kib}kB"));
    let Some(free) = count(&dir, "free_hugepages") else {
        return Err(BackingError::NoPool { kib, dir: mm.join("hugepages") });
    };
    let all = u64::from(mib) << 10;
    if !all.is_multiple_of(kib) {
        return Err(BackingError::Part { mib, kib });
    }
    let needed = all / kib;
    let free = free.saturating_sub(count(&dir, "resv_hugepages").unwrap_or(0)).saturating_add(more(&dir));
    if free < needed {
        return Err(BackingError::TooFew { mib, needed, kib, free, file: dir.join("nr_hugepages") });
    }
    Ok(())
}

/// A number that the kernel tells of a pool.
fn count(pool: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(pool.join(file)).ok()?.trim().parse().ok()
}

/// How many more pages the kernel makes when they are asked for.
fn more(pool: &Path) -> u64 {
    let most = count(pool, "nr_overcommit_hugepages").unwrap_or(0);
    most.saturating_sub(count(pool, "surplus_hugepages").unwrap_or(0))
}

/// The kernel gives huge pages to those who ask, as VMMs do. Shared memory is a matter of its own.
fn transparent(mm: &Path, shared: bool) -> Result<(), BackingError> {
    let (name, write) = if shared { ("shmem_enabled", "advise") } else { ("enabled", "madvise") };
    let file = mm.join("transparent_hugepage").join(name);
    let text = fs::read_to_string(&file).unwrap_or_default();
    // `always [madvise] never`: the one in force.
    let says = text.split(['[', ']']).nth(1).unwrap_or("nothing");
    match says {
        "always" | "madvise" | "advise" | "within_size" | "force" => Ok(()),
        _ => Err(BackingError::NotTransparent { says: says.to_owned(), file, write }),
    }
}

fn room(dir: &Path, mib: u32) -> Result<(), BackingError> {
    let refused = |source| BackingError::Dir { dir: dir.to_owned(), source };
    if !fs::metadata(dir).map_err(refused)?.is_dir() {
        return Err(refused(io::ErrorKind::NotADirectory.into()));
    }
    let found = rustix::fs::statfs(dir).map_err(|error| refused(error.into()))?;
    if u64::try_from(found.f_type) == Ok(HUGETLBFS) {
        return Err(BackingError::HugeDir { dir: dir.to_owned() });
    }
    let block = u64::try_from(found.f_bsize).unwrap_or(0);
    let free = found.f_bavail.saturating_mul(block) >> 20;
    if free < mib.into() {
        return Err(BackingError::Full { mib, dir: dir.to_owned(), free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::numa::NumaNode;

    const HUGE: MemoryBacking = MemoryBacking {
        pages: MemoryPages::Huge { kib: 2048 },
        prealloc_threads: 0,
        dir: None,
        is_mergeable: false,
    };
    /// 8 GiB, of which 3 are free, and 2 GiB of swap, of which 1 is.
    const MEMINFO: &str = "MemTotal:        8388608 kB\nMemFree:          100000 kB\nMemAvailable:    3145728 kB\n\
                           SwapCached:            0 kB\nSwapTotal:       2097152 kB\nSwapFree:        1048576 kB\n";

    fn file(root: &TempDir, name: &str, text: &str) {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A host with these numbers of 2 MiB pages.
    fn host(free: &str, reserved: &str, overcommit: &str) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("free_hugepages", free),
            ("resv_hugepages", reserved),
            ("nr_overcommit_hugepages", overcommit),
            ("surplus_hugepages", "1\n"),
        ] {
            file(&root, &format!("hugepages/hugepages-2048kB/{name}"), text);
        }
        root
    }

    #[test]
    fn pages_that_are_promised_to_others_do_not_count() {
        assert!(HUGE.check(256, true, host("128\n", "0\n", "0\n").path()).is_ok());
        let root = host("128\n", "1\n", "0\n");
        let error = HUGE.check(256, true, root.path()).unwrap_err();
        assert!(matches!(error, BackingError::TooFew { needed: 128, free: 127, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("256 MiB") && text.contains("hugepages-2048kB/nr_hugepages"), "{text}");
    }

    #[test]
    fn pages_that_the_kernel_makes_when_asked_count() {
        assert!(HUGE.check(256, true, host("128\n", "1\n", "2\n").path()).is_ok());
        assert!(HUGE.check(256, true, host("128\n", "1\n", "1\n").path()).is_err(), "one is made already");
    }

    #[test]
    fn a_size_that_the_host_has_not_is_named() {
        let root = host("128\n", "0\n", "0\n");
        let giant = MemoryBacking { pages: MemoryPages::Huge { kib: 1 << 20 }, ..HUGE };
        let error = giant.check(1024, true, root.path()).unwrap_err().to_string();
        assert!(error.contains("1048576 KiB") && error.contains("hugepage_size"), "{error}");
        let odd = HUGE.check(255, true, root.path()).unwrap_err();
        assert!(matches!(odd, BackingError::Part { mib: 255, kib: 2048 }), "{odd}");
    }

    #[test]
    fn pages_must_be_free_in_the_hosts_nodes_behind_each_of_the_guests() {
        let root = host("256\n", "0\n", "0\n");
        for (node, free) in [(0, "100\n"), (1, "28\n"), (3, "128\n")] {
            file(&root, &format!("node{node}/hugepages/hugepages-2048kB/free_hugepages"), free);
        }
        let check = |nodes: &[&[u32]]| {
            let node = |nodes: &&[u32]| NumaNode {
                memory_mib: 256,
                host_nodes: nodes.to_vec(),
                host_cpus: vec![0],
                distances: vec![10],
            };
            HUGE.check_nodes(&Numa(nodes.iter().map(node).collect()), root.path(), root.path())
        };
        assert!(check(&[&[0, 1], &[3]]).is_ok());
        let error = check(&[&[3], &[1]]).unwrap_err();
        assert!(
            matches!(error, BackingError::TooFewOnNode { node: 1, needed: 128, free: 28, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("node1/hugepages/hugepages-2048kB/nr_hugepages"), "{error}");
    }

    #[test]
    fn transparent_pages_of_shared_memory_are_a_setting_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        file(&root, "transparent_hugepage/enabled", "always [madvise] never\n");
        file(&root, "transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n");
        let thp = MemoryBacking { pages: MemoryPages::Transparent, ..MemoryBacking::default() };
        assert!(thp.check(256, false, root.path()).is_ok());
        let error = thp.check(256, true, root.path()).unwrap_err().to_string();
        assert!(error.contains("shmem_enabled") && error.contains("\"never\""), "{error}");
    }

    #[test]
    fn a_directory_must_be_one_and_have_room() {
        let root = tempfile::tempdir().unwrap();
        let backed = |dir: &Path| MemoryBacking { dir: Some(dir.to_owned()), ..MemoryBacking::default() };
        assert!(backed(root.path()).check(1, true, Path::new(MM)).is_ok());
        let full = backed(root.path()).check(u32::MAX, true, Path::new(MM)).unwrap_err();
        assert!(matches!(full, BackingError::Full { mib: u32::MAX, .. }), "{full}");
        file(&root, "file", "");
        let error = backed(&root.path().join("file")).check(1, true, Path::new(MM)).unwrap_err();
        assert!(error.to_string().contains("file_mem_backend"), "{error}");
    }

    #[test]
    fn a_vm_may_have_more_than_is_free_but_not_more_than_the_host_has() {
        let usual = MemoryBacking::default();
        assert!(usual.check_host(10 << 10, MEMINFO).is_ok(), "RAM and swap");
        let error = usual.check_host((10 << 10) + 1, MEMINFO).unwrap_err().to_string();
        assert!(error.contains("10241 MiB and this host has 8192 MiB, and 2048 MiB of swap"), "{error}");
        assert!(error.contains("`default_memory`"), "{error}");
        let file = MemoryBacking { dir: Some("/data".into()), ..MemoryBacking::default() };
        assert!(file.check_host(u32::MAX, MEMINFO).is_ok(), "it has the room of its file system");
    }

    #[test]
    fn the_usual_vm_starts_on_a_small_host_and_on_one_that_tells_nothing() {
        let small = "MemTotal:         966000 kB\nMemAvailable:     500000 kB\n";
        assert!(MemoryBacking::default().check_host(2048, small).is_ok());
        assert!(MemoryBacking::default().check_host(2049, small).is_err());
        assert!(MemoryBacking::default().check_host(u32::MAX, "").is_ok());
    }

    #[test]
    fn what_is_taken_at_the_start_must_be_free() {
        let taken = MemoryBacking { prealloc_threads: 2, ..MemoryBacking::default() };
        assert!(taken.check_host(4 << 10, MEMINFO).is_ok());
        let error = taken.check_host((4 << 10) + 1, MEMINFO).unwrap_err().to_string();
        assert!(error.contains("4096 MiB are free") && error.contains("enable_mem_prealloc"), "{error}");
        let pool = MemoryBacking { prealloc_threads: 2, ..HUGE };
        assert!(pool.check_host(5 << 10, MEMINFO).is_ok(), "the pool's pages were taken before");
    }

    #[test]
    fn memory_that_others_map_or_that_is_a_file_is_not_merged() {
        let mm = Path::new(MM);
        let merged = MemoryBacking { is_mergeable: true, ..MemoryBacking::default() };
        assert!(merged.check(256, false, mm).is_ok());
        let refused = |backing: &MemoryBacking, shared| {
            let error = backing.check(256, shared, mm).unwrap_err();
            assert!(matches!(error, BackingError::Unmergeable { .. }), "{error}");
            error.to_string()
        };
        assert!(refused(&merged, true).contains("virtiofsd (`shared_fs`)"));
        let file = MemoryBacking { dir: Some("/dev/shm".into()), ..merged };
        assert!(refused(&file, false).contains("`file_mem_backend`"));
        let huge = MemoryBacking { is_mergeable: true, ..HUGE };
        assert!(refused(&huge, false).contains("`enable_hugepages`"));
    }

    #[test]
    fn only_whole_pages_are_a_unit() {
        assert_eq!((HUGE.unit(), MemoryBacking::default().unit()), (2 << 20, 1));
    }
}
