//! What is one mount for several containers, and what is not, in a mount namespace of one's own.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, unmount};
use tempfile::TempDir;

use crate::idmap::IdMap;
use crate::share::{ContainerFiles, SharedDirectory};
use crate::testing::{MemoryLog, in_private_mounts, mounts_below};

struct Pod {
    run: TempDir,
    share: SharedDirectory,
    host: TempDir,
}

impl Pod {
    fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        let share = SharedDirectory::create(run.path(), "pod", MemoryLog::new()).unwrap();
        let pod = Self { run, share, host: tempfile::tempdir().unwrap() };
        fs::create_dir_all(pod.host("data/inner")).unwrap();
        pod
    }

    fn host(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
    }

    fn container(&self, name: &str) -> Member<'_> {
        Member { pod: self, files: self.share.container(name).unwrap() }
    }

    /// The mounts of volumes.
    fn volumes(&self) -> usize {
        let own = mounts_below(&self.run.path().join("kata-containers/shared/sandboxes/pod/rw/volumes"));
        own.iter().filter(|point| !point.ends_with("/inner")).count()
    }
}

struct Member<'p> {
    pod: &'p Pod,
    files: ContainerFiles,
}

impl Member<'_> {
    /// Where the guest finds the source.
    fn bind(&mut self, source: &Path, options: &[&str]) -> PathBuf {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let builder = MountBuilder::default().typ("bind").source(source).destination("/data");
        let mut mounts: [Mount; 1] = [builder.options(options).build().unwrap()];
        self.files.share_volumes(&mut mounts, self.pod.host.path(), &IdMap::default()).unwrap();
        mounts[0].source().clone().unwrap()
    }
}

#[test]
fn a_directory_that_two_containers_bind_is_one_mount_until_both_are_gone() {
    in_private_mounts(|| {
        let pod = Pod::new();
        let (mut one, mut two) = (pod.container("one"), pod.container("two"));
        let first = one.bind(&pod.host("data"), &["rbind", "rw"]);
        assert_eq!(two.bind(&pod.host("data"), &["rbind", "rw"]), first);
        assert_eq!(two.bind(&pod.host("data"), &["rbind", "rw"]), first, "twice in one container");
        assert_eq!(pod.volumes(), 1);
        one.files.remove().unwrap();
        assert_eq!(pod.volumes(), 1);
        two.files.remove().unwrap();
        assert!(two.files.is_removed());
        assert_eq!(pod.volumes(), 0);
        // The guest may remember the first one's name.
        assert_ne!(pod.container("three").bind(&pod.host("data"), &["rbind", "rw"]), first);
    });
}

#[test]
fn what_is_bound_another_way_is_another_mount() {
    in_private_mounts(|| {
        let pod = Pod::new();
        let mut container = pod.container("c");
        let ways: [&[&str]; 4] = [&["rbind"], &["rbind", "ro"], &["bind"], &["rbind", "rslave"]];
        let mut paths: Vec<_> =
            ways.iter().map(|options| container.bind(&pod.host("data"), options)).collect();
        paths.dedup();
        assert_eq!(paths.len(), ways.len());
    });
}

/// A kubelet makes a bind mount for each container's `subPath`, also of the same directory.
#[test]
fn two_ways_to_one_directory_are_one_mount() {
    in_private_mounts(|| {
        let pod = Pod::new();
        let [first, second] = ["0", "1"].map(|name| {
            let path = pod.host(name);
            fs::create_dir(&path).unwrap();
            mount_bind(pod.host("data"), &path).unwrap();
            path
        });
        let mut container = pod.container("c");
        assert_eq!(container.bind(&first, &["rbind"]), container.bind(&second, &["rbind"]));
        for path in [first, second] {
            unmount(path, UnmountFlags::empty()).unwrap();
        }
    });
}

#[test]
fn a_mount_that_was_made_below_meanwhile_is_not_missed() {
    in_private_mounts(|| {
        let pod = Pod::new();
        let mut container = pod.container("c");
        let before = container.bind(&pod.host("data"), &["rbind"]);
        mount("tmpfs", pod.host("data/inner"), "tmpfs", MountFlags::empty(), None).unwrap();
        let after = container.bind(&pod.host("data"), &["rbind"]);
        assert_ne!(before, after);
        assert_eq!(container.bind(&pod.host("data"), &["rbind"]), after);
        fs::create_dir(pod.host("copy")).unwrap();
        mount_bind_recursive(pod.host("data"), pod.host("copy")).unwrap();
        assert_eq!(container.bind(&pod.host("copy"), &["rbind"]), after);
    });
}

#[test]
fn a_file_that_was_replaced_is_another_one() {
    in_private_mounts(|| {
        let pod = Pod::new();
        let (file, new) = (pod.host("hosts"), pod.host("new"));
        fs::write(&file, "old").unwrap();
        let mut container = pod.container("c");
        let before = container.bind(&file, &["rbind"]);
        assert_eq!(container.bind(&file, &["rbind"]), before);
        fs::write(&new, "new").unwrap();
        fs::rename(&new, &file).unwrap();
        assert_ne!(container.bind(&file, &["rbind"]), before);
    });
}
