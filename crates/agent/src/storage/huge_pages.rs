//! Huge pages of the guest: how many there are is decided while it runs, as containers come that ask for some.
//!
//! A container's pages are taken from free memory, in one piece each, when its volume is mounted, and given back when it goes: so
//! whether there are enough is known at its start.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use kata_protocol::agent::Storage;
use kata_protocol::guest::HUGE_PAGES;
use rustix::fs::{FlockOperation, flock};

use super::{Result, StorageError};

/// The file system of huge pages.
pub(super) const HUGETLBFS: &str = "hugetlbfs";
/// The kernel's pools, by the size of their pages.
const POOLS: &str = "/sys/kernel/mm/hugepages";
/// What the guest has of memory.
const MEMORY: &str = "/proc/meminfo";
/// How many pages a pool has, surplus ones among them; writing means how many it has besides those.
const COUNT: &str = "nr_hugepages";
/// How many of them are still in use and go when they are not: those of files that a container has left in the pod's volume.
const SURPLUS: &str = "surplus_hugepages";

/// What the kernel could have for pages without taking the last, in bytes. It is not asked for more: that would empty the guest, up
/// to a panic ("System is deadlocked on memory"), before it said how many it had.
const LEFT: u64 = 32 << 20;

/// Suffixes of sizes: the kernel's, upstream's and Kubernetes'.
const UNITS: [(&str, u64); 10] = [
    ("kB", 1 << 10),
    ("Ki", 1 << 10),
    ("k", 1 << 10),
    ("K", 1 << 10),
    ("Mi", 1 << 20),
    ("M", 1 << 20),
    ("m", 1 << 20),
    ("Gi", 1 << 30),
    ("G", 1 << 30),
    ("g", 1 << 30),
];

/// Pages that were taken for a container.
#[derive(Debug)]
pub(super) struct Reserved {
    pool: PathBuf,
    pages: u64,
}

/// Takes the pages that a storage asks for, if it is one of huge pages.
pub(super) fn reserve(storage: &Storage) -> Result<Option<Reserved>> {
    if storage.fstype != HUGETLBFS {
        return Ok(None);
    }
    let page = page_size(storage)?;
    let own =
        storage.driver_options.iter().find_map(|option| option.strip_prefix(HUGE_PAGES)?.strip_prefix('='));
    let Some(bytes) = own.or_else(|| value(storage, "size=")) else { return Ok(None) };
    let bytes = size(bytes).ok_or_else(|| StorageError::Option { option: bytes.to_owned() })?;
    take(Path::new(POOLS), spare, (page, bytes.div_ceil(page))).map(Some)
}

/// Of a storage that the sandbox holds for its containers: they take the pages, not the sandbox.
pub(crate) fn take_no_pages(storage: &mut Storage) {
    if storage.fstype == HUGETLBFS {
        let is_other =
            |option: &String| option.strip_prefix(HUGE_PAGES).is_none_or(|rest| !rest.starts_with('='));
        storage.driver_options.retain(is_other);
        storage.driver_options.push(format!("{HUGE_PAGES}=0"));
    }
}

/// What may become huge pages, in bytes: what is free or can be freed at once, but for a rest.
fn spare() -> io::Result<u64> {
    let text = fs::read_to_string(MEMORY)?;
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).and_then(|rest| {
        let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    });
    let available = available.ok_or_else(|| io::Error::other("it does not tell MemAvailable"))?;
    Ok(available.saturating_sub(LEFT))
}

/// The mount options of a storage of huge pages, in the kernel's words.
pub(super) fn options(storage: &Storage) -> Result<Vec<String>> {
    let page = page_size(storage)?;
    let others = storage.options.iter().filter(|option| !option.starts_with("pagesize="));
    let in_bytes = |option: &String| match option.strip_prefix("size=") {
        Some(text) => match size(text) {
            Some(bytes) => Ok(format!("size={bytes}")),
            None => Err(StorageError::Option { option: option.clone() }),
        },
        None => Ok(option.clone()),
    };
    std::iter::once(Ok(format!("pagesize={page}"))).chain(others.map(in_bytes)).collect()
}

impl Reserved {
    /// Gives them back. Those that are still in use go when they are not.
    pub(super) fn release(self) {
        let released = locked(&self.pool)
            .and_then(|_lock| set_count(&self.pool, reserved(&self.pool)?.saturating_sub(self.pages)));
        if let Err(error) = released {
            tracing::warn!(pool = %self.pool.display(), %error, "Huge pages are not given back");
        }
    }
}

fn take(
    pools: &Path,
    spare: impl FnOnce() -> io::Result<u64>,
    (page, pages): (u64, u64),
) -> Result<Reserved> {
    let too_few = |found| StorageError::NoHugePages { wanted: pages, found, kilobytes: page >> 10 };
    let pool = pools.join(format!("hugepages-{}kB", page >> 10));
    let failed = |source| StorageError::Pool { path: pool.clone(), source };
    if !pool.is_dir() {
        return Err(StorageError::PageSize { kilobytes: page >> 10 });
    }
    let _lock = locked(&pool).map_err(failed)?;
    let spare = spare().map_err(|source| StorageError::Pool { path: MEMORY.into(), source })?;
    // What the last container has left in use is this one's: it comes to the same files.
    let (before, surplus) = (reserved(&pool).map_err(failed)?, count(&pool, SURPLUS).map_err(failed)?);
    if pages.saturating_sub(surplus) > spare / page {
        return Err(too_few(surplus + spare / page));
    }
    let wanted = before.saturating_add(pages);
    set_count(&pool, wanted).map_err(failed)?;
    let got = reserved(&pool).map_err(failed)?;
    if got < wanted {
        set_count(&pool, before).map_err(failed)?;
        return Err(too_few(got.saturating_sub(before)));
    }
    Ok(Reserved { pool, pages })
}

/// Several containers may take pages at the same time, from the same memory whatever their size.
fn locked(pool: &Path) -> io::Result<File> {
    let folder = File::open(pool.parent().unwrap_or(pool))?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// How many pages containers have taken.
fn reserved(pool: &Path) -> io::Result<u64> {
    Ok(count(pool, COUNT)?.saturating_sub(count(pool, SURPLUS)?))
}

fn count(pool: &Path, which: &str) -> io::Result<u64> {
    fs::read_to_string(pool.join(which))?.trim().parse().map_err(io::Error::other)
}

fn set_count(pool: &Path, pages: u64) -> io::Result<()> {
    fs::write(pool.join(COUNT), pages.to_string())
}

fn page_size(storage: &Storage) -> Result<u64> {
    let text = value(storage, "pagesize=").unwrap_or("2M");
    let bytes = size(text).filter(|bytes| bytes.is_power_of_two() && *bytes >= 4096);
    bytes.ok_or_else(|| StorageError::Option { option: format!("pagesize={text}") })
}

fn value<'s>(storage: &'s Storage, name: &str) -> Option<&'s str> {
    storage.options.iter().flat_map(|option| option.split(',')).find_map(|option| option.strip_prefix(name))
}

fn size(text: &str) -> Option<u64> {
    let (digits, unit) = UNITS
        .into_iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))
        .unwrap_or((text, 1));
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of pages of 2 MiB that has as many as it is told.
    fn pools() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(root.path().join("hugepages-2048kB")).expect("made");
        fs::write(root.path().join("hugepages-2048kB/nr_hugepages"), "3\n").expect("written");
        fs::write(root.path().join("hugepages-2048kB/surplus_hugepages"), "0\n").expect("written");
        root
    }

    fn storage(options: &[&str]) -> Storage {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Storage { fstype: HUGETLBFS.to_owned(), options, ..Default::default() }
    }

    #[test]
    fn pages_are_taken_and_given_back() {
        let root = pools();
        let reserved = take(root.path(), || Ok(10 << 20), (2 << 20, 5)).expect("there is memory");
        let pool = root.path().join("hugepages-2048kB");
        assert_eq!(count(&pool, COUNT).expect("a number"), 8);
        reserved.release();
        assert_eq!(count(&pool, COUNT).expect("a number"), 3);
    }

    /// Pages that a container has left in use are the next one's: they were taken once more.
    #[test]
    fn pages_that_are_still_in_use_are_not_taken_from_memory_again() {
        let root = pools();
        let pool = root.path().join("hugepages-2048kB");
        fs::write(pool.join(SURPLUS), "2\n").expect("written");
        let too_many = take(root.path(), || Ok(4 << 20), (2 << 20, 5)).expect_err("four at most").to_string();
        assert!(too_many.contains("4 of 5 huge pages"), "{too_many}");
        // The kernel makes the surplus ones usual ones; this pool does not.
        take(root.path(), || Ok(4 << 20), (2 << 20, 4)).expect_err("they stay surplus");
        assert_eq!(count(&pool, COUNT).expect("a number"), 1, "as many as were reserved");
    }

    /// The kernel took all memory for them first, and could panic.
    #[test]
    fn more_pages_than_there_is_memory_for_are_not_asked_for() {
        let root = pools();
        let error = take(root.path(), || Ok(9 << 20), (2 << 20, 5)).expect_err("too many").to_string();
        assert!(error.contains("4 of 5 huge pages of 2048 kB"), "{error}");
        assert_eq!(count(&root.path().join("hugepages-2048kB"), COUNT).expect("a number"), 3);
    }

    /// A shared volume with a size of its own took its pages twice.
    #[test]
    fn what_the_sandbox_holds_takes_no_pages() {
        let mut shared = storage(&["pagesize=2M", "size=4Mi"]);
        shared.driver_options = vec![format!("{HUGE_PAGES}=4194304"), "other=1".to_owned()];
        take_no_pages(&mut shared);
        assert_eq!(shared.driver_options, ["other=1".to_owned(), format!("{HUGE_PAGES}=0")]);
        assert_eq!(reserve(&shared).expect("none are asked for").map(|reserved| reserved.pages), Some(0));
    }

    #[test]
    fn the_kernel_tells_what_it_has() {
        assert!(spare().expect("it tells") < 1 << 50);
    }

    #[test]
    fn a_size_that_the_cpu_does_not_have_is_named() {
        let error = take(pools().path(), || Ok(1 << 30), (1 << 30, 1)).expect_err("no such pool").to_string();
        assert!(error.contains("1048576 kB"), "{error}");
    }

    #[test]
    fn sizes_are_understood_in_all_spellings() {
        for text in ["2M", "2Mi", "2048kB", "2048k", "2097152"] {
            let told =
                options(&storage(&[&format!("pagesize={text}"), "size=4Mi", "mode=0777"])).expect("sizes");
            assert_eq!(told, ["pagesize=2097152", "size=4194304", "mode=0777"], "{text}");
        }
        for wrong in ["pagesize=", "pagesize=3M", "pagesize=x", "pagesize=2MB2", "size=-1"] {
            assert!(options(&storage(&[wrong])).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_memory_asks_for_no_pages() {
        assert!(
            reserve(&Storage { fstype: "tmpfs".into(), ..Default::default() }).expect("nothing").is_none()
        );
    }
}
