//! Root file systems and devices on disks: nothing of them is mounted on the host.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use kata_e2e::{
    Containerd, LoopDevice, Recipe, RootMount, amount, check_ext4, eventually, fail, kata_test, read_ext4,
    test,
};
use serde_json::{Value, json};

const SHIM: &str = "containerd-shim-kata-v2";
const QEMU: &str = "qemu-system-x86_64";

/// For a root file system that is mounted for it.
fn idle(containerd: &Containerd) -> Recipe<'_> {
    containerd.container().spec(idles_on_what_is_mounted)
}

fn idles_on_what_is_mounted(spec: &mut Value) {
    spec["root"]["path"] = json!("rootfs");
    spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
}

/// Makes it a member of the sandbox, idle.
fn belongs_to(spec: &mut Value, sandbox: &str) {
    spec["annotations"] = json!({
        "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": sandbox,
    });
    spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
}

fn member<'c>(containerd: &'c Containerd, sandbox: &str) -> Recipe<'c> {
    containerd.container().spec(|spec| belongs_to(spec, sandbox))
}

/// As `volumeMode: Block` comes.
fn give_device(spec: &mut Value, device: &LoopDevice, path: &str, access: &str) {
    let (major, minor) = device.number();
    let entry = json!({
        "path": path, "type": "b", "major": major, "minor": minor, "fileMode": 0o660, "uid": 0, "gid": 0,
    });
    let rule = json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": access });
    spec["linux"]["devices"] = json!([entry]);
    let rules = spec["linux"]["resources"]["devices"].as_array_mut();
    rules.unwrap_or_else(|| fail("a specification has rules for devices")).push(rule);
}

/// How many files QEMU and the shim have open.
fn open_files(containerd: &Containerd) -> [usize; 2] {
    [QEMU, SHIM].map(|program| {
        let processes = containerd.processes_of(program);
        let folders =
            processes.iter().filter_map(|process| fs::read_dir(format!("/proc/{}/fd", process.pid)).ok());
        folders.map(Iterator::count).sum()
    })
}

/// The numbers in a text of two lines.
fn amounts(told: &str) -> [f64; 2] {
    let numbers: Vec<_> = told.lines().map(|line| line.parse().expect("a number")).collect();
    numbers.try_into().expect("two numbers")
}

fn image(path: &Path) -> RootMount {
    RootMount::new("ext4", path, ["loop"])
}

fn layer(path: &Path) -> RootMount {
    RootMount::new("erofs", path, ["ro", "loop"])
}

#[test]
fn what_a_container_writes_is_in_the_image_of_its_root() {
    test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let container = idle(containerd).start_on(&[image(&ext4)]);
        let line = "echo kept > /etc/new; chown 12:34 /etc/new; stat -c '%u %g' /etc/new; cat /etc/passwd";
        assert_eq!(container.shell(line), "12 34\nroot:x:0:0:root:/:/bin/sh");
        container.signal("KILL");
        container.wait_until_stopped();
        assert_eq!(container.delete(), 137);
        assert_eq!(read_ext4(&ext4, "/etc/new"), "kept");
        check_ext4(&ext4);
    });
}

#[test]
fn a_root_on_a_block_device_is_the_guests() {
    test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let device = containerd.loop_device(fs::metadata(&ext4).unwrap().len());
        fs::copy(&ext4, &device.file).unwrap();
        let container = idle(containerd).start_on(&[RootMount::new("ext4", &device.node, ["noatime"])]);
        assert_eq!(container.shell("grep ' / ' /proc/mounts | grep -c noatime; echo x > /x; cat /x"), "1\nx");
        container.remove();
    });
}

#[test]
fn layers_of_erofs_are_written_over_in_memory() {
    kata_test(|containerd| {
        let upper = containerd.directory();
        fs::create_dir(upper.join("etc")).unwrap();
        fs::write(upper.join("etc/passwd"), "changed\n").unwrap();
        fs::write(upper.join("etc/added"), "added\n").unwrap();
        let (top, base) = (containerd.erofs_of(&upper), containerd.erofs_of_busybox());
        let before = fs::read(&base).unwrap();
        let options = ["workdir=/none/work", "upperdir=/none/fs", "lowerdir={{ overlay 0 1 }}"];
        let layers = [layer(&top), layer(&base), RootMount::new("format/overlay", "overlay", options)];
        let container = idle(containerd).start_on(&layers);
        assert_eq!(container.shell("cat /etc/passwd /etc/added"), "changed\nadded");
        assert_eq!(
            container.shell("rm /etc/group; echo new > /etc/new; ls /etc; cat /etc/new"),
            "added\nnew\npasswd\nnew"
        );
        container.remove();
        assert!(fs::read(&base).unwrap() == before, "a layer is never written to");
    });
}

#[test]
fn a_root_on_disks_holds_no_more_than_its_limit_beside_what_it_began_with() {
    kata_test(|containerd| {
        let dir = format!("{:?}", containerd.directory());
        containerd.configure(&[("writable_layer_size_limit", "[\"16Mi\"]"), ("writable_layer_dir", &dir)]);
        let (ext4, top, base) = (
            containerd.ext4_of_busybox(),
            containerd.erofs_of(&containerd.directory()),
            containerd.erofs_of_busybox(),
        );
        let above = RootMount::new("format/overlay", "overlay", ["lowerdir={{ overlay 0 1 }}"]);
        for root in [vec![image(&ext4)], vec![layer(&top), layer(&base), above]] {
            let container = idle(containerd).start_on(&root);
            let fills = "dd if=/dev/zero of=/full bs=1M count=64 2>&1 | grep -o 'No space left on device'";
            assert_eq!(container.shell(fills), "No space left on device");
            let told =
                container.shell("du -m /full | cut -f1; rm /full; echo more > /etc/more; cat /etc/more");
            let (megabytes, more) = told.split_once('\n').unwrap();
            assert!((8..=16).contains(&megabytes.parse::<u64>().unwrap()), "{megabytes}");
            assert_eq!(more, "more");
            container.remove();
        }
        assert_eq!(read_ext4(&ext4, "/etc/more"), "", "what is limited goes elsewhere");
    });
}

#[test]
fn disks_of_the_first_root_are_there_when_the_vm_starts() {
    kata_test(|containerd| {
        let (ext4, base) = (containerd.ext4_of_busybox(), containerd.erofs_of_busybox());
        let options = ["lowerdir={{ overlay 0 0 }}"];
        let layers = [layer(&base), RootMount::new("format/overlay", "overlay", options)];
        for root in [vec![image(&ext4)], layers.to_vec()] {
            let container = idle(containerd).start_on(&root);
            let vmm = containerd.processes_of(QEMU).pop().unwrap_or_else(|| fail("there is a VM"));
            assert!(vmm.command.contains("virtio-blk-pci"), "{}", vmm.command);
            container.remove();
        }
    });
}

#[test]
fn a_container_on_disks_is_in_a_vm_that_shares_no_files() {
    kata_test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let container = idle(containerd).start_on(&[image(&ext4)]);
        assert_eq!(container.shell("grep -c kataShared /proc/mounts; echo x > /x; cat /x"), "0\nx");
        assert_eq!(containerd.processes_of("virtiofsd").len(), 0);
        container.remove();
    });
}

#[test]
fn a_container_on_disks_that_binds_a_directory_has_it() {
    kata_test(|containerd| {
        let (ext4, data) = (containerd.ext4_of_busybox(), containerd.directory());
        fs::write(data.join("file"), "of the host").unwrap();
        let bind = json!({ "type": "bind", "source": data, "destination": "/data", "options": ["rbind"] });
        let container = containerd.container().spec(|spec| {
            idles_on_what_is_mounted(spec);
            spec["mounts"].as_array_mut().expect("a list").push(bind);
        });
        let container = container.start_on(&[image(&ext4)]);
        assert_eq!(container.shell("cat /data/file"), "of the host");
        container.remove();
    });
}

#[test]
fn layers_are_persistent_memory_if_the_configuration_says_so() {
    kata_test(|containerd| {
        containerd.reconfigure(|text| {
            text.replace("block_device_driver = \"virtio-blk-pci\"", "block_device_driver = \"virtio-pmem\"")
        });
        let (whole, odd) = (containerd.erofs_of_busybox(), containerd.erofs_of(&containerd.directory()));
        let file = File::options().write(true).open(&whole).unwrap();
        file.set_len(file.metadata().unwrap().len().next_multiple_of(2 << 20)).unwrap();
        let options = ["lowerdir={{ overlay 0 1 }}"];
        let layers = [layer(&odd), layer(&whole), RootMount::new("format/overlay", "overlay", options)];
        let container = idle(containerd).start_on(&layers);
        let line = "echo x > /x; cat /x; ls /sys/block | grep -E '^(pmem|vd)'";
        assert_eq!(container.shell(line), "x\npmem0\nvda", "the smaller layer cannot be mapped");
        container.remove();
    });
}

#[test]
fn an_image_above_layers_of_erofs_keeps_what_was_written() {
    kata_test(|containerd| {
        let empty = containerd.directory();
        let (ext4, base) = (containerd.ext4_of(&empty), containerd.erofs_of_busybox());
        let options = [
            "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
            "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
            "workdir={{ mount 0 }}/work",
            "upperdir={{ mount 0 }}/upper",
            "lowerdir={{ overlay 1 1 }}",
        ];
        let writable = RootMount::new("ext4", &ext4, ["rw", "loop"]);
        let layers = [writable, layer(&base), RootMount::new("format/mkdir/overlay", "overlay", options)];
        for round in ["first", "second"] {
            let container = idle(containerd).start_on(&layers);
            container.shell(&format!("echo {round} >> /etc/rounds"));
            container.remove();
        }
        assert_eq!(read_ext4(&ext4, "/upper/etc/rounds"), "first\nsecond");
    });
}

#[test]
fn a_block_device_is_read_and_written_by_its_container() {
    test(|containerd| {
        let device = containerd.loop_device(8 << 20);
        fs::write(&device.file, vec![b'x'; 8 << 20]).unwrap();
        let container = containerd.container().spec(|spec| {
            give_device(spec, &device, "/dev/data", "rwm");
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = container.start();
        assert_eq!(container.shell("head -c 4 /dev/data; blockdev --getsize64 /dev/data"), "xxxx8388608");
        container.shell("printf written | dd of=/dev/data bs=1M seek=3 conv=fsync 2>/dev/null");
        container.remove();
        let mut file = File::open(&device.node).unwrap();
        file.seek(SeekFrom::Start(3 << 20)).unwrap();
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"writtenx");
    });
}

/// A claim of `volumeMode: Block` that was expanded kept its size until its pod was made anew.
#[test]
fn a_block_device_that_grows_on_the_host_grows_in_its_container() {
    kata_test(|containerd| {
        for (driver, name) in [("virtio-blk-pci", "vd"), ("virtio-scsi", "sd")] {
            containerd.configure(&[("block_device_driver", &format!("{driver:?}"))]);
            let device = containerd.loop_device(8 << 20);
            let container = containerd.container().spec(|spec| {
                give_device(spec, &device, "/dev/data", "rwm");
                spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            });
            let container = container.start();
            assert_eq!(container.shell("ls /sys/block | grep -o '^[sv]d'"), name, "the driver's name for it");
            assert_eq!(container.shell("blockdev --getsize64 /dev/data"), "8388608");
            device.grow(24 << 20);
            eventually("the guest hears of it", Duration::from_secs(30), || {
                container.shell("blockdev --getsize64 /dev/data") == "25165824"
            });
            container.shell("printf far | dd of=/dev/data bs=1M seek=20 conv=fsync 2>/dev/null");
            assert_eq!(
                container.shell("dd if=/dev/data bs=1M skip=20 count=1 2>/dev/null | head -c 3"),
                "far"
            );
            container.remove();
        }
    });
}

#[test]
fn what_a_container_discards_is_given_back_to_the_host() {
    kata_test(|containerd| {
        let device = containerd.loop_device(16 << 20);
        let container = containerd.container().spec(|spec| {
            give_device(spec, &device, "/dev/data", "rwm");
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = container.start();
        let taken = || fs::metadata(&device.file).unwrap().blocks() * 512;
        container.shell("dd if=/dev/urandom of=/dev/data bs=1M count=16 conv=fsync 2>/dev/null");
        assert!(taken() >= 16 << 20);
        container.shell("blkdiscard -o 4194304 -l 8388608 /dev/data");
        assert_eq!(taken(), 8 << 20);
        assert_eq!(
            container.shell("dd if=/dev/data bs=1M skip=4 count=8 2>/dev/null | tr -d '\\0' | wc -c"),
            "0"
        );
        container.remove();
    });
}

#[test]
fn a_disk_is_not_read_faster_than_its_limit() {
    kata_test(|containerd| {
        // 32 MiB a second, of which QEMU lets a tenth of a second's worth through at once.
        containerd.configure(&[("disk_rate_limiter_bw_max_rate", &(32_u64 << 23).to_string())]);
        let device = containerd.loop_device(96 << 20);
        let container = containerd.container().spec(|spec| {
            give_device(spec, &device, "/dev/data", "r");
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = container.start();
        let seconds = "cut -d' ' -f1 /proc/uptime";
        let told =
            container.shell(&format!("{seconds}; dd if=/dev/data of=/dev/null bs=1M 2>/dev/null; {seconds}"));
        let [begun, ended]: [f64; 2] = amounts(&told);
        // It takes 0.1 s without a limit, and 3 s by it.
        assert!(ended - begun > 2.0, "{told}");
        container.remove();
    });
}

#[test]
fn two_containers_of_a_running_pod_share_a_block_device() {
    kata_test(|containerd| {
        let device = containerd.loop_device(1 << 20);
        let pod = containerd.container().command(["/bin/sleep", "1000"]).start();
        let add = |path: &str, access: &str| {
            let sandbox = pod.id().to_owned();
            let recipe = containerd.container().spec(|spec| {
                belongs_to(spec, &sandbox);
                give_device(spec, &device, path, access);
            });
            recipe.start()
        };
        let (writer, reader) = (add("/dev/one", "rwm"), add("/dev/other", "r"));
        writer.shell("printf shared | dd of=/dev/one conv=fsync 2>/dev/null");
        assert_eq!(reader.shell("head -c 6 /dev/other"), "shared");
        assert_eq!(pod.shell("ls /sys/block | grep -c '^[sv]d'"), "1");
        writer.remove();
        assert_eq!(reader.shell("tail -c 1 /dev/other | wc -c"), "1");
        reader.remove();
        assert_eq!(pod.shell("ls /sys/block | grep -c '^[sv]d' || true"), "0");
        pod.remove();
    });
}

#[test]
fn a_read_only_block_device_is_not_written() {
    test(|containerd| {
        let device = containerd.loop_device(1 << 20);
        let line = "head -c 1 /dev/data | wc -c; echo x > /dev/data || echo refused";
        let run = containerd.container().spec(|spec| {
            give_device(spec, &device, "/dev/data", "r");
            spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
        });
        assert_eq!(run.run().ok().text(), "1\nrefused");
    });
}

#[test]
fn disks_come_and_go_in_a_running_pod() {
    kata_test(|containerd| {
        let pod = containerd.container().command(["/bin/sleep", "1000"]).start();
        let (ext4, base) = (containerd.ext4_of_busybox(), containerd.erofs_of_busybox());
        let (rounds, mut held) = (amount(20, 100), Vec::new());
        for round in 0..rounds {
            let container = member(containerd, pod.id()).start_on(&[image(&ext4)]);
            let other = member(containerd, pod.id()).start_on(&[layer(&base)]);
            container.shell(&format!("echo {round} >> /rounds"));
            other.shell("echo x > /x");
            container.remove();
            other.remove();
            assert_eq!(pod.shell("ls /sys/block | grep -c '^[sv]d' || true"), "0", "round {round}");
            held.push(open_files(containerd));
            // What is allocated once is there after the first rounds.
            assert!(round < 2 || held[round] <= held[1], "files that QEMU and the shim have open: {held:?}");
        }
        pod.remove();
        assert_eq!(read_ext4(&ext4, "/rounds").lines().count(), rounds);
        check_ext4(&ext4);
    });
}

#[test]
fn a_disk_that_one_pod_writes_to_is_refused_to_another_and_its_user_named() {
    kata_test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let first = idle(containerd).start_on(&[image(&ext4)]);
        let refused = idle(containerd).try_create_task_on(&[image(&ext4)]);
        let error = refused.err().unwrap_or_else(|| fail("two pods write to one disk"));
        assert!(error.contains("in use") && error.contains(&format!("pod {}", first.id())), "{error}");
        first.remove();
        idle(containerd).start_on(&[image(&ext4)]).remove();
    });
}

#[test]
fn what_was_synced_is_in_the_image_when_all_is_killed() {
    kata_test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let container = idle(containerd).start_on(&[image(&ext4)]);
        container.shell("echo safe > /safe; sync /safe; sync");
        for program in [SHIM, QEMU] {
            for process in containerd.processes_of(program) {
                process.kill();
            }
        }
        eventually("no process is left", Duration::from_secs(20), || containerd.processes().is_empty());
        container.remove();
        check_ext4(&ext4);
        assert_eq!(read_ext4(&ext4, "/safe"), "safe");
    });
}
