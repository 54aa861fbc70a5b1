//! What a sandbox may set, and how it is told no.

use super::{Tree, origin};
use crate::{Config, SharedFs};

const H: &str = "io.katacontainers.config.hypervisor.";

fn open(names: &str) -> Tree {
    Tree::new(&format!("[hypervisor.qemu]\nkernel_params = 'quiet a=1'\nenable_annotations = [{names}]\n"))
}

fn one(tree: &Tree, name: &str, value: &str) -> Result<Config, crate::Error> {
    tree.annotated(&[(&format!("{H}{name}"), value)])
}

#[test]
fn permitted_annotations_win_over_files() {
    let config = one(&open("'default_memory'"), "default_memory", "333").unwrap();
    assert_eq!(config.hypervisor.default_memory_mib, 333);
    let name = "annotation io.katacontainers.config.hypervisor.default_memory";
    assert_eq!(origin(&config, "hypervisor.qemu.default_memory"), name);
}

#[test]
fn kernel_parameters_are_added() {
    let config = one(&open("'kernel_params'"), "kernel_params", "b=\"x y\"").unwrap();
    assert_eq!(config.hypervisor.kernel_params.to_words(), ["quiet", "a=1", "b=\"x y\""]);
}

#[test]
fn wildcards_permit_families() {
    let tree = open("'virtio_fs_.*'");
    assert_eq!(one(&tree, "virtio_fs_cache", "never").unwrap().hypervisor.virtio_fs_cache, "never");
    let args = one(&tree, "virtio_fs_extra_args", "--a, --b=1").unwrap().hypervisor.virtio_fs_extra_args;
    assert_eq!(args, ["--a", "--b=1"]);
    assert!(one(&tree, "kernel", "/k").is_err());
}

#[test]
fn a_pod_may_be_allowed_to_share_its_files_by_9p() {
    let tree = open("'shared_fs', 'msize_9p'");
    let config =
        tree.annotated(&[(&format!("{H}shared_fs"), "virtio-9p"), (&format!("{H}msize_9p"), "8192")]);
    let vm = config.unwrap().hypervisor;
    assert_eq!((vm.shared_fs, vm.msize_9p), (SharedFs::Virtio9p, 8192));
    assert!(one(&tree, "msize_9p", "1000").is_err());
}

#[test]
fn a_pod_may_have_its_files_from_nydusd() {
    let tree = open("'shared_fs'");
    let config = one(&tree, "shared_fs", "virtio-fs-nydus").unwrap();
    assert_eq!(config.hypervisor.shared_fs, SharedFs::VirtioFsNydus);
    assert!(one(&open(""), "shared_fs", "virtio-fs-nydus").is_err());
}

#[test]
fn paths_must_be_listed_and_without_detours() {
    let tree = Tree::new(
        "[hypervisor.qemu]\nenable_annotations = ['path']\nvalid_hypervisor_paths = ['/usr/*/qemu-*']\n",
    );
    assert!(one(&tree, "path", "/usr/bin/qemu-kvm").is_ok());
    assert!(one(&tree, "path", "/usr/local/bin/qemu-kvm").is_err());
    assert!(one(&tree, "path", "/usr/../qemu-kvm").is_err());
    assert!(one(&tree, "path", "qemu-kvm").is_err());
}

#[test]
fn values_that_say_what_happens_anyway_are_fine() {
    let tree = open("'.*'");
    let same = [
        ("io.katacontainers.config.hypervisor.enable_iommu", "false"),
        ("io.katacontainers.config.hypervisor.memory_slots", "0"),
        ("io.katacontainers.config.agent.container_pipe_size", "0"),
        ("io.katacontainers.config.runtime.hypervisor_name", "qemu"),
        ("io.katacontainers.pkg.oci.container_type", "pod_sandbox"),
        ("io.kubernetes.cri.container-type", "sandbox"),
    ];
    assert!(tree.annotated(&same).is_ok());
}

#[test]
fn runtime_annotations_need_no_permission() {
    let given = [
        ("io.katacontainers.config.runtime.create_container_timeout", "99"),
        ("io.katacontainers.config.runtime.disable_guest_seccomp", "true"),
    ];
    let config = open("").annotated(&given).unwrap();
    assert_eq!(config.agent.create_container_timeout.as_secs(), 99);
    assert!(config.runtime.disable_guest_seccomp);
}

#[test]
fn refusals() {
    let tree = open("'default_vcpus', 'default_memory', 'path', 'enable_iommu'");
    let wrong = tree.annotated(&[
        ("io.katacontainers.config.agent.kernel_modules", "e1000e"),
        ("io.katacontainers.config.hypervisor.default_memory", "much"),
        ("io.katacontainers.config.hypervisor.default_vcpus", "64"),
        ("io.katacontainers.config.hypervisor.default_vcpu", "1"),
        ("io.katacontainers.config.hypervisor.enable_iommu", "true"),
        ("io.katacontainers.config.hypervisor.kernel", "/tmp/k"),
        ("io.katacontainers.config.hypervisor.kernel_hash", "abc"),
        ("io.katacontainers.config.hypervisor.path", "/tmp/qemu"),
        ("io.katacontainers.config.bananas", "1"),
    ]);
    insta::assert_snapshot!(tree.text(wrong));
}

#[test]
fn a_pod_may_say_that_its_vm_is_not_resized() {
    let name = "io.katacontainers.config.runtime.static_sandbox_resource_mgmt";
    let config = Tree::new("").annotated(&[(name, "true")]).unwrap();
    assert!(config.runtime.static_sandbox_resource_mgmt);
}

#[test]
fn a_pod_may_say_what_of_it_is_in_its_cgroup() {
    let name = "io.katacontainers.config.runtime.sandbox_cgroup_only";
    assert!(Tree::new("").annotated(&[]).unwrap().runtime.sandbox_cgroup_only);
    assert!(!Tree::new("").annotated(&[(name, "false")]).unwrap().runtime.sandbox_cgroup_only);
}

#[test]
fn the_most_vcpus_are_the_administrators_to_permit() {
    let name = "default_max_vcpus";
    let refused = one(&Tree::new(""), name, "2").unwrap_err().to_string();
    assert!(refused.contains("Not permitted"), "{refused}");
    assert_eq!(one(&open("'default_max_vcpus'"), name, "2").unwrap().hypervisor.default_maxvcpus, 2);
}
