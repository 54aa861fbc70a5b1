//! Limits of what a container writes to its root file system, and of `emptyDir` volumes: a write beyond fails with ENOSPC, and
//! nothing else is hurt.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kata_e2e::proto::{ContainerConfig, Mount};
use kata_e2e::{Cri, Pod, PodContainer, check_ext4, cri_test, kata_cri_test};

const FULL: &str = "No space left on device";

/// Adds lines to the runtime's configuration.
fn configure(cri: &Cri, lines: &str) {
    let file = cri.reconfigure(|text| text);
    let drop_ins = file.with_file_name("config.d");
    fs::create_dir(&drop_ins).expect("the directory is the test's own");
    fs::write(drop_ins.join("50-limits.toml"), format!("[runtime]\n{lines}\n"))
        .expect("the directory is the test's own");
}

fn pod<'c>(cri: &'c Cri<'c>, key: &str, limits: &str) -> Pod<'c> {
    let annotation = (format!("io.katacontainers.config.runtime.{key}"), limits.to_owned());
    cri.pod().with(|config| config.annotations.extend([annotation])).run()
}

fn volume(config: &mut ContainerConfig, from: &Path, to: &str) {
    config.mounts.push(Mount {
        container_path: to.to_owned(),
        host_path: from.display().to_string(),
        ..Default::default()
    });
}

/// Writes more than there is room for.
fn fill(container: &PodContainer<'_>, path: &str) {
    let words = container.shell(&format!("dd if=/dev/zero of={path} bs=1M count=64 2>&1 || true"));
    assert!(words.contains(FULL), "{words}");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it is there");
    entries.map(|entry| entry.expect("it is there").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_container_cannot_write_more_to_its_root_than_its_limit() {
    cri_test(|cri| {
        let layers = cri.containerd.directory().join("layers");
        configure(cri, &format!("writable_layer_dir = {layers:?}"));
        let pod = pod(cri, "writable_layer_size_limit", "limited=16Mi");
        let [limited, free] = ["limited", "free"].map(|name| pod.container(name).idle().start());
        assert_eq!(names(&layers), Vec::<String>::new(), "an image has no name");
        let root = "stat -c '%a %u %g' /; echo new >> /etc/passwd; rm /etc/group; ls /etc | wc -l; tail -n 1 /etc/passwd";
        assert_eq!(limited.shell(root), free.shell(root));
        fill(&limited, "/full");
        free.shell("dd if=/dev/zero of=/large bs=1M count=20 2>/dev/null; rm /large");
        assert_eq!(
            limited.shell("cat /etc/passwd | wc -l; rm /full; echo more > /more; cat /more"),
            "3\nmore"
        );
        limited.remove();
        let again = pod.container("limited").idle().start();
        assert_eq!(again.shell("ls /more 2>/dev/null; wc -l < /etc/passwd"), "2");
    });
}

/// The kubelet's directory of a volume of a pod.
fn empty_dir(cri: &Cri, name: &str) -> PathBuf {
    let volume =
        cri.containerd.directory().join("kubelet/pods/7f/volumes/kubernetes.io~empty-dir").join(name);
    fs::create_dir_all(&volume).expect("the directory is the test's own");
    fs::set_permissions(&volume, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("the directory is the test's own");
    volume
}

#[test]
fn an_empty_dir_with_a_limit_is_full_for_its_pod_alone_and_goes_with_it() {
    cri_test(|cri| {
        configure(cri, "emptydir_mode = 'block-plain'");
        let [cache, other] = ["cache", "other"].map(|name| empty_dir(cri, name));
        let pod = pod(cri, "emptydir_size_limit", "cache=16Mi");
        let mounts = |config: &mut ContainerConfig| {
            volume(config, &cache, "/cache");
            volume(config, &other, "/other");
        };
        let [first, second] = ["first", "second"].map(|name| pod.container(name).with(mounts).idle().start());
        assert_eq!(
            first.shell("stat -c '%a %u %g' /cache; ls -A /cache; echo kept > /cache/file"),
            "777 0 0"
        );
        fill(&first, "/cache/full");
        assert_eq!(
            second.shell("cat /cache/file; echo fine > /other/file; rm /cache/full; cat /other/file"),
            "kept\nfine"
        );
        let megabytes: u64 =
            first.shell("df -m /other | tail -n 1 | awk '{ print $2 }'").parse().expect("a number");
        assert!(megabytes > 1024, "it has what the host's file system has: {megabytes} MB");
        for container in [first, second] {
            container.remove();
        }
        // Restarted, it finds what was written.
        let third = pod.container("first").with(mounts).idle().start();
        assert_eq!(third.shell("cat /cache/file /other/file"), "kept\nfine");
        pod.remove();
        let image = cache.join("kata-emptydir.img");
        assert_eq!(names(&cache), ["kata-emptydir.img"]);
        let taken = fs::metadata(&image).expect("it is there");
        assert!(taken.len() < 16 << 20 && taken.blocks() * 512 <= 16 << 20, "{taken:?}");
        let checked = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&image).output().expect("it is there");
        assert!(checked.status.success(), "{checked:?}");
        fs::remove_dir_all(&cache).expect("nothing holds it");
    });
}

fn on_host(program: &str, arguments: &[&Path]) {
    let ran = Command::new(program).args(arguments).output().expect("it is there");
    assert!(ran.status.success(), "{program} {arguments:?}: {ran:?}");
}

/// The images are sparse: all together may promise more than the host has.
#[test]
fn a_host_without_room_fails_the_write_and_hurts_nothing_else() {
    kata_cri_test(|cri| {
        configure(cri, "emptydir_mode = 'block-plain'");
        let cache = empty_dir(cri, "cache");
        let (disk, volumes) = (cri.containerd.loop_device(64 << 20), cache.parent().expect("of volumes"));
        on_host("mkfs.ext4", &["-q".as_ref(), &disk.node]);
        on_host("mount", &[&disk.node, volumes]);
        fs::create_dir(&cache).expect("it is not there");
        let others = volumes.join("of-others");
        fs::write(&others, vec![1; 32 << 20]).expect("there is room");
        let other = cri.containerd.directory().join("elsewhere");
        fs::create_dir(&other).expect("the directory is the test's own");
        let mounts = |config: &mut ContainerConfig| {
            volume(config, &cache, "/cache");
            volume(config, &other, "/other");
        };
        let pod = pod(cri, "emptydir_size_limit", "cache=1Gi");
        let first = pod.container("first").with(mounts).idle().start();
        let write = "dd if=/dev/zero of=/cache/file bs=1M count=40 conv=fsync 2>&1 && echo written || true";
        let words = first.shell(write);
        assert!(words.contains("Input/output error"), "{words}");
        assert_eq!(first.shell("echo fine > /other/file; cat /other/file"), "fine");
        first.remove();
        fs::remove_file(&others).expect("it is there");
        let again = pod.container("first").with(mounts).idle().start();
        let words = again.shell(&format!("rm -f /cache/file; {write}"));
        assert!(words.ends_with("written"), "{words}");
        pod.remove();
        check_ext4(&cache.join("kata-emptydir.img"));
        on_host("umount", &[volumes]);
    });
}
