//! Defaults, base file, drop-ins: what wins, and what is remembered about it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Tree, origin};
use crate::{
    Accelerator, BlockAio, BlockDevices, BlockDriver, Config, EmptyDirMode, LogLevel, Placement,
    SandboxSizing, SectorSize, TEMPLATE, render_template,
};

#[test]
fn the_shipped_file_says_the_defaults() {
    let shipped = Tree::new(&render_template(&Placement::default())).load().unwrap();
    let built_in = Config::built_in(4);
    assert_eq!(shipped.hypervisor, built_in.hypervisor);
    assert_eq!(shipped.agent, built_in.agent);
    assert_eq!(shipped.runtime, built_in.runtime);
    let plain = TEMPLATE.lines().filter(|line| !line.starts_with('#') && line.contains('@'));
    assert_eq!(plain.count(), 6, "every placeholder is filled by render_template");
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = Tree::new("").load().unwrap();
    assert_eq!(config.hypervisor, Config::built_in(4).hypervisor);
    assert_eq!(config.hypervisor.default_memory_mib, 2048);
    assert_eq!(config.hypervisor.accelerator, Accelerator::Auto);
    assert_eq!(origin(&config, "hypervisor.qemu.path"), "default");
}

#[test]
fn a_value_knows_its_line() {
    let tree = Tree::new("# a comment\n[hypervisor.qemu]\n\ndefault_memory = 512\n");
    let config = tree.load().unwrap();
    assert_eq!(config.hypervisor.default_memory_mib, 512);
    let expected = format!("{}:4", tree.path().display());
    assert_eq!(origin(&config, "hypervisor.qemu.default_memory"), expected);
}

#[test]
fn drop_ins_are_read_in_alphabetical_order() {
    let tree = Tree::new("[hypervisor.qemu]\ndefault_memory = 100\n")
        .with("config.d/20-that.toml", "[hypervisor.qemu]\ndefault_memory = 300\n")
        .with("config.d/10-this.toml", "[hypervisor.qemu]\ndefault_memory = 200\nkernel = '/k'\n")
        .with("config.d/.30-hidden.toml", "[hypervisor.qemu]\ndefault_memory = 400\n")
        .with("config.d/40-other.conf", "not toml");
    let config = tree.load().unwrap();
    assert_eq!(config.hypervisor.default_memory_mib, 300);
    assert!(origin(&config, "hypervisor.qemu.default_memory").ends_with("config.d/20-that.toml:2"));
    assert!(origin(&config, "hypervisor.qemu.kernel").ends_with("config.d/10-this.toml:3"));
}

#[test]
fn keys_about_block_devices_become_settings_of_disks() {
    let given = "[hypervisor.qemu]\nblock_device_driver = 'virtio-scsi'\nblock_device_aio = 'native'\n\
                 block_device_cache_set = true\nblock_device_cache_direct = true\n\
                 block_device_physical_sector_size = 4096\nnum_queues = 4\nqueue_size = 128\n\
                 disk_rate_limiter_bw_max_rate = 80\ndisk_rate_limiter_ops_max_rate = 9\n";
    let config = Tree::new(given).load().unwrap();
    let expected = BlockDevices {
        ports: 0,
        disabled: false,
        driver: BlockDriver::VirtioScsi,
        aio: BlockAio::Native,
        cache_direct: true,
        cache_no_flush: false,
        sector_size: Some(SectorSize { logical: 512, physical: 4096 }),
        queues: 4,
        queue_size: 128,
        bytes_per_second: 10,
        ops_per_second: 9,
    };
    assert_eq!(config.hypervisor.block_devices, expected);
}

#[test]
fn vcpus_are_rounded_up_and_bounded_by_the_host() {
    for (given, boot, most) in
        [("1.5", 2, 4), ("0", 1, 4), ("-1", 4, 4), ("3", 3, 4), ("8", 8, 8), ("0.2", 1, 4)]
    {
        let config = Tree::new(&format!("[hypervisor.qemu]\ndefault_vcpus = {given}\n")).load().unwrap();
        assert_eq!(
            (config.hypervisor.default_vcpus, config.hypervisor.default_maxvcpus),
            (boot, most),
            "{given}"
        );
    }
    let config = Tree::new("[hypervisor.qemu]\ndefault_vcpus = 1.5\n").load().unwrap();
    let from = origin(&config, "hypervisor.qemu.default_vcpus");
    assert!(from.starts_with("derived: 1.5 (") && from.ends_with(":2) on a host with 4 CPUs"), "{from}");
}

#[test]
fn memory_is_bounded_by_the_host_unless_the_default_is_more() {
    for (given, most) in [
        ("", 16_384),
        ("default_maxmemory = 0\n", 16_384),
        ("default_memory = 20000\n", 20_000),
        ("default_maxmemory = 3000\n", 3000),
        ("default_maxmemory = 90000\n", 90_000),
    ] {
        let config = Tree::new(&format!("[hypervisor.qemu]\n{given}")).load().unwrap();
        assert_eq!(config.hypervisor.default_maxmemory_mib, most, "{given}");
    }
    let config = Tree::new("").load().unwrap();
    let from = origin(&config, "hypervisor.qemu.default_maxmemory");
    assert_eq!(from, "derived: 0 means the memory of the host");
}

#[test]
fn what_a_size_is_made_of_is_kept_in_thousandths() {
    let keys = "[hypervisor.qemu]\ndefault_vcpus = 1.2\noverhead_vcpus = 0.2\noverhead_memory = 32\n\
                [runtime]\nstatic_sandbox_resource_mgmt = true\nsandbox_sizing = 'default-plus-limits'\n";
    let config = Tree::new(keys).load().unwrap();
    let vm = &config.hypervisor;
    assert_eq!((vm.default_vcpus, vm.default_millicpus, vm.overhead_millicpus), (2, 1200, 200));
    assert_eq!(vm.overhead_memory_mib, 32);
    assert!(config.runtime.static_sandbox_resource_mgmt);
    assert_eq!(config.runtime.sandbox_sizing, SandboxSizing::DefaultPlusLimits);
    let vm = Tree::new("[hypervisor.qemu]\ndefault_vcpus = -1\n").load().unwrap().hypervisor;
    assert_eq!((vm.default_millicpus, vm.overhead_millicpus, vm.overhead_memory_mib), (4000, 0, 96));
}

#[test]
fn debug_raises_the_log_level_but_never_lowers_it() {
    let level = |text: &str| Tree::new(text).load().unwrap().runtime.log_level;
    assert_eq!(level("[runtime]\nenable_debug = true\n"), LogLevel::Debug);
    assert_eq!(level("[runtime]\nenable_debug = true\nlog_level = 'trace'\n"), LogLevel::Trace);
    assert_eq!(level("[runtime]\nlog_level = 'warn'\n"), LogLevel::Warn);
}

#[test]
fn nothing_is_traced_unless_it_is_asked_for() {
    let built_in = Tree::new("").load().unwrap();
    assert!(!built_in.runtime.tracing.is_on && !built_in.agent.enable_tracing);
    let text = "[agent.kata]\nenable_tracing = true\n[runtime]\nenable_tracing = true\n\
                jaeger_endpoint = 'http://collector:4318'\njaeger_user = 'me'\njaeger_password = 'secret'\n";
    let config = Tree::new(text).load().unwrap();
    let tracing = &config.runtime.tracing;
    assert!(tracing.is_on && config.agent.enable_tracing);
    assert_eq!(tracing.endpoint.as_ref().unwrap().to_string(), "http://collector:4318/v1/traces");
    assert_eq!((&*tracing.credentials.user, &*tracing.credentials.password), ("me", "secret"));
}

#[test]
fn a_collector_that_takes_no_otlp_is_refused() {
    let tree = Tree::new("[runtime]\njaeger_endpoint = 'http://localhost:14268/api/traces'\n");
    let error = tree.load().unwrap_err().to_string();
    assert!(error.contains("jaeger_endpoint") && error.contains("Thrift"), "{error}");
}

#[test]
fn both_dialects_are_understood() {
    let go = "[agent.kata]\ndial_timeout = 45\n[runtime]\ncreate_container_timeout = 7\n";
    let rs = "[agent.kata]\nreconnect_timeout_ms = 45000\ncreate_container_timeout = 7\n";
    assert_eq!(Tree::new(go).load().unwrap().agent, Tree::new(rs).load().unwrap().agent);
}

#[test]
fn known_keys_may_say_what_happens_anyway() {
    let config = Tree::new(
        "[hypervisor.qemu]\nimage = ''\nenable_iommu = false\nhot_plug_vfio = 'no-port'\nvirtio_fs_cache_size = 0\n\
         overhead_vcpus = 0.0\n[hypervisor.qemu.factory]\nenable_template = false\n[factory]\nvm_cache_number = 0\n\
         [agent.kata]\nkernel_modules = []\nmem_agent = { enable = false }\n\
         [runtime]\nname = 'virt_container'\nhypervisor_name = 'qemu'\nagent_name = 'kata'\nexperimental = []\n",
    )
    .load();
    assert_eq!(config.unwrap().hypervisor, Config::built_in(4).hypervisor);
}

proptest! {
    /// Whatever files give the key, the last of base and drop-ins (by name) wins, and the origin names it.
    #[test]
    fn the_last_file_wins(base in proptest::option::of(64u32..9999),
                          drop_ins in proptest::collection::btree_map("[a-z0-9][a-zA-Z0-9-]{0,6}", proptest::option::of(64u32..9999), 0..6)) {
        let table = |memory: Option<u32>| memory.map_or_else(String::new, |m| format!("[hypervisor.qemu]\ndefault_memory = {m}\n"));
        let tree = Tree::new(&table(base));
        let drop_ins: BTreeMap<String, Option<u32>> = drop_ins.into_iter().map(|(name, m)| (format!("{name}.toml"), m)).collect();
        for (name, memory) in &drop_ins {
            tree.write(&format!("config.d/{name}"), &table(*memory));
        }
        let config = tree.load().unwrap();
        let last = drop_ins.iter().filter_map(|(name, memory)| Some((name.as_str(), (*memory)?))).next_back();
        let (file, expected) = last.or(base.map(|m| ("configuration.toml", m))).unwrap_or(("default", 2048));
        prop_assert_eq!(config.hypervisor.default_memory_mib, expected);
        prop_assert!(origin(&config, "hypervisor.qemu.default_memory").contains(file));
    }

    /// No text makes the reader panic.
    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]a-z_.=\"' \n0-9{},#-]{0,80}") {
        let _ = crate::file::parse(&text, std::path::Path::new("/x"), crate::file::Role::Base);
    }

    /// Kernel parameters come out as they went in.
    #[test]
    fn kernel_parameters_round_trip(words in proptest::collection::vec("[a-z.]{1,8}(=[a-z0-9/,=]{0,8}|=\"[a-z ]{0,8}\")?", 0..6)) {
        let params = crate::KernelParams::parse(&words.join("  ")).unwrap();
        prop_assert_eq!(params.to_words(), words);
    }
}

#[test]
fn files_for_the_guest_itself_are_read_only_unless_they_say_otherwise() {
    let config =
        Tree::new("[runtime]\nsandbox_bind_mounts = ['/a/tools', '/b/x:ro', '/b/a:b:rw']\n").load().unwrap();
    let read: Vec<_> =
        config.runtime.sandbox_bind_mounts.iter().map(|m| (m.path.to_str().unwrap(), m.read_only)).collect();
    assert_eq!(read, [("/a/tools", true), ("/b/x", true), ("/b/a:b", false)]);
}

#[test]
fn files_for_the_guest_itself_must_be_absolute_and_end_differently() {
    for (list, words) in [
        ("'tools'", "must name absolute paths, not \"tools\""),
        ("'/'", "must name absolute paths"),
        ("'/a/../b'", "must name absolute paths"),
        ("'/a/x', '/b/x:rw'", "names two paths that end alike"),
    ] {
        let refused = Tree::new(&format!("[runtime]\nsandbox_bind_mounts = [{list}]\n")).load().unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
}

#[test]
fn files_for_the_guest_itself_are_no_matter_of_a_pod() {
    let tree = Tree::new("");
    assert!(tree.annotated(&[("io.katacontainers.config.runtime.sandbox_bind_mounts", "/etc")]).is_err());
}

#[test]
fn limits_of_sizes_have_names_and_a_pod_may_set_them() {
    let tree = Tree::new(
        "[runtime]\nemptydir_mode = 'block-plain'\nemptydir_size_limit = ['1Gi']\n\
         writable_layer_size_limit = ['web=8Mi']\nwritable_layer_dir = '/srv/layers'\n",
    );
    let runtime = tree.load().unwrap().runtime;
    assert_eq!(
        (runtime.emptydir_mode, runtime.writable_layer_dir),
        (EmptyDirMode::BlockPlain, "/srv/layers".into())
    );
    assert_eq!(runtime.emptydir_size_limit.of(Some("cache")), Some(1 << 30));
    let limits = &runtime.writable_layer_size_limit;
    assert_eq!((limits.of(Some("web")), limits.of(Some("db"))), (Some(8 << 20), None));
    let given = [("io.katacontainers.config.runtime.emptydir_size_limit", "cache=5Mi, 512Mi")];
    let limits = tree.annotated(&given).unwrap().runtime.emptydir_size_limit;
    assert_eq!((limits.of(Some("cache")), limits.of(Some("tmp"))), (Some(5 << 20), Some(512 << 20)));
}

#[test]
fn a_pod_cannot_raise_a_limit_of_the_configuration() {
    let tree =
        Tree::new("[runtime]\nemptydir_size_limit = ['1Gi']\nwritable_layer_size_limit = ['web=8Mi']\n");
    for (key, value) in [
        ("emptydir_size_limit", "2Gi"),
        ("emptydir_size_limit", "cache=2Gi"),
        ("writable_layer_size_limit", "web=9Mi"),
    ] {
        let name = format!("io.katacontainers.config.runtime.{key}");
        let text = tree.text(tree.annotated(&[(&name, value)]));
        assert!(text.contains("must not be more than the configuration's limit"), "{value}: {text}");
    }
    let given = [("io.katacontainers.config.runtime.writable_layer_size_limit", "db=2Gi")];
    let limits = tree.annotated(&given).unwrap().runtime.writable_layer_size_limit;
    assert_eq!((limits.of(Some("web")), limits.of(Some("db"))), (Some(8 << 20), Some(2 << 30)));
}

#[test]
fn encrypted_empty_dirs_are_refused_with_what_to_use_instead() {
    let tree = Tree::new("[runtime]\nemptydir_mode = 'block-encrypted'\n");
    let text = tree.text(tree.load());
    assert!(text.contains("not supported yet") && text.contains("block-plain"), "{text}");
}
