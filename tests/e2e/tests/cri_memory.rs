//! Volumes of memory, as the kubelet prepares them for an `emptyDir` with `medium: Memory`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use kata_e2e::proto::{ContainerConfig, Mount};
use kata_e2e::{Cri, PodContainer, cri_test, kata_cri_test};

/// The kubelet's directory of a volume, and that of a part of it which a container has by `subPath`.
struct EmptyDir {
    volume: PathBuf,
    part: PathBuf,
}

impl EmptyDir {
    fn new(cri: &Cri) -> Self {
        let pod = cri.containerd.directory().join("kubelet/pods/7f");
        let volume = pod.join("volumes/kubernetes.io~empty-dir/cache");
        let part = pod.join("volume-subpaths/cache/second/0");
        for dir in [&volume, &part] {
            fs::create_dir_all(dir).expect("the directory is the test's own");
        }
        let (at, at_part) = (volume.display().to_string(), part.display().to_string());
        host(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", &at]);
        chown(&volume, None, Some(5)).expect("the directory is the test's own");
        fs::set_permissions(&volume, Permissions::from_mode(0o2777))
            .expect("the directory is the test's own");
        fs::create_dir(volume.join("part")).expect("the directory is the test's own");
        fs::set_permissions(volume.join("part"), Permissions::from_mode(0o2770))
            .expect("the directory is the test's own");
        host(["mount", "--bind", &format!("{at}/part"), &at_part]);
        Self { volume, part }
    }
}

impl Drop for EmptyDir {
    fn drop(&mut self) {
        for path in [&self.part, &self.volume] {
            host(["umount", &path.display().to_string()]);
        }
    }
}

fn host<const N: usize>(words: [&str; N]) {
    assert!(Command::new(words[0]).args(&words[1..]).status().expect("is there").success(), "{words:?}");
}

fn volume(config: &mut ContainerConfig, from: &Path, to: &str) {
    config.mounts.push(Mount {
        container_path: to.to_owned(),
        host_path: from.display().to_string(),
        ..Default::default()
    });
}

#[test]
fn memory_is_shared_by_the_pods_containers_and_its_size_holds() {
    cri_test(|cri| {
        let dir = EmptyDir::new(cri);
        let pod = cri.pod().run();
        let mount = |config: &mut ContainerConfig| volume(config, &dir.volume, "/cache");
        // An init container is gone before the next one comes.
        let init = pod.container("init").with(mount).shell("echo from init > /cache/file").start();
        init.wait();
        init.remove();
        let [first, second] = ["first", "second"].map(|name| pod.container(name).with(mount).idle().start());
        assert_eq!(first.shell("cat /cache/file"), "from init");
        assert_eq!(first.shell("stat -c '%a %u %g' /cache; stat -f -c %T /cache"), "2777 0 5\ntmpfs");

        let words = first.shell("dd if=/dev/zero of=/cache/full bs=1M count=20 2>&1 || true");
        assert!(words.contains("No space left on device"), "{words}");
        let kilobytes = |container: &PodContainer<'_>| container.shell("du -k /cache/full | cut -f1");
        assert_eq!((kilobytes(&second), kilobytes(&first)), ("8188".to_owned(), "8188".to_owned()));
        second.shell("rm /cache/full && echo again > /cache/other");
        assert_eq!(first.shell("cat /cache/other; rm /cache/other"), "again");
    });
}

#[test]
fn a_part_of_memory_is_the_same_memory() {
    cri_test(|cri| {
        let dir = EmptyDir::new(cri);
        let pod = cri.pod().run();
        let part = |config: &mut ContainerConfig| volume(config, &dir.part, "/part");
        let second = pod.container("second").with(part).idle().start();
        assert_eq!(second.shell("stat -c '%a %g' /part; echo hello > /part/file"), "2770 5");
        let whole = |config: &mut ContainerConfig| volume(config, &dir.volume, "/cache");
        let first = pod.container("first").with(whole).idle().start();
        assert_eq!(first.shell("cat /cache/part/file; echo back > /cache/part/file"), "hello");
        assert_eq!(second.shell("cat /part/file"), "back");
    });
}

/// The kubelet does not see what an init container has written there, and takes it for a directory that it has to make.
#[test]
fn a_part_of_memory_may_be_a_file_that_a_container_has_made() {
    kata_cri_test(|cri| {
        let dir = EmptyDir::new(cri);
        let pod = cri.pod().run();
        let whole = |config: &mut ContainerConfig| volume(config, &dir.volume, "/cache");
        let first = pod.container("first").with(whole).idle().start();
        first.shell("echo made > /cache/part");
        let part = |config: &mut ContainerConfig| volume(config, &dir.part, "/etc/app.conf");
        let second = pod.container("second").with(part).idle().start();
        assert_eq!(second.shell("cat /etc/app.conf; echo changed > /etc/app.conf"), "made");
        assert_eq!(first.shell("cat /cache/part"), "changed");
    });
}
