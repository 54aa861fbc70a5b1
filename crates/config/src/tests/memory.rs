//! What memory is made of: keys that go together, and those that do not.

use super::Tree;
use crate::HugePages;

const H: &str = "io.katacontainers.config.hypervisor.";

fn tree(keys: &str) -> Tree {
    Tree::new(&format!("[hypervisor.qemu]\n{keys}\n"))
}

#[test]
fn huge_pages_are_of_2_mib_unless_another_size_is_named() {
    let of = |keys: &str| tree(keys).load().unwrap().hypervisor.memory.huge_pages();
    assert_eq!(of("hugepage_size = '1Gi'"), None);
    assert_eq!(of("enable_hugepages = true"), Some(HugePages::Pool { mib: 2 }));
    assert_eq!(of("enable_hugepages = true\nhugepage_size = '1Gi'"), Some(HugePages::Pool { mib: 1024 }));
    assert_eq!(of("enable_hugepages = true\nhugepage_type = 'thp'"), Some(HugePages::Transparent));
}

#[test]
fn the_most_memory_is_a_whole_number_of_huge_pages() {
    let of = |keys: &str| tree(keys).load().unwrap().hypervisor.default_maxmemory_mib;
    let giant = "enable_hugepages = true\nhugepage_size = '1Gi'";
    assert_eq!(of(&format!("default_maxmemory = 4000\n{giant}")), 3072);
    assert_eq!(of(&format!("default_memory = 256\ndefault_maxmemory = 512\n{giant}")), 1024);
    assert_eq!(of("default_maxmemory = 4001"), 4001);
}

#[test]
fn memory_has_one_back_end() {
    let tree = tree("enable_hugepages = true\nfile_mem_backend = '/dev/shm'");
    let text = tree.text(tree.load());
    assert!(text.contains("configuration.toml:3: `file_mem_backend`") && text.contains(":2)"), "{text}");
    let transparent = "enable_hugepages = true\nhugepage_type = 'thp'\nfile_mem_backend = '/dev/shm'";
    assert!(Tree::new(&format!("[hypervisor.qemu]\n{transparent}\n")).load().is_ok());
}

#[test]
fn only_memory_that_nobody_else_maps_is_merged() {
    let of = |keys: &str| tree(&format!("enable_ksm = true\n{keys}"));
    let merged = of("shared_fs = 'virtio-9p'").load().unwrap().hypervisor.memory.is_mergeable;
    assert!(merged);
    assert!(!tree("").load().unwrap().hypervisor.memory.is_mergeable);
    for (keys, what) in [
        ("", "`shared_fs` (default) has a daemon that maps the memory; set `shared_fs = \"virtio-9p\"`"),
        ("shared_fs = 'virtio-9p'\nenable_hugepages = true", "`enable_hugepages` ("),
        ("shared_fs = 'virtio-9p'\nfile_mem_backend = '/dev/shm'", "`file_mem_backend` ("),
    ] {
        let tree = of(keys);
        let text = tree.text(tree.load());
        assert!(text.contains("configuration.toml:2: `enable_ksm`") && text.contains(what), "{text}");
    }
}

#[test]
fn what_is_taken_for_good_is_not_given_back() {
    for keys in ["enable_mem_prealloc = true", "enable_hugepages = true"] {
        let tree = tree(&format!("reclaim_guest_freed_memory = true\n{keys}"));
        let text = tree.text(tree.load());
        assert!(text.contains(":2: `reclaim_guest_freed_memory`"), "{text}");
    }
}

#[test]
fn a_pod_names_only_directories_that_are_listed() {
    let tree = tree("enable_annotations = ['file_mem_backend']\nvalid_file_mem_backends = ['/dev/shm*']");
    let name = format!("{H}file_mem_backend");
    let memory = tree.annotated(&[(&name, "/dev/shm")]).unwrap().hypervisor.memory;
    assert_eq!(memory.dir, Some("/dev/shm".into()));
    assert!(tree.annotated(&[(&name, "/etc")]).is_err());
}

#[test]
fn a_pod_may_be_allowed_huge_pages_and_swap() {
    let tree = tree("enable_annotations = ['enable_hugepages', 'hugepage_type', 'enable_guest_swap']");
    let (pages, kind, swap) =
        (format!("{H}enable_hugepages"), format!("{H}hugepage_type"), format!("{H}enable_guest_swap"));
    let config = tree.annotated(&[(&pages, "true"), (&kind, "thp"), (&swap, "true")]).unwrap();
    let memory = config.hypervisor.memory;
    assert_eq!((memory.huge_pages(), memory.has_swap), (Some(HugePages::Transparent), true));
    assert!(tree.annotated(&[(&kind, "giant")]).is_err());
}

#[test]
fn nodes_of_the_host_are_behind_nodes_of_the_guest() {
    let numa =
        tree("enable_numa = true\nnuma_mapping = ['0-1', '2,3']").load().unwrap().hypervisor.memory.numa;
    assert_eq!((numa.is_on, numa.mapping), (true, vec![[0, 1].into(), [2, 3].into()]));
    let twice = tree("enable_numa = true\nnuma_mapping = ['0', '0']");
    let text = twice.text(twice.load());
    assert!(text.contains(":3: `numa_mapping` names node 0 of the host twice"), "{text}");
}

#[test]
fn a_mapping_without_nodes_is_refused() {
    let tree = tree("numa_mapping = ['0']");
    let text = tree.text(tree.load());
    assert!(text.contains(":2: `numa_mapping` needs `enable_numa = true`"), "{text}");
}

#[test]
fn a_pod_may_be_allowed_to_choose_nodes() {
    let tree = tree("enable_annotations = ['numa_mapping']\nenable_numa = true");
    let name = format!("{H}numa_mapping");
    let numa = tree.annotated(&[(&name, "0-1 2,3")]).unwrap().hypervisor.memory.numa;
    assert_eq!(numa.mapping, [[0, 1].into(), [2, 3].into()]);
    assert!(tree.annotated(&[(&name, "0-1,1")]).is_err());
}
