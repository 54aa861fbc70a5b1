//! QEMU's memory back ends: for what the guest has at boot, and for what is added.

use serde_json::{Map, Value, json};

use crate::backing::{MemoryBacking, MemoryPages};

/// When memory is taken from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// As the plan says.
    AsPlanned,
    /// By the device, block by block: nothing is promised before.
    ByDevice,
}

/// The properties of a memory back end. `shared`: other processes map it, too. `host_nodes`: what it is bound to, if it is.
pub(super) fn object(
    backing: &MemoryBacking,
    shared: bool,
    (id, bytes): (&str, u64),
    taken: Taken,
    host_nodes: &[u32],
) -> Map<String, Value> {
    let mut object = Map::new();
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    set("id", json!(id));
    set("size", json!(bytes));
    let kind = match (&backing.dir, backing.pages) {
        (Some(dir), _) => {
            // A directory: QEMU's file in it has no name.
            set("mem-path", json!(dir));
            "memory-backend-file"
        }
        (None, MemoryPages::Huge { kib }) => {
            set("hugetlb", json!(true));
            set("hugetlbsize", json!(kib << 10));
            "memory-backend-memfd"
        }
        (None, _) if shared => "memory-backend-memfd",
        (None, _) => "memory-backend-ram",
    };
    set("qom-type", json!(kind));
    if kind != "memory-backend-ram" {
        set("share", json!(true));
    }
    if !host_nodes.is_empty() {
        set("host-nodes", json!(host_nodes));
        set("policy", json!("bind"));
    }
    match taken {
        Taken::ByDevice => drop(set("reserve", json!(false))),
        Taken::AsPlanned if backing.prealloc_threads > 0 => {
            set("prealloc", json!(true));
            set("prealloc-threads", json!(backing.prealloc_threads));
        }
        Taken::AsPlanned => {}
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(backing: &MemoryBacking, shared: bool, taken: Taken) -> String {
        Value::Object(object(backing, shared, ("mem0", 1 << 30), taken, &[])).to_string()
    }

    #[test]
    fn memory_is_bound_to_nodes_of_the_host() {
        let backing = MemoryBacking { pages: MemoryPages::Huge { kib: 2048 }, ..MemoryBacking::default() };
        let object = object(&backing, true, ("mem1", 1 << 30), Taken::AsPlanned, &[0, 2]);
        assert_eq!(
            Value::Object(object).to_string(),
            r#"{"host-nodes":[0,2],"hugetlb":true,"hugetlbsize":2097152,"id":"mem1","policy":"bind","qom-type":"memory-backend-memfd","share":true,"size":1073741824}"#
        );
    }

    #[test]
    fn memory_that_nobody_maps_has_no_file() {
        assert_eq!(
            rendered(&MemoryBacking::default(), false, Taken::AsPlanned),
            r#"{"id":"mem0","qom-type":"memory-backend-ram","size":1073741824}"#
        );
    }

    #[test]
    fn huge_pages_are_a_memfd_of_that_size() {
        let backing = MemoryBacking { pages: MemoryPages::Huge { kib: 1 << 20 }, ..MemoryBacking::default() };
        assert_eq!(
            rendered(&backing, false, Taken::AsPlanned),
            r#"{"hugetlb":true,"hugetlbsize":1073741824,"id":"mem0","qom-type":"memory-backend-memfd","share":true,"size":1073741824}"#
        );
    }

    #[test]
    fn a_directory_and_preallocation_are_said() {
        let backing = MemoryBacking {
            prealloc_threads: 4,
            dir: Some("/dev/shm/a,b".into()),
            ..MemoryBacking::default()
        };
        assert_eq!(
            rendered(&backing, false, Taken::AsPlanned),
            r#"{"id":"mem0","mem-path":"/dev/shm/a,b","prealloc":true,"prealloc-threads":4,"qom-type":"memory-backend-file","share":true,"size":1073741824}"#
        );
    }

    #[test]
    fn what_a_device_takes_block_by_block_is_not_taken_before() {
        let backing = MemoryBacking { prealloc_threads: 4, ..MemoryBacking::default() };
        assert_eq!(
            rendered(&backing, true, Taken::ByDevice),
            r#"{"id":"mem0","qom-type":"memory-backend-memfd","reserve":false,"share":true,"size":1073741824}"#
        );
    }
}
