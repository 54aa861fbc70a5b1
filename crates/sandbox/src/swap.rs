//! Swap of containers: what each may have, and what the VM has for all of them.
//!
//! A container says by annotations or by its limits how much it may swap. Its cgroup in the guest holds it to that, and one
//! that says nothing swaps nothing. The VM gets a disk to swap to when its containers may swap more than it has; disks stay
//! as long as the VM.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kata_vmm::DiskAddress;
use oci_spec::runtime::{LinuxMemory, LinuxResources, Spec};

use crate::ContainerId;

/// How readily the guest swaps, 0 to 200: a setting of the whole guest.
const SWAPPINESS: &str = "io.katacontainers.container.resource.swappiness";
/// The most memory and swap together.
const SWAP_IN_BYTES: &str = "io.katacontainers.container.resource.swap_in_bytes";
/// The guest's setting.
const SYSCTL: &str = "vm.swappiness";
/// The most that the kernel takes there.
const MOST_SWAPPINESS: u64 = 200;

/// What a container says about swap cannot be done.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BadSwap {
    /// There is none.
    #[error(
        "The annotation {annotation} asks for swap, and guests have none: set `enable_guest_swap = true` in the \
         configuration's [hypervisor.qemu], or remove the annotation"
    )]
    Off { annotation: &'static str },
    /// It is no number, or too large.
    #[error("The annotation {annotation} must be {expected}, not {text:?}")]
    Number { annotation: &'static str, expected: &'static str, text: String },
    /// Memory and swap together are less than memory.
    #[error(
        "The annotation {SWAP_IN_BYTES} counts memory and swap: {total} is less than the memory limit of {limit}"
    )]
    Less { total: u64, limit: u64 },
}

/// A disk to swap to that the guest does not know yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwapDisk {
    /// The VMM's name for it.
    pub(crate) id: String,
    pub(crate) address: DiskAddress,
    pub(crate) bytes: u64,
}

/// The swap of one VM.
#[derive(Debug, Default)]
pub(crate) struct Swap(Mutex<Amounts>);

#[derive(Debug, Default)]
struct Amounts {
    /// How many disks there have been.
    made: u64,
    /// Bytes that the guest can swap to.
    present: u64,
    /// Bytes that each container may swap.
    wanted: HashMap<ContainerId, u64>,
    /// Disks that the guest has not been told of, by the container that they are for.
    untold: HashMap<ContainerId, String>,
}

impl Swap {
    /// A container may swap so much. The name and size of the disk that the VM needs besides what it has.
    pub(crate) fn want(&self, container: &ContainerId, bytes: u64) -> Option<(String, u64)> {
        let mut amounts = self.amounts();
        amounts.wanted.insert(container.clone(), bytes);
        let wanted = amounts.wanted.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let missing = wanted.checked_sub(amounts.present).filter(|missing| *missing > 0)?;
        amounts.made += 1;
        Some((format!("swap-{}", amounts.made), missing))
    }

    /// The VM has this disk, for this container.
    pub(crate) fn plugged(&self, container: &ContainerId, disk: &SwapDisk) {
        self.amounts().untold.insert(container.clone(), disk.id.clone());
    }

    /// The guest is told of this disk.
    pub(crate) fn offered(&self, disk: &SwapDisk) {
        self.amounts().untold.retain(|_, id| *id != disk.id);
    }

    /// The guest swaps to so much more.
    pub(crate) fn add(&self, bytes: u64) {
        let mut amounts = self.amounts();
        amounts.present = amounts.present.saturating_add(bytes);
    }

    /// A container has gone. The disk that the guest has not been told of for its sake.
    pub(crate) fn forget(&self, container: &ContainerId) -> Option<String> {
        let mut amounts = self.amounts();
        amounts.wanted.remove(container);
        amounts.untold.remove(container)
    }

    fn amounts(&self) -> std::sync::MutexGuard<'_, Amounts> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes into a container's description what it may swap; how much that is. `default_mib` is for one that has no limit of
/// memory and says only how readily it swaps.
pub(crate) fn limit(spec: &mut Spec, is_on: bool, default_mib: u32) -> Result<u64, BadSwap> {
    let annotation = |name: &str| spec.annotations().as_ref().and_then(|all| all.get(name)).cloned();
    let (readiness, total) = (annotation(SWAPPINESS), annotation(SWAP_IN_BYTES));
    if !is_on {
        let given = [(SWAPPINESS, &readiness), (SWAP_IN_BYTES, &total)];
        let asks = given.into_iter().find(|(_, given)| given.is_some());
        return asks.map_or(Ok(0), |(annotation, _)| Err(BadSwap::Off { annotation }));
    }
    let memory = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()?.memory().as_ref());
    let positive = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let limit = positive(memory.and_then(LinuxMemory::limit)).unwrap_or(0);
    let given = memory.and_then(LinuxMemory::swap);
    let readiness = match readiness {
        Some(text) => Some(number(SWAPPINESS, text, MOST_SWAPPINESS, "a number from 0 to 200")?),
        None => memory.and_then(LinuxMemory::swappiness),
    };
    let total = match total {
        Some(text) => Some(number(SWAP_IN_BYTES, text, i64::MAX.unsigned_abs(), "a number of bytes")?),
        None => positive(given).filter(|total| *total > 0),
    };
    let bytes = match (total, readiness) {
        (Some(total), _) => total.checked_sub(limit).ok_or(BadSwap::Less { total, limit })?,
        (None, Some(_)) if limit > 0 => limit,
        (None, Some(1..)) => u64::from(default_mib) << 20,
        (None, Some(0) | None) => 0,
    };
    write(spec, (limit, bytes), readiness);
    Ok(bytes)
}

fn number(annotation: &'static str, text: String, most: u64, expected: &'static str) -> Result<u64, BadSwap> {
    let number = text.trim().parse().ok().filter(|number| *number <= most);
    number.ok_or(BadSwap::Number { annotation, expected, text })
}

fn write(spec: &mut Spec, (limit, bytes): (u64, u64), readiness: Option<u64>) {
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut resources = linux.resources().clone().unwrap_or_default();
    match bytes {
        0 => none(&mut resources),
        bytes => {
            let mut memory = resources.memory().unwrap_or_default();
            let total = i64::try_from(limit.saturating_add(bytes)).unwrap_or(i64::MAX);
            memory.set_swap(Some(total));
            resources.set_memory(Some(memory));
        }
    }
    linux.set_resources(Some(resources));
    if let Some(readiness) = readiness {
        let mut settings = linux.sysctl().clone().unwrap_or_default();
        settings.entry(SYSCTL.to_owned()).or_insert_with(|| readiness.to_string());
        linux.set_sysctl(Some(settings));
    }
    spec.set_linux(Some(linux));
}

/// Others' swap is not its own, even without a limit of memory.
fn none(resources: &mut LinuxResources) {
    let mut unified = resources.unified().clone().unwrap_or_default();
    unified.entry("memory.swap.max".to_owned()).or_insert_with(|| "0".to_owned());
    resources.set_unified(Some(unified));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MIB: i64 = 1 << 20;

    fn spec(memory: &Value, annotations: &[(&str, &str)]) -> Spec {
        let annotations: HashMap<_, _> = annotations.iter().copied().collect();
        let spec = json!({ "ociVersion": "1.1.0", "annotations": annotations,
            "linux": { "resources": { "memory": memory } } });
        serde_json::from_value(spec).unwrap()
    }

    /// How much it may swap, and what is written for its memory.
    fn limited(memory: &Value, annotations: &[(&str, &str)]) -> (u64, Option<i64>, Option<String>) {
        let mut spec = spec(memory, annotations);
        let bytes = limit(&mut spec, true, 2048).unwrap();
        let resources = spec.linux().clone().unwrap().resources().clone().unwrap();
        let none = resources.unified().clone().and_then(|unified| unified.get("memory.swap.max").cloned());
        (bytes >> 20, resources.memory().and_then(|memory| memory.swap()).map(|swap| swap / MIB), none)
    }

    #[test]
    fn a_container_that_says_nothing_swaps_nothing() {
        let nothing = (0, None, Some("0".to_owned()));
        assert_eq!(limited(&json!({}), &[]), nothing);
        assert_eq!(limited(&json!({ "limit": 64 * MIB }), &[]), nothing);
        assert_eq!(limited(&json!({ "limit": 64 * MIB, "swap": -1 }), &[]).0, 0);
        let equal = json!({ "limit": 64 * MIB, "swap": 64 * MIB });
        assert_eq!(limited(&equal, &[]).2, Some("0".to_owned()));
    }

    #[test]
    fn the_annotation_counts_memory_and_swap() {
        let total = (192 * MIB).to_string();
        let asked = [(SWAP_IN_BYTES, total.as_str())];
        assert_eq!(limited(&json!({ "limit": 64 * MIB }), &asked), (128, Some(192), None));
        assert_eq!(limited(&json!({}), &asked), (192, Some(192), None));
        let both = json!({ "limit": 64 * MIB, "swap": 65 * MIB });
        assert_eq!(limited(&both, &asked).0, 128, "the annotation wins");
    }

    #[test]
    fn a_managers_limit_of_swap_is_a_wish() {
        let memory = json!({ "limit": 64 * MIB, "swap": 128 * MIB });
        assert_eq!(limited(&memory, &[]), (64, Some(128), None));
    }

    #[test]
    fn who_only_says_how_readily_swaps_as_much_as_it_has_memory() {
        assert_eq!(limited(&json!({ "limit": 64 * MIB }), &[(SWAPPINESS, "60")]).0, 64);
        assert_eq!(limited(&json!({}), &[(SWAPPINESS, "60")]).0, 2048);
        assert_eq!(limited(&json!({}), &[(SWAPPINESS, "0")]).0, 0);
    }

    #[test]
    fn how_readily_is_a_setting_of_the_guest() {
        let mut spec = spec(&json!({}), &[(SWAPPINESS, "60"), (SWAP_IN_BYTES, "4096")]);
        limit(&mut spec, true, 2048).unwrap();
        let settings = spec.linux().clone().unwrap().sysctl().clone().unwrap();
        assert_eq!(settings[SYSCTL], "60");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |memory: Value, annotations: &[(&str, &str)]| {
            limit(&mut spec(&memory, annotations), true, 2048).unwrap_err().to_string()
        };
        assert!(refused(json!({}), &[(SWAPPINESS, "201")]).contains("0 to 200"));
        assert!(refused(json!({}), &[(SWAP_IN_BYTES, "1G")]).contains("\"1G\""));
        assert!(refused(json!({ "limit": 64 * MIB }), &[(SWAP_IN_BYTES, "4096")]).contains("less than"));
    }

    #[test]
    fn asking_where_there_is_none_is_an_error_and_limits_are_not() {
        let mut asks = spec(&json!({}), &[(SWAPPINESS, "60")]);
        assert_eq!(limit(&mut asks, false, 2048), Err(BadSwap::Off { annotation: SWAPPINESS }));
        let before = spec(&json!({ "limit": 64 * MIB, "swap": 128 * MIB }), &[]);
        let mut after = before.clone();
        assert_eq!(limit(&mut after, false, 2048), Ok(0));
        assert_eq!(after, before);
    }

    #[test]
    fn a_vm_gets_the_swap_that_is_missing() {
        let swap = Swap::default();
        let (one, two): (ContainerId, ContainerId) = ("one".parse().unwrap(), "two".parse().unwrap());
        assert_eq!(swap.want(&one, 100), Some(("swap-1".to_owned(), 100)));
        // The guest could not be told: there is none yet.
        assert_eq!(swap.want(&one, 100), Some(("swap-2".to_owned(), 100)));
        swap.add(100);
        assert_eq!(swap.want(&two, 50), Some(("swap-3".to_owned(), 50)));
        swap.add(50);
        swap.forget(&one);
        assert_eq!(swap.want(&one, 100), None);
        assert_eq!(swap.want(&two, 0), None);
    }

    /// Each attempt at a container that failed left its disk in the VM.
    #[test]
    fn a_disk_that_the_guest_was_not_told_of_goes_with_its_container() {
        let swap = Swap::default();
        let (one, two): (ContainerId, ContainerId) = ("one".parse().unwrap(), "two".parse().unwrap());
        let disk = |id: &str| SwapDisk { id: id.into(), address: DiskAddress::Pci("11/00".into()), bytes: 1 };
        swap.plugged(&one, &disk("swap-1"));
        swap.plugged(&two, &disk("swap-2"));
        swap.offered(&disk("swap-2"));
        assert_eq!([swap.forget(&one), swap.forget(&one)], [Some("swap-1".to_owned()), None]);
        assert_eq!(swap.forget(&two), None, "the guest may swap to it");
    }
}
