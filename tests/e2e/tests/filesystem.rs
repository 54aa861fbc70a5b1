//! What a file system does, on a container's root and on a volume: the same as under runc, but for the listed differences.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_e2e::proto::{ContainerConfig, Mount};
use kata_e2e::{
    Bind, Bundle, Containerd, Cri, Expected, RootMount, compare_closely, compare_roots, cri_test, eventually,
    kata_test, test,
};

const LISTS: &str = "virtiofsd is told of none unless `virtio_fs_extra_args` says so";
const TMPFILE: &str = "virtiofsd (1.14) does not know FUSE_TMPFILE; programs fall back to a name";
const ALLOCATE: &str =
    "Linux (6.12) leaves it to the daemon to clear the bits and does not tell it with FUSE_FALLOCATE";
const TRUSTED: &str = "virtiofsd has no CAP_SYS_ADMIN on the host, on purpose";

/// Differences that are right, or that nothing here can change.
const DIFFERENCES: &[Expected<'_>] = &[
    Expected { fact: "root: O_TMPFILE *", reason: TMPFILE },
    Expected { fact: "volume: O_TMPFILE *", reason: TMPFILE },
    Expected { fact: "root: an access list *", reason: LISTS },
    Expected { fact: "volume: an access list *", reason: LISTS },
    Expected { fact: "root: a folder's default list *", reason: LISTS },
    Expected { fact: "volume: a folder's default list *", reason: LISTS },
    Expected { fact: "root: * go when another allocates", reason: ALLOCATE },
    Expected { fact: "volume: * go when another allocates", reason: ALLOCATE },
    Expected { fact: "root: trusted attributes", reason: TRUSTED },
    Expected { fact: "volume: trusted attributes", reason: TRUSTED },
];

/// The upper layer is memory of the guest.
const MEMORY_ABOVE_LAYERS: &[Expected<'_>] = &[
    Expected { fact: "root: a file beyond the largest size", reason: "a tmpfs takes larger ones than ext4" },
    Expected { fact: "root: fallocate with zeros", reason: "a tmpfs cannot; programs write zeros" },
];

#[test]
fn root_and_volumes_do_what_a_file_system_does() {
    test(|containerd| {
        let bundle = Bundle::with_volume(containerd.directory());
        compare_closely(containerd, &[bundle.sections(&["files"])], DIFFERENCES);
    });
}

/// Linux 6.12 by itself takes them on the root of a virtio-fs only, not on the mounts below it, where all files are.
#[test]
fn access_lists_hold_where_virtiofsd_is_to_have_them() {
    test(|containerd| {
        containerd.configure(&[("virtio_fs_extra_args", "[\"--posix-acl=always\"]")]);
        let bundle = Bundle::with_volume(containerd.directory());
        let others = DIFFERENCES.iter().filter(|difference| difference.reason != LISTS);
        compare_closely(containerd, &[bundle.sections(&["files"])], &others.copied().collect::<Vec<_>>());
    });
}

/// busybox and the probe.
fn root(containerd: &Containerd) -> PathBuf {
    let root = containerd.directory_of_busybox();
    fs::copy(containerd.stage.probe(), root.join("bin/kata-probe")).expect("the directory is the test's own");
    root
}

#[test]
fn a_root_on_a_disk_does_what_a_file_system_does() {
    test(|containerd| {
        let root = root(containerd);
        let [right, ours] = [(); 2].map(|()| [RootMount::new("ext4", containerd.ext4_of(&root), ["loop"])]);
        compare_roots(containerd, &["files"], [&right, &ours], &[]);
    });
}

/// runc's lies above the same directories, on the host's file system.
#[test]
fn a_root_above_layers_of_erofs_does_what_an_overlay_does() {
    kata_test(|containerd| {
        let (base, top, own) = (root(containerd), containerd.directory(), containerd.directory());
        fs::write(top.join("file"), "of the top layer").expect("the directory is the test's own");
        let ours = ["ro", "loop"];
        let ours = [&top, &base].map(|layer| RootMount::new("erofs", containerd.erofs_of(layer), ours));
        let above = RootMount::new("format/overlay", "overlay", ["lowerdir={{ overlay 0 1 }}"]);
        let ours: Vec<_> = ours.into_iter().chain([above]).collect();
        let [upper, work] = ["fs", "work"].map(|name| own.join(name));
        for made in [&upper, &work] {
            fs::create_dir(made).expect("the directory is the test's own");
        }
        let lower = format!("lowerdir={}:{}", top.display(), base.display());
        let options = [lower, format!("upperdir={}", upper.display()), format!("workdir={}", work.display())];
        let right = [RootMount::new("overlay", "overlay", options)];
        compare_roots(containerd, &["files"], [&right, &ours], MEMORY_ABOVE_LAYERS);
    });
}

/// The probe at `/probe`, and the host's directory at `/data`.
fn with_probe(cri: &Cri<'_>, data: &Path) -> impl Fn(&mut ContainerConfig) {
    let mount = |host: &Path, container: &str, readonly| Mount {
        container_path: container.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    };
    let mounts = [mount(cri.containerd.stage.probe(), "/probe", true), mount(data, "/data", false)];
    move |config| config.mounts.extend_from_slice(&mounts)
}

/// Two containers had a file system each of one directory: neither saw the other's locks and mapped pages.
#[test]
fn two_containers_of_a_pod_have_one_file_system_of_a_common_volume() {
    cri_test(|cri| {
        let data = cri.containerd.directory();
        let with = with_probe(cri, &data);
        let pod = cri.pod().run();
        let holder = pod.container("holder").with(&with).command(["/probe", "hold", "/data"]).start();
        eventually("what is to be met is there", Duration::from_secs(30), || data.join("made").exists());
        let met = pod.container("other").with(&with).command(["/probe", "meet", "/data"]).run();
        let seen = "a lock of the whole file\terror 11\na record lock\terror 11\na socket\tthrough the socket\nlinks\t1\n\
                    what the other one mapped and wrote is mapped here\t1";
        assert_eq!(met.text(), seen);
        holder.wait();
        let held = "the other one's file is as long\t12345\nwhat the other one mapped and wrote is mapped here\t2\n\
                    what the other one mapped and wrote is read\t2\nwhat the other one wrote is mapped here\t3";
        assert_eq!(holder.ended().text(), held);
    });
}

/// As many as take some seconds under emulation.
const FILES: usize = 3000;

#[test]
fn a_tree_of_small_files_is_packed_and_unpacked_unchanged() {
    test(|containerd| {
        let data = containerd.directory();
        let path = |tree: &str, number: usize| data.join(tree).join(format!("{}/{number}", number % 50));
        let content = |number: usize| format!("{number} ").repeat(number % 700);
        for number in 0..FILES {
            fs::create_dir_all(path("tree", number).parent().unwrap()).unwrap();
            fs::write(path("tree", number), content(number)).unwrap();
        }
        let line = "mkdir /data/copy && tar -cf - -C /data/tree . | tar -xf - -C /data/copy && \
                    find /data/copy -type f | wc -l && rm -r /data/tree && ls /data";
        let run = containerd.container().bind(&Bind::writable(&data, "/data")).shell(line).run();
        assert_eq!(run.ok().text(), format!("{FILES}\ncopy"));
        assert!(
            (0..FILES).all(|number| fs::read_to_string(path("copy", number)).unwrap() == content(number))
        );
    });
}
