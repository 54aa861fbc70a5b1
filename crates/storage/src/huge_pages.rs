//! Huge pages of the guest in place of the host's: an `emptyDir` with `medium: HugePages`, a bind of another hugetlbfs, or a mount of
//! the type `hugetlbfs`.
//!
//! What a container may use is what its limit for pages of that size (`hugepageLimits`) says; so many the guest has ready from its
//! start on. The volume itself has no size unless its mount says one, as on the host.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::fstatfs;

use crate::memory::{HUGETLBFS, Part, empty_dir_of, flags, mode, path_in_file_system, volume_of};
use crate::mount::{metadata, open_path};
use crate::share::ContainerFiles;
use crate::volumes::VolumeError;

/// The name of those that have none.
const NAME: &str = "hugepages";
/// The size of pages where a mount does not say it.
const DEFAULT_PAGE: &str = "2M";
/// Units of sizes.
const UNITS: [(char, u64); 3] = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30)];

/// A file system of huge pages that must be in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// Its mount point in the guest.
    pub guest_path: PathBuf,
    /// The size of its pages in bytes.
    pub page: u64,
    /// What the container may use of such pages in bytes, which the guest must have.
    pub reserved: u64,
    /// Its other mount options.
    pub options: Vec<String>,
    /// It stays until the sandbox ends, although no container may have it.
    pub stays: bool,
    /// The directory in it that is bound in place of the whole.
    pub part: Option<Part>,
}

impl HugePages {
    /// As one more mount of a container that has these: its limit is for all of them together.
    pub(crate) fn beside(mut self, others: &[Self]) -> Self {
        let is_by_limit = |pages: &Self| !pages.options.iter().any(|option| option.starts_with("size="));
        let has_taken = |other: &Self| other.page == self.page && other.reserved > 0 && is_by_limit(other);
        if is_by_limit(&self) && others.iter().any(has_taken) {
            self.reserved = 0;
        }
        self
    }
}

/// The limits of huge pages of a container: bytes by the size of a page. What is as good as no limit is left out.
#[must_use]
pub fn limits(spec: &Spec) -> BTreeMap<u64, u64> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limits = resources.and_then(|resources| resources.hugepage_limits().as_ref()).into_iter().flatten();
    limits
        .filter_map(|limit| {
            let bytes = u64::try_from(limit.limit()).ok().filter(|bytes| *bytes < 1 << 62)?;
            Some((size(limit.page_size())?, bytes))
        })
        .collect()
}

/// `2MB` of a limit, `2M` and `2Mi` of a mount.
fn size(text: &str) -> Option<u64> {
    let text = text.trim_end_matches('B').trim_end_matches('i');
    let unit = UNITS.into_iter().find(|(name, _)| text.to_ascii_uppercase().ends_with(*name));
    let (digits, unit) = unit.map_or((text, 1), |(_, unit)| (&text[..text.len() - 1], unit));
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(unit)
}

/// Whether `fd` is in a file system of huge pages.
fn page_of(fd: &OwnedFd) -> Option<u64> {
    let found = fstatfs(fd).ok().filter(|found| found.f_type == HUGETLBFS)?;
    u64::try_from(found.f_bsize).ok()
}

impl ContainerFiles {
    /// What this container may use of huge pages: see [`limits`].
    pub fn set_huge_page_limits(&mut self, limits: BTreeMap<u64, u64>) {
        self.huge_pages = limits;
    }

    /// The huge pages in place of what `mount` binds, `source`, opened as `fd`, and what of them is bound; `None` if that has none.
    pub(crate) fn bound_huge_pages(
        &self,
        mount: &Mount,
        source: &Path,
        fd: &OwnedFd,
    ) -> Result<Option<(HugePages, PathBuf)>, VolumeError> {
        let Some(page) = page_of(fd) else { return Ok(None) };
        let reserved = self.reserved(page, source, mount)?;
        let failed = |error| VolumeError::Source {
            from: source.to_owned(),
            destination: mount.destination().clone(),
            source: error,
        };
        let inner = metadata(fd).map_err(failed)?;
        let (dir, part) = match empty_dir_of(source).filter(|dir| volume_of(dir).is_some()) {
            Some(dir) => {
                let part = Part {
                    path: path_in_file_system(fd).unwrap_or_default(),
                    mode: mode(&inner),
                    group: inner.gid(),
                };
                (dir, Some(part))
            }
            None => (source.to_owned(), None),
        };
        let whole = open_path(&dir).map_err(failed)?;
        let outer = metadata(&whole).map_err(failed)?;
        let owner = [
            format!("mode={:o}", mode(&outer)),
            format!("uid={}", outer.uid()),
            format!("gid={}", outer.gid()),
        ];
        let options = flags(&whole).into_iter().chain(owner).collect();
        let guest_path = self.memories.volume(&dir, volume_of(&dir).unwrap_or(NAME));
        let bound = part.as_ref().map_or_else(|| guest_path.clone(), |part| guest_path.join(&part.path));
        let stays = volume_of(&dir).is_some();
        Ok(Some((HugePages { guest_path, page, reserved, options, stays, part }, bound)))
    }

    /// The huge pages that `mount`, of their type, is; it becomes a bind mount of them.
    pub(crate) fn own_huge_pages(&self, mount: &Mount) -> Result<HugePages, VolumeError> {
        let of_page = |option: &String| option.strip_prefix("pagesize=").map(str::to_owned);
        let given = mount.options().iter().flatten();
        let text = given.clone().find_map(of_page).unwrap_or_else(|| DEFAULT_PAGE.to_owned());
        let from = mount.source().clone().unwrap_or_default();
        let page = size(&text).ok_or_else(|| VolumeError::HugePages {
            from: from.clone(),
            destination: mount.destination().clone(),
        })?;
        let room = given.clone().find_map(|option| size(option.strip_prefix("size=")?));
        let reserved = match room {
            Some(room) => room,
            None => self.reserved(page, &from, mount)?,
        };
        let options = given.filter(|option| of_page(option).is_none()).cloned().collect();
        let place =
            Path::new(&*self.name()).join(mount.destination().strip_prefix("/").unwrap_or(Path::new("")));
        let guest_path = self.memories.volume(&place, NAME);
        Ok(HugePages { guest_path, page, reserved, options, stays: false, part: None })
    }

    fn reserved(&self, page: u64, from: &Path, mount: &Mount) -> Result<u64, VolumeError> {
        self.huge_pages.get(&page).copied().ok_or_else(|| VolumeError::HugePages {
            from: from.to_owned(),
            destination: mount.destination().clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{limits, size};

    #[test]
    fn limits_are_told_by_the_size_of_pages() {
        let hugepages = json!([
            { "pageSize": "2MB", "limit": 4_194_304 },
            { "pageSize": "1GB", "limit": 9_223_372_036_854_771_712_i64 },
            { "pageSize": "64KB", "limit": 0 },
        ]);
        let spec =
            json!({ "ociVersion": "1.1.0", "linux": { "resources": { "hugepageLimits": hugepages } } });
        let spec = serde_json::from_value(spec).unwrap();
        assert_eq!(limits(&spec), [(64 << 10, 0), (2 << 20, 4 << 20)].into());
    }

    #[test]
    fn sizes_of_pages_have_units() {
        for (text, bytes) in
            [("2MB", 2 << 20), ("2M", 2 << 20), ("2Mi", 2 << 20), ("1GB", 1 << 30), ("4096", 4096)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "M", "2X", "-2M", "2.5M"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
