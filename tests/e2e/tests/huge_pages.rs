//! Huge pages in the guest, in place of the host's.

use std::fs;
use std::path::Path;
use std::process::Command;

use kata_e2e::{Containerd, Recipe, kata_test};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A file system of huge pages, as the kubelet mounts it for an `emptyDir`.
struct Volume(std::path::PathBuf);

impl Volume {
    fn new(containerd: &Containerd) -> Self {
        let path = containerd.directory().join("kubelet/pods/7f/volumes/kubernetes.io~empty-dir/big");
        fs::create_dir_all(&path).expect("the directory is the test's own");
        run(Command::new("mount").args(["-n", "-t", "hugetlbfs", "-o", "pagesize=2M", "none"]).arg(&path));
        Self(path)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-n").arg(&self.0));
    }
}

fn run(command: &mut Command) {
    assert!(command.status().expect("it is there").success(), "{command:?}");
}

fn bind(from: &Path, to: &str) -> Value {
    json!({ "destination": to, "type": "bind", "source": from, "options": ["rbind", "rw"] })
}

/// A container with the volume that may use so many bytes of its pages.
fn container<'c>(containerd: &'c Containerd, volume: &Volume, bytes: u64) -> Recipe<'c> {
    with_pages(containerd, bind(&volume.0, "/big"), ("2MB", bytes))
}

/// A container with this mount that may use so many bytes of huge pages of a size.
fn with_pages<'c>(containerd: &'c Containerd, mount: Value, (page, bytes): (&str, u64)) -> Recipe<'c> {
    let probe = containerd.stage.probe().to_owned();
    containerd.container().spec(|spec| {
        spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        let mounts = spec["mounts"].as_array_mut().expect("a specification has mounts");
        mounts.extend([mount, bind(&probe, "/probe")]);
        spec["linux"]["resources"]["hugepageLimits"] = json!([{ "pageSize": page, "limit": bytes }]);
    })
}

#[test]
fn a_volume_of_huge_pages_is_of_the_guests_and_holds_what_the_container_may_use() {
    kata_test(|containerd| {
        let volume = Volume::new(containerd);
        let running = container(containerd, &volume, 8 * MIB).start();
        let told = running.shell(&format!("/probe huge /big/file {}", 4 * MIB));
        assert!(told.contains("written\t7") && told.contains("page\t2048 kB"), "{told}");
        assert_eq!(running.shell("cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "4");
        let refused = running.shell(&format!("/probe huge /big/more {} || echo refused", 6 * MIB));
        assert!(refused.ends_with("refused"), "{refused}");
        running.remove();
        assert_eq!(fs::read_dir(&volume.0).expect("it is there").count(), 0);
        let too_many = container(containerd, &volume, 64 << 30).try_start();
        too_many.fails_because("huge pages of 2048 kB");
    });
}

#[test]
fn a_page_may_have_a_gibibyte() {
    kata_test(|containerd| {
        // A whole one must be free, from a multiple of its size on.
        containerd.reconfigure(|text| text.replace("\ndefault_memory = 2048", "\ndefault_memory = 8192"));
        let mount = json!({ "destination": "/big", "type": "hugetlbfs", "source": "none", "options": ["pagesize=1G"] });
        let running = with_pages(containerd, mount, ("1GB", 1024 * MIB)).start();
        let told = running.shell(&format!("/probe huge /big/file {}", 1024 * MIB));
        assert!(told.contains("written\t7") && told.contains("page\t1048576 kB"), "{told}");
        let refused = running.shell(&format!("/probe huge /big/more {} || echo refused", 1024 * MIB));
        assert!(refused.ends_with("refused"), "{refused}");
        running.remove();
    });
}
