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
    let probe = containerd.stage.probe().to_owned();
    containerd.container().spec(|spec| {
        spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        let mounts = spec["mounts"].as_array_mut().expect("a specification has mounts");
        mounts.extend([bind(&volume.0, "/big"), bind(&probe, "/probe")]);
        spec["linux"]["resources"]["hugepageLimits"] = json!([{ "pageSize": "2MB", "limit": bytes }]);
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
