//! The texts a person reads when a file is wrong.

use super::Tree;

fn refused(text: &str) -> String {
    let tree = Tree::new(text);
    let result = tree.load();
    tree.text(result)
}

#[test]
fn one_problem_is_one_line() {
    insta::assert_snapshot!(refused("[hypervisor.qemu]\ndefault_vcpu = 2\n"), @"/etc/kata-containers/configuration.toml:2: Unknown key `default_vcpu` in [hypervisor.qemu]; did you mean `default_vcpus`?");
}

#[test]
fn not_toml() {
    insta::assert_snapshot!(refused("[hypervisor.qemu]\npath = \n"), @"/etc/kata-containers/configuration.toml:2: Not valid TOML: string values must be quoted, expected literal string");
    insta::assert_snapshot!(refused("[runtime]\nname = 'virt_container'\nname = 'x'\n"), @"/etc/kata-containers/configuration.toml:3: Not valid TOML: duplicate key");
}

#[test]
fn everything_is_reported_at_once() {
    let everything = refused(
        "stray = 1\n\
         [hypervisor]\npath = '/x'\n\
         [hypervisor.clh]\npath = '/x'\n\
         [hypervisor.qmu]\npath = '/x'\n\
         [hypervisor.qemu]\n\
         path = 'qemu'\n\
         kernel = 5\n\
         initrd = ''\n\
         image = '/image'\n\
         kernel_params = 'a=\"b'\n\
         machine_type = 'virt'\n\
         accelerator = 'hvf'\n\
         default_vcpus = 'two'\n\
         default_maxvcpus = 1.5\n\
         default_memory = 32\n\
         shared_fs = 'inline-virtio-fs'\n\
         virtio_fs_queue_size = 1000\n\
         virtio_fs_extra_args = [1, 2]\n\
         enable_annotations = ['kernal']\n\
         enable_debug = 'true'\n\
         block_device_driver = 'virtio-mmio'\n\
         enable_iothreads = true\n\
         guest_extension_images = [{ name = 'x' }]\n\
         debug_console_enabled = true\n\
         xyzzy = 1979-05-27\n\
         [agent.kata]\n\
         dial_timeout = 10\n\
         reconnect_timeout_ms = 10000\n\
         mem_agent = { enable = true }\n\
         [agent.other]\n\
         [runtime]\n\
         internetworking_model = 'l3forwarding'\n\
         experimental = ['warp']\n\
         [factory]\n\
         enable_template = true\n\
         [runtimes]\n",
    );
    insta::assert_snapshot!(everything);
}

#[test]
fn a_guest_without_shared_files_is_refused_with_what_it_would_lack() {
    insta::assert_snapshot!(refused("[hypervisor.qemu]\nshared_fs = 'none'\n"), @r#"/etc/kata-containers/configuration.toml:2: `shared_fs` asks for what is known but not supported yet: a guest without shared files, where no container has its /etc/hosts; use "virtio-fs" or "virtio-9p""#);
}

#[test]
fn a_guest_has_one_security_module_and_a_label_needs_it() {
    insta::assert_snapshot!(refused("[hypervisor.qemu]\ndisable_guest_selinux = false\n[runtime]\ndisable_guest_apparmor = false\n"), @"/etc/kata-containers/configuration.toml:4: `disable_guest_apparmor` and `disable_guest_selinux` (/etc/kata-containers/configuration.toml:2) are both false; a guest has one of the two modules: set one to true");
    insta::assert_snapshot!(refused("[runtime]\nguest_selinux_label = 'a:b:c:s0'\n"), @"/etc/kata-containers/configuration.toml:2: `guest_selinux_label` names a label for a guest without SELinux; set `disable_guest_selinux` to false, or leave it empty");
}

#[test]
fn keys_about_disks_that_do_not_fit_together_name_both_places() {
    let wrong = [
        "block_device_cache_direct = true",
        "block_device_aio = 'native'",
        "block_device_logical_sector_size = 4096\nblock_device_physical_sector_size = 512",
        "block_device_logical_sector_size = 1000\nqueue_size = 3\ndisk_rate_limiter_bw_one_time_burst = 1",
    ];
    let of = |keys| refused(&format!("[hypervisor.qemu]\n{keys}\n"));
    insta::assert_snapshot!(wrong.map(of).join("\n"));
}

#[test]
fn what_nydusd_decides_by_itself_is_refused() {
    let text = refused("[hypervisor.qemu]\nshared_fs = 'virtio-fs-nydus'\nvirtio_fs_cache = 'never'\n");
    assert!(text.contains("configuration.toml:3: `virtio_fs_cache` is \"never\""), "{text}");
}

#[test]
fn limits_of_vcpus_name_both_places() {
    insta::assert_snapshot!(refused("[hypervisor.qemu]\ndefault_vcpus = 4\ndefault_maxvcpus = 2\n"), @"/etc/kata-containers/configuration.toml:2: `default_vcpus` asks for 4 vCPUs, more than `default_maxvcpus` (2, /etc/kata-containers/configuration.toml:3); lower it or raise the limit");
}

#[test]
fn limits_of_memory_name_both_places() {
    insta::assert_snapshot!(refused("[hypervisor.qemu]\ndefault_memory = 512\ndefault_maxmemory = 256\n"), @"/etc/kata-containers/configuration.toml:2: `default_memory` asks for 512 MiB, more than `default_maxmemory` (256, /etc/kata-containers/configuration.toml:3); lower it or raise the limit");
}

#[test]
fn what_a_vm_has_besides_is_a_number_that_makes_sense() {
    let text = refused(
        "[hypervisor.qemu]\noverhead_vcpus = -0.5\noverhead_memory = -1\n[runtime]\nsandbox_sizing = 'best'\n",
    );
    insta::assert_snapshot!(text, @r#"
    3 problems in the configuration:
      /etc/kata-containers/configuration.toml:2: `overhead_vcpus` must be a number from 0 to 1024, not -0.5
      /etc/kata-containers/configuration.toml:3: `overhead_memory` must be an integer from 0 to 1048576, not -1
      /etc/kata-containers/configuration.toml:5: `sandbox_sizing` must be one of "limits", "default-plus-limits", not "best"
    "#);
}

#[test]
fn a_problem_in_a_drop_in_names_the_drop_in() {
    let tree = Tree::new("").with("config.d/10-a.toml", "\n[runtime]\nenable_debg = true\n");
    let result = tree.load();
    insta::assert_snapshot!(tree.text(result), @"/etc/kata-containers/config.d/10-a.toml:3: Unknown key `enable_debg` in [runtime]; did you mean `enable_debug`?");
}
