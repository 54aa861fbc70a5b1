//! Keys of `[hypervisor.qemu]` about what memory is made of, and about swap.

use super::{Kind, Refusal, Row, Table, set};
use crate::numa;
use crate::value::Fixed;

const fn row(key: &'static str, kind: Kind, default: Fixed) -> Row {
    Row::new(Table::Hypervisor, key, kind, default)
}

pub(super) static ROWS: &[Row] = &[
    row("enable_mem_prealloc", Kind::Bool, Fixed::Bool(false))
        .does("Take all of a VM's memory from the host before its guest starts.", |c, v| {
            set(&mut c.hypervisor.memory.prealloc, v.flag())
        })
        .annotation("hypervisor.enable_mem_prealloc"),
    row("enable_hugepages", Kind::Bool, Fixed::Bool(false))
        .does("Make a VM's memory of huge pages of the host.", |c, v| {
            set(&mut c.hypervisor.memory.has_huge_pages, v.flag())
        })
        .annotation("hypervisor.enable_hugepages"),
    row("hugepage_type", Kind::OneOf(&["hugetlbfs", "thp"]), Fixed::Text("hugetlbfs"))
        .does("Which huge pages: of the host's pools, or transparent ones.", |c, v| {
            set(&mut c.hypervisor.memory.are_transparent, v.text() == "thp")
        })
        .annotation("hypervisor.hugepage_type"),
    row("hugepage_size", Kind::OneOf(&["2Mi", "1Gi"]), Fixed::Text("2Mi"))
        .does("The size of the huge pages of hugetlbfs.", |c, v| {
            set(&mut c.hypervisor.memory.page_mib, if v.text() == "1Gi" { 1024 } else { 2 })
        })
        .ours(),
    row("file_mem_backend", Kind::OptionalPath, Fixed::Text(""))
        .does("A directory whose file system a VM's memory is in; empty: none.", |c, v| {
            let dir = Some(v.text()).filter(|text| !text.is_empty());
            set(&mut c.hypervisor.memory.dir, dir.map(Into::into))
        })
        .checked_annotation("hypervisor.file_mem_backend", "valid_file_mem_backends"),
    row("valid_file_mem_backends", Kind::List, Fixed::List(&[]))
        .does("Globs that the annotation `file_mem_backend` must match; empty forbids it.", |c, v| {
            set(&mut c.hypervisor.memory.valid_dirs, v.list().to_vec())
        }),
    row("enable_ksm", Kind::Bool, Fixed::Bool(false))
        .does("The host may merge equal pages of several VMs; other pods can then find out what a pod has in memory.", |c, v| {
            set(&mut c.hypervisor.memory.is_mergeable, v.flag())
        })
        .ours(),
    row("enable_guest_swap", Kind::Bool, Fixed::Bool(false))
        .does("Containers that ask for swap have it, in a file of the host.", |c, v| {
            set(&mut c.hypervisor.memory.has_swap, v.flag())
        })
        .annotation("hypervisor.enable_guest_swap"),
    row("guest_swap_path", Kind::Path, Fixed::Text("/var/tmp"))
        .does("The directory for the files that guests swap to.", |c, v| {
            set(&mut c.hypervisor.memory.swap_dir, v.text().into())
        }),
    row("enable_numa", Kind::Bool, Fixed::Bool(false))
        .does("The guest has NUMA nodes, each of nodes of the host.", |c, v| {
            set(&mut c.hypervisor.memory.numa.is_on, v.flag())
        }),
    row("numa_mapping", Kind::Words, Fixed::List(&[]))
        .does("The host's nodes behind each of the guest's; empty: those that the pod may use.", |c, v| {
            let mapping = numa::parse(v.list()).map_err(Refusal::Invalid)?;
            set(&mut c.hypervisor.memory.numa.mapping, mapping)
        })
        .annotation("hypervisor.numa_mapping"),
];
