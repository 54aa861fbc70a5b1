//! Keys and annotations of upstream that are not honoured yet.
//!
//! They are known so that the error can say "not yet" instead of "unknown", and so that a value which says what
//! happens today anyway is fine. A key that becomes honoured moves from here to a row of its table.
//! Source of the names: the configuration structures of upstream's Rust runtime and the TOML tags of its Go runtime.

use super::Table;
use crate::value::Fixed;

/// Keys of one table that share the value which says what happens today.
struct Known {
    table: Table,
    today: Option<Fixed>,
    keys: &'static [&'static str],
}

const fn off(table: Table, keys: &'static [&'static str]) -> Known {
    Known { table, today: Some(Fixed::Bool(false)), keys }
}

const fn on(table: Table, keys: &'static [&'static str]) -> Known {
    Known { table, today: Some(Fixed::Bool(true)), keys }
}

const fn zero(table: Table, keys: &'static [&'static str]) -> Known {
    Known { table, today: Some(Fixed::Int(0)), keys }
}

const fn empty(table: Table, keys: &'static [&'static str]) -> Known {
    Known { table, today: Some(Fixed::Text("")), keys }
}

const fn no_items(table: Table, keys: &'static [&'static str]) -> Known {
    Known { table, today: Some(Fixed::List(&[])), keys }
}

const fn word(table: Table, word: &'static str, keys: &'static [&'static str]) -> Known {
    Known { table, today: Some(Fixed::Text(word)), keys }
}

const fn number(table: Table, number: i64, keys: &'static [&'static str]) -> Known {
    Known { table, today: Some(Fixed::Int(number)), keys }
}

const fn never(table: Table, keys: &'static [&'static str]) -> Known {
    Known { table, today: None, keys }
}

#[rustfmt::skip]
static KNOWN: &[Known] = &[
    off(Table::Hypervisor, &[
        "boot_from_template", "boot_to_be_template", "confidential_guest", "enable_iommu",
        "enable_iommu_platform", "enable_iothreads", "enable_vhost_user_store",
        "guest_memory_dump_paging", "hotplug_vfio_on_root_bus",
        "rootless", "sev_snp_guest", "use_legacy_serial", "virtio_fs_is_dax",
    ]),
    on(Table::Hypervisor, &["disable_image_nvdimm", "disable_nesting_checks", "disable_selinux"]),
    zero(Table::Hypervisor, &[
        "default_bridges", "default_gpus", "disk_rate_limiter_bw_one_time_burst",
        "disk_rate_limiter_ops_one_time_burst", "guest_swap_create_threshold_secs", "guest_swap_size_percent",
        "indep_iothreads", "memory_offset", "net_rate_limiter_bw_max_rate",
        "net_rate_limiter_bw_one_time_burst", "net_rate_limiter_ops_max_rate", "net_rate_limiter_ops_one_time_burst",
        "pcie_switch_port",
        "snp_guest_policy", "vhost_user_reconnect_timeout_sec", "virtio_fs_cache_size",
    ]),
    empty(Table::Hypervisor, &[
        "ctlpath", "dbg_monitor_socket", "default_gpu_model", "device_state_path", "extra_monitor_socket",
        "firmware_volume", "guest_memory_dump_path", "hypervisor_socket",
        "image", "initdata", "jailer_path", "kernel_verity_params", "machine_accelerators", "measurement_algo",
        "memory_path", "prefetch_list_path", "remote_hypervisor_socket", "seccomp_sandbox", "seccompsandbox",
        "selinux_label", "snp_id_auth", "snp_id_block", "vhost_user_store_path",
    ]),
    no_items(Table::Hypervisor, &[
        "guest_extension_images", "pflashes", "valid_ctlpaths", "valid_jailer_paths",
        "valid_vhost_user_store_paths",
    ]),
    word(Table::Hypervisor, "no-port", &["cold_plug_vfio", "hot_plug_vfio"]),
    word(Table::Hypervisor, "qemu", &["hypervisor_name"]),
    never(Table::Hypervisor, &[
        "disable_nested_virtualization",
        "hypervisor_loglevel", "hypervisor_timeout", "log_level",
        "qgs_port", "remote_hypervisor_timeout", "rootfs_type", "rootless_user",
        "tdx_quote_generation_service_socket_port", "vm_rootfs_driver",
    ]),
    off(Table::Factory, &["enable_template"]),
    zero(Table::Factory, &["vm_cache_number"]),
    empty(Table::Factory, &["template_path", "vm_cache_endpoint"]),
    off(Table::Agent, &["visible_cdi_devices"]),
    zero(Table::Agent, &["container_pipe_size"]),
    no_items(Table::Agent, &["kernel_modules"]),
    empty(Table::Agent, &["policy"]),
    number(Table::Agent, 1024, &["server_port"]),
    number(Table::Agent, 1025, &["log_port"]),
    // Nothing is polled: the guest announces itself. Upstream's own default stands in its shipped files.
    number(Table::Agent, 10, &["dial_timeout_ms"]),
    never(Table::Agent, &[
        "cdh_api_timeout", "cdh_api_timeout_ms", "health_check_request_timeout_ms", "launch_process_timeout",
        "passfd_listener_port",
    ]),
    off(Table::MemAgent, &["enable", "mem_agent_enable"]),
    never(Table::MemAgent, &[
        "compact_disable", "compact_force_times", "compact_order", "compact_period_psi_percent_limit",
        "compact_period_secs", "compact_psi_percent_limit", "compact_sec_max", "compact_threshold", "memcg_disable",
        "memcg_eviction_psi_percent_limit", "memcg_eviction_run_aging_count_min", "memcg_period_psi_percent_limit",
        "memcg_period_secs", "memcg_swap", "memcg_swappiness_max",
    ]),
    off(Table::Runtime, &[
        "disable_guest_empty_dir", "disable_new_netns", "enable_pprof", "keep_abnormal", "use_passfd_io",
    ]),
    empty(Table::Runtime, &["dan_conf", "pod_resource_api_sock"]),
    no_items(Table::Runtime, &["shared_mounts"]),
    word(Table::Runtime, "virt_container", &["name"]),
    word(Table::Runtime, "qemu", &["hypervisor_name"]),
    word(Table::Runtime, "kata", &["agent_name"]),
    never(Table::Runtime, &[
        "kubelet_root_dir", "passfd_listener_port", "vfio_mode",
    ]),
];

/// Annotations of upstream after `io.katacontainers.config.`, whether honoured or not.
#[rustfmt::skip]
static ANNOTATIONS: &[(&str, &[&str])] = &[
    ("runtime", &[
        "agent_name", "create_container_timeout", "disable_guest_seccomp", "disable_new_netns", "enable_pprof",
        "enable_vcpus_pinning", "experimental", "experimental_force_guest_pull", "guest_selinux_label",
        "hypervisor_name", "internetworking_model", "name", "sandbox_bind_mounts", "sandbox_cgroup_only",
        "shared_mounts", "static_sandbox_resource_mgmt", "vfio_mode",
    ]),
    ("agent", &[
        "cdh_api_timeout", "cdh_api_timeout_ms", "container_pipe_size", "enable_tracing", "kernel_modules", "policy",
    ]),
    ("hypervisor", HYPERVISOR_ANNOTATIONS),
];

#[rustfmt::skip]
static HYPERVISOR_ANNOTATIONS: &[&str] = &[
    "asset_hash_type", "blk_logical_sector_size", "blk_physical_sector_size", "block_device_aio",
    "block_device_cache_direct", "block_device_cache_noflush", "block_device_cache_set", "block_device_driver",
    "block_device_num_queues", "block_device_queue_size", "cc_init_data", "cold_plug_vfio", "cpu_features",
    "default_gpu_model", "default_gpus", "default_max_vcpus", "default_memory", "default_vcpus",
    "disable_block_device_use", "disable_image_nvdimm", "disable_vhost_net", "enable_guest_swap", "enable_hugepages",
    "enable_iommu", "enable_iommu_platform", "enable_iothreads", "enable_mem_prealloc", "enable_swap",
    "enable_vhost_user_store", "enable_virtio_mem", "entropy_source", "file_mem_backend", "firmware",
    "firmware_hash", "firmware_volume", "firmware_volume_hash", "guest_hook_path", "hot_plug_vfio",
    "hotplug_vfio_on_root_bus", "hugepage_type", "hypervisor_hash", "image", "image_hash", "indep_iothreads",
    "initrd", "initrd_hash", "jailer_hash", "jailer_path", "kernel", "kernel_hash", "kernel_params",
    "kernel_verity_params", "machine_accelerators", "machine_type", "memory_offset", "memory_slots", "msize_9p",
    "network_queues", "numa_mapping", "path", "path_hash", "pcie_root_port", "pcie_switch_port",
    "prefetch_files.list", "reclaim_guest_freed_memory", "rootless", "rx_rate_limiter_max_rate", "shared_fs",
    "tx_rate_limiter_max_rate", "use_legacy_serial", "vhost_user_reconnect_timeout_sec", "vhost_user_store_path",
    "virtio_fs_cache", "virtio_fs_cache_size", "virtio_fs_daemon", "virtio_fs_extra_args",
];

/// Names of hypervisors that have a table of their own upstream.
pub(crate) const OTHER_HYPERVISORS: [&str; 6] =
    ["clh", "dragonball", "firecracker", "openvmm", "remote", "stratovirt"];

/// Looks a key up. The outer option says whether it is known, the inner one which value says what happens today.
#[must_use]
pub(crate) fn find(table: Table, key: &str) -> Option<Option<Fixed>> {
    KNOWN.iter().find(|known| known.table == table && known.keys.contains(&key)).map(|known| known.today)
}

/// All keys of a table that are known and not honoured.
pub(crate) fn keys(table: Table) -> impl Iterator<Item = &'static str> {
    KNOWN.iter().filter(move |known| known.table == table).flat_map(|known| known.keys.iter().copied())
}

/// Every annotation of upstream, with its namespace: `hypervisor.kernel`.
pub(crate) fn annotations() -> impl Iterator<Item = String> {
    ANNOTATIONS.iter().flat_map(|(space, names)| names.iter().map(move |name| format!("{space}.{name}")))
}

/// The hypervisor annotations of upstream, without their namespace: what `enable_annotations` may list.
pub(crate) fn hypervisor_annotations() -> impl Iterator<Item = &'static str> {
    HYPERVISOR_ANNOTATIONS.iter().copied()
}
