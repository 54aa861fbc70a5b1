//! `linux.resources.cpu.cpus`: CPUs of the host (cpuset(7), "List format"). The guest, which numbers its own from 0, is not
//! told of them.

use std::collections::BTreeSet;

use oci_spec::runtime::{LinuxResources, Spec};

use crate::error::{Result, SandboxError as Error};

/// CPUs of the host.
pub(crate) type Cpus = BTreeSet<u32>;

/// Kernels have no more, and a list of all numbers would be long.
const MOST: u32 = 8192;

/// The CPUs that a container's limits name.
pub(crate) fn named(resources: &LinuxResources) -> Option<&str> {
    let cpus = resources.cpu().as_ref()?.cpus().as_deref()?;
    Some(cpus).filter(|cpus| !cpus.is_empty())
}

/// Those of a description.
pub(crate) fn of_spec(spec: &Spec) -> Option<&str> {
    named(spec.linux().as_ref()?.resources().as_ref()?)
}

/// Those of them that the host has.
pub(crate) fn on_host(list: &str, online: impl FnOnce() -> Cpus) -> Result<Cpus> {
    let refused = |problem: String| Error::Cpus { list: list.to_owned(), problem };
    let wanted = parse(list)
        .ok_or_else(|| refused("is no list of CPUs; write numbers and ranges, as in \"0-3,7\"".to_owned()))?;
    let online = online();
    let there: Cpus = wanted.intersection(&online).copied().collect();
    if there.is_empty() {
        return Err(refused(format!("has none of this host's CPUs, which are {}", written(&online))));
    }
    Ok(there)
}

/// Takes the host's CPUs and memory nodes out of what the guest is told.
pub(crate) fn keep_from_guest(resources: &mut LinuxResources) {
    let Some(mut cpu) = resources.cpu().clone() else { return };
    cpu.set_cpus(None).set_mems(None);
    resources.set_cpu(Some(cpu));
}

/// The same for a description.
pub(crate) fn keep_spec_from_guest(spec: &mut Spec) {
    if let Some(resources) = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()) {
        keep_from_guest(resources);
    }
}

/// `0-2,7`.
pub(crate) fn parse(list: &str) -> Option<Cpus> {
    let mut cpus = Cpus::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last > MOST || first > last {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn written(cpus: &Cpus) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    let ranges: Vec<_> = ranges
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    ranges.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Option<Vec<u32>> {
        parse(list).map(|cpus| cpus.into_iter().collect())
    }

    #[test]
    fn the_guest_is_not_told_the_hosts_numbers() {
        let spec = serde_json::json!({ "ociVersion": "1.1.0",
            "linux": { "resources": { "cpu": { "cpus": "2-3", "mems": "1", "shares": 7 } } } });
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        assert_eq!(of_spec(&spec), Some("2-3"));
        keep_spec_from_guest(&mut spec);
        let cpu = spec.linux().clone().unwrap().resources().clone().unwrap().cpu().clone().unwrap();
        assert_eq!((cpu.cpus(), cpu.mems(), cpu.shares()), (&None, &None, Some(7)));
    }

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(read("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(read("1,1, 0\n"), Some(vec![0, 1]));
        for wrong in ["", "a", "2-1", "0-", "0-4294967295"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn cpus_that_the_host_has_not_are_left_out() {
        let online = || Cpus::from([0, 1, 2, 5]);
        assert_eq!(on_host("2-9", online).unwrap(), Cpus::from([2, 5]));
        let none = on_host("3,77", online).unwrap_err().to_string();
        assert_eq!(none, "linux.resources.cpu.cpus \"3,77\" has none of this host's CPUs, which are 0-2,5");
        let wrong = on_host("all", online).unwrap_err().to_string();
        assert!(wrong.contains("\"all\" is no list of CPUs; write"), "{wrong}");
    }
}
