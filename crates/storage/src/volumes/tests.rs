//! Classification in memory; sharing in a mount namespace of one's own.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMappingBuilder, Mount, MountBuilder};
use rustix::fs::fstatfs;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use tempfile::TempDir;

use super::{VolumeError, has_option};
use crate::block::DiskImage;
use crate::empty_dir::{EmptyDirs, ImageVolume};
use crate::huge_pages::HugePages;
use crate::idmap::IdMap;
use crate::memory::{Memory, Part};
use crate::share::{ContainerFiles, SharedDirectory};
use crate::testing::{MemoryLog, in_private_mounts, mounts_below};

fn oci(fs_type: &str, source: &Path, destination: &str, options: &[&str]) -> Mount {
    let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
    let builder =
        MountBuilder::default().typ(fs_type).source(source).destination(destination).options(options);
    builder.build().unwrap()
}

struct Fixture {
    run: TempDir,
    share: SharedDirectory,
    files: ContainerFiles,
    host: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        let share = SharedDirectory::create(run.path(), "sandbox", MemoryLog::new()).unwrap();
        let files = share.container("c").unwrap();
        Self { run, share, files, host: tempfile::tempdir().unwrap() }
    }

    /// A path on the host's side.
    fn host(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
    }

    fn share(&mut self, mount: &mut Mount) -> Result<Vec<Memory>, VolumeError> {
        let shared =
            self.files.share_volumes(std::slice::from_mut(mount), self.host.path(), &IdMap::default());
        shared.map(|in_guest| in_guest.memories)
    }

    /// Shares, checks the rewriting, and returns where virtiofsd sees it.
    fn shared(&mut self, mount: &mut Mount) -> PathBuf {
        self.share(mount).unwrap();
        assert_eq!(mount.typ().as_deref(), Some("bind"));
        let guest = mount.source().clone().unwrap();
        let below = guest.strip_prefix("/run/kata-containers/shared/containers").unwrap();
        self.share.exported_dir().join(below)
    }

    fn unchanged(&mut self, mount: &Mount) {
        let mut same = mount.clone();
        self.share(&mut same).unwrap();
        assert_eq!(&same, mount);
    }

    /// Takes everything back; returns the host's side, which must be unharmed.
    fn finish(mut self) -> TempDir {
        self.files.remove().unwrap();
        self.share.remove().unwrap();
        assert_eq!(mounts_below(self.run.path()), Vec::<String>::new());
        assert_eq!(fs::read_dir(self.run.path()).unwrap().count(), 0);
        self.host
    }
}

#[test]
fn directories_and_files_are_shared_under_new_names() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        fs::create_dir(fixture.host("data")).unwrap();
        fs::write(fixture.host("resolv.conf"), "nameserver ::1\n").unwrap();
        symlink("resolv.conf", fixture.host("a link ü")).unwrap();

        let mut directory = oci("bind", &fixture.host("data"), "/data", &["rbind", "rw"]);
        let seen = fixture.shared(&mut directory);
        fs::write(seen.join("file"), "x").unwrap();
        assert_eq!(fs::read(fixture.host("data/file")).unwrap(), b"x");
        assert_eq!(directory.options().as_ref().unwrap(), &["rbind", "rw"]);
        assert!(directory.source().as_ref().unwrap().ends_with("volumes/0-data"));

        let mut file = oci("bind", Path::new("a link ü"), "/etc/resolv.conf", &[]);
        let seen = fixture.shared(&mut file);
        assert_eq!(fs::read(&seen).unwrap(), b"nameserver ::1\n");
        assert!(file.source().as_ref().unwrap().ends_with("volumes/1-a_link__"));
        assert_eq!(file.options().as_ref().unwrap(), &["rbind"]);
        fixture.finish();
    });
}

#[test]
fn read_only_holds_on_the_host_and_below() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let (data, inner) = (fixture.host("data"), fixture.host("data/inner"));
        fs::create_dir_all(&inner).unwrap();
        mount("tmpfs", &inner, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        let seen = fixture.shared(&mut oci("bind", &data, "/data", &["rw", "rbind", "ro"]));
        assert_eq!(fs::read(seen.join("inner/file")).unwrap(), b"x");
        assert!(fs::write(seen.join("new"), "").is_err());
        assert!(fs::write(seen.join("inner/new"), "").is_err());
        fs::write(inner.join("new"), "the host's own mount stays writable").unwrap();

        let seen = fixture.shared(&mut oci("bind", &data, "/flat", &["bind"]));
        assert!(!seen.join("inner/file").exists());
        let _host = fixture.finish();
        assert!(inner.join("file").exists());
    });
}

#[test]
fn later_mounts_on_the_host_are_followed_only_when_asked_for() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let data = fixture.host("data");
        fs::create_dir(&data).unwrap();
        mount("tmpfs", &data, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(&data, MountPropagationFlags::SHARED).unwrap();
        fs::create_dir(data.join("later")).unwrap();
        let private = fixture.shared(&mut oci("bind", &data, "/a", &["rbind"]));
        let slave = fixture.shared(&mut oci("bind", &data, "/b", &["rbind", "rslave"]));
        mount("tmpfs", data.join("later"), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(data.join("later/file"), "x").unwrap();
        assert!(!private.join("later/file").exists());
        assert!(slave.join("later/file").exists());
        let _host = fixture.finish();
        assert!(data.join("later/file").exists());
    });
}

#[test]
fn the_whole_host_can_be_a_volume() {
    in_private_mounts(|| {
        mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
        let mut fixture = Fixture::new();
        let seen = fixture.shared(&mut oci("bind", Path::new("/"), "/host", &["rbind", "rslave", "ro"]));
        assert!(seen.join("proc/self").exists() && seen.join("etc").exists());
        fixture.finish();
        assert!(Path::new("/proc/self").exists());
    });
}

#[test]
fn what_is_the_guests_own_stays_as_it_is() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        for mount in [
            oci("proc", Path::new("proc"), "/proc", &["nosuid"]),
            oci("tmpfs", Path::new("tmpfs"), "/run", &["size=1m"]),
            oci("cgroup", Path::new("cgroup"), "/sys/fs/cgroup", &["ro"]),
            oci("bind", Path::new("/sys/fs/cgroup"), "/cg", &["rbind"]),
            oci("none", Path::new("/proc/does-not-exist-here"), "/x", &["bind"]),
            oci("bind", Path::new("/dev"), "/dev", &["rbind"]),
            oci("bind", Path::new("/dev/null"), "/etc/masked", &["bind"]),
        ] {
            fixture.unchanged(&mount);
        }
        fixture.finish();
    });
}

#[test]
fn shared_memory_is_the_guests_and_one_for_all_that_bind_it() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let [shm, other] = ["shm", "other"].map(|name| {
            let path = fixture.host(name);
            fs::create_dir(&path).unwrap();
            let size = rustix::cstr!("size=1m");
            mount("shm", &path, "tmpfs", MountFlags::empty(), Some(size)).unwrap();
            path
        });
        let expected = |path: &str, more: &[&str]| {
            let options: Vec<_> =
                ["rbind", "nosuid", "noexec", "nodev"].iter().chain(more).copied().collect();
            oci("bind", Path::new(path), "/dev/shm", &options)
        };
        let first = "/run/kata-containers/sandbox/shm";
        let mut shared = oci("bind", &shm, "/dev/shm", &["rbind", "ro"]);
        let memory = fixture.share(&mut shared).unwrap();
        assert_eq!(memory, [Memory::shared(first.into(), 1 << 20)]);
        assert_eq!(shared, expected(first, &["ro"]));

        fixture.files = fixture.share.container("second").unwrap();
        let mut again = oci("bind", &shm, "/dev/shm", &["rbind"]);
        assert_eq!(fixture.share(&mut again).unwrap(), memory);
        assert_eq!(again, expected(first, &[]));
        let mut own = oci("bind", &other, "/dev/shm", &["rbind"]);
        fixture.share(&mut own).unwrap();
        assert_eq!(own, expected("/run/kata-containers/sandbox/shm-1", &[]));
        fixture.files.remove().unwrap();
        for path in [shm, other] {
            unmount(path, UnmountFlags::empty()).unwrap();
        }
    });
}

/// The kubelet's directory of a pod's `emptyDir` with memory, and one of its other directories.
fn empty_dir(fixture: &Fixture, options: &str) -> [PathBuf; 2] {
    let pod = fixture.host("kubelet/pods/7f");
    let volume = pod.join("volumes/kubernetes.io~empty-dir/cache");
    let part = pod.join("volume-subpaths/cache/main/0");
    for dir in [&volume, &part] {
        fs::create_dir_all(dir).unwrap();
    }
    let options = std::ffi::CString::new(options).unwrap();
    mount("tmpfs", &volume, "tmpfs", MountFlags::NODEV, Some(options.as_c_str())).unwrap();
    fs::create_dir_all(volume.join("a b/c")).unwrap();
    fs::set_permissions(volume.join("a b/c"), fs::Permissions::from_mode(0o2770)).unwrap();
    mount_bind(volume.join("a b/c"), &part).unwrap();
    [volume, part]
}

#[test]
fn an_empty_dir_of_memory_is_memory_of_the_guest_until_the_sandbox_ends() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let [volume, part] = empty_dir(&fixture, "size=8m,mode=2777,gid=5");
        let guest_path = Path::new("/run/kata-containers/sandbox/ephemeral/cache");
        let options = ["nodev", "mode=2777", "uid=0", "gid=5"].map(str::to_owned).to_vec();
        let whole = Memory { guest_path: guest_path.into(), size: 8 << 20, options, stays: true, part: None };
        let mut mount = oci("bind", &volume, "/cache", &["rbind", "rprivate", "ro"]);
        assert_eq!(fixture.share(&mut mount).unwrap(), std::slice::from_ref(&whole));
        assert_eq!(mount, oci("bind", guest_path, "/cache", &["rbind", "rprivate", "ro"]));

        let mut mount = oci("bind", &part, "/part", &["rbind"]);
        let in_it = Part { path: "a b/c".into(), mode: 0o2770, group: 5 };
        assert_eq!(fixture.share(&mut mount).unwrap(), [Memory { part: Some(in_it), ..whole }]);
        assert_eq!(mount, oci("bind", &guest_path.join("a b/c"), "/part", &["rbind"]));
        for path in [part, volume] {
            unmount(path, UnmountFlags::empty()).unwrap();
        }
        fixture.finish();
    });
}

/// It was the container's own shared memory, and ended with it.
#[test]
fn an_empty_dir_of_memory_is_the_pods_also_on_dev_shm() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let [volume, part] = empty_dir(&fixture, "size=8m,mode=2777,gid=5");
        let mut elsewhere = oci("bind", &volume, "/cache", &["rbind"]);
        let whole = fixture.share(&mut elsewhere).unwrap();
        let mut mount = oci("bind", &volume, "/dev/shm", &["rbind"]);
        assert_eq!(fixture.share(&mut mount).unwrap(), whole);
        assert_eq!(mount.source(), elsewhere.source());
        assert!(whole[0].stays);
        for path in [part, volume] {
            unmount(path, UnmountFlags::empty()).unwrap();
        }
        fixture.finish();
    });
}

#[test]
fn an_empty_dir_on_a_disk_stays_on_the_share() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        mount("tmpfs", fixture.host.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        let volume = fixture.host("pods/7f/volumes/kubernetes.io~empty-dir/cache");
        fs::create_dir_all(&volume).unwrap();
        fs::write(volume.join("file"), "x").unwrap();
        // All of the kubelet's may be on a tmpfs: then this is no memory of the pod's own.
        let seen = fixture.shared(&mut oci("bind", &volume, "/cache", &["rbind"]));
        assert_eq!(fs::read(seen.join("file")).unwrap(), b"x");
        fixture.files.remove().unwrap();
        unmount(fixture.host.path(), UnmountFlags::empty()).unwrap();
    });
}

/// The kubelet's directory of a pod's `emptyDir` on its disk, and that of a directory in it.
fn empty_dir_on_disk(fixture: &Fixture) -> [PathBuf; 2] {
    let pod = fixture.host("kubelet/pods/7f");
    let volume = pod.join("volumes/kubernetes.io~empty-dir/cache");
    let part = pod.join("volume-subpaths/cache/main/0");
    for dir in [&volume.join("a/b"), &part] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
    mount_bind(volume.join("a/b"), &part).unwrap();
    [volume, part]
}

#[test]
fn an_empty_dir_with_a_limit_is_an_image_in_its_directory() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let [volume, part] = empty_dir_on_disk(&fixture);
        let limits = [("cache".to_owned(), 8 << 20)].into();
        fixture.files.set_empty_dirs(EmptyDirs { limits, ..EmptyDirs::default() });
        let mut mounts =
            [oci("bind", &volume, "/cache", &["rbind"]), oci("bind", &part, "/part", &["rbind", "ro"])];
        let found = fixture.files.share_volumes(&mut mounts, fixture.host.path(), &IdMap::default()).unwrap();
        let image = DiskImage::at(volume.join("kata-emptydir.img"), false);
        let size = fs::metadata(&image.path).unwrap().len();
        assert!(size < 8 << 20 && size > 7 << 20, "{size}");
        let guest_path = Path::new("/run/kata-containers/sandbox/ephemeral/cache");
        let directory = |path: &str, mode| Part { path: path.into(), mode, group: 0 };
        let whole =
            ImageVolume { image, guest_path: guest_path.into(), parts: vec![directory("data", 0o2777)] };
        let mode = fs::metadata(&part).unwrap().permissions().mode() & 0o7777;
        let parts = vec![directory("data", 0o2777), directory("data/a/b", mode)];
        assert_eq!(found.images, [whole.clone(), ImageVolume { parts, ..whole }]);
        let bound = [guest_path.join("data"), guest_path.join("data/a/b")];
        let expected =
            [oci("bind", &bound[0], "/cache", &["rbind"]), oci("bind", &bound[1], "/part", &["rbind", "ro"])];
        assert_eq!(mounts, expected);
        let names: Vec<_> = fs::read_dir(&volume).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        unmount(&part, UnmountFlags::empty()).unwrap();
        fixture.finish();
    });
}

/// As `subPath` of another container of the pod: who could write to the image could make it as large as he likes.
#[test]
fn the_image_of_an_empty_dir_is_not_given_to_a_container() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let [volume, part] = empty_dir_on_disk(&fixture);
        let limits = [("cache".to_owned(), 8 << 20)].into();
        fixture.files.set_empty_dirs(EmptyDirs { limits, ..EmptyDirs::default() });
        let mut mounts = [oci("bind", &volume, "/cache", &["rbind"])];
        fixture.files.share_volumes(&mut mounts, fixture.host.path(), &IdMap::default()).unwrap();
        let other = part.with_file_name("1");
        fs::write(&other, "").unwrap();
        mount_bind(volume.join("kata-emptydir.img"), &other).unwrap();
        let mut mounts = [oci("bind", &other, "/image", &["rbind"])];
        let refused = fixture.files.share_volumes(&mut mounts, fixture.host.path(), &IdMap::default());
        assert!(matches!(refused, Err(VolumeError::Kind { .. })), "{refused:?}");
        for mounted in [&other, &part] {
            unmount(mounted, UnmountFlags::empty()).unwrap();
        }
        fixture.finish();
    });
}

#[test]
fn only_empty_dirs_of_files_are_images_and_only_those_that_are_meant() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let [memory, part] = empty_dir(&fixture, "size=8m");
        let other = memory.with_file_name("other");
        fs::create_dir(&other).unwrap();
        let limits = [("cache".to_owned(), 8 << 20)].into();
        fixture.files.set_empty_dirs(EmptyDirs { limits, ..EmptyDirs::default() });
        let mut mounts = [&memory, &other].map(|source| oci("bind", source, "/x", &["rbind"]));
        let found = fixture.files.share_volumes(&mut mounts, fixture.host.path(), &IdMap::default()).unwrap();
        assert_eq!((found.memories.len(), found.images), (1, vec![]));
        fixture.files.set_empty_dirs(EmptyDirs { are_images: true, ..EmptyDirs::default() });
        let mut mount = [oci("bind", &other, "/x", &["rbind"])];
        let found = fixture.files.share_volumes(&mut mount, fixture.host.path(), &IdMap::default()).unwrap();
        let size = fs::metadata(&found.images[0].image.path).unwrap().len();
        assert!(size > 1 << 30, "as much as the host's file system has: {size}");
        for path in [part, memory] {
            unmount(path, UnmountFlags::empty()).unwrap();
        }
        fixture.finish();
    });
}

#[test]
fn an_image_cannot_belong_to_others() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let [volume, part] = empty_dir_on_disk(&fixture);
        fixture.files.set_empty_dirs(EmptyDirs { limit: Some(8 << 20), ..EmptyDirs::default() });
        let mut mount = oci("bind", &volume, "/cache", &["rbind", "idmap"]);
        let ids =
            LinuxIdMappingBuilder::default().container_id(0_u32).host_id(5_u32).size(1_u32).build().unwrap();
        mount.set_uid_mappings(Some(vec![ids])).set_gid_mappings(Some(vec![ids]));
        assert!(matches!(fixture.share(&mut mount), Err(VolumeError::NoFiles { .. })));
        unmount(&part, UnmountFlags::empty()).unwrap();
        fixture.finish();
    });
}

/// What the mounts become for a container that may use eight megabytes of pages of two megabytes.
fn huge_pages(fixture: &mut Fixture, mounts: &mut [Mount]) -> Vec<HugePages> {
    fixture.files.set_huge_page_limits([(2 << 20, 8 << 20)].into());
    fixture.files.share_volumes(mounts, fixture.host.path(), &IdMap::default()).unwrap().huge_pages
}

/// It was taken for each mount, and a VM that was made for the limit had too little.
#[test]
fn the_limit_of_huge_pages_is_for_all_mounts_of_a_container() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let none = Path::new("none");
        let given = ["pagesize=2M", "size=4M"];
        let mut mounts = [
            oci("hugetlbfs", none, "/a", &[]),
            oci("hugetlbfs", none, "/b", &given),
            oci("hugetlbfs", none, "/c", &[]),
        ];
        let reserved: Vec<_> =
            huge_pages(&mut fixture, &mut mounts).iter().map(|pages| pages.reserved >> 20).collect();
        assert_eq!(reserved, [8, 4, 0]);
        fixture.finish();
    });
}

#[test]
fn huge_pages_are_the_guests_as_many_as_the_container_may_use() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let volume = fixture.host("kubelet/pods/7f/volumes/kubernetes.io~empty-dir/big");
        fs::create_dir_all(&volume).unwrap();
        let options = Some(c"pagesize=2M,mode=777,gid=5");
        if let Err(error) = mount("none", &volume, "hugetlbfs", MountFlags::NODEV, options) {
            eprintln!("skipped: no hugetlbfs here: {error}");
            return;
        }
        let mut mounts = [oci("bind", &volume, "/big", &["rbind", "ro"])];
        let guest_path = Path::new("/run/kata-containers/sandbox/ephemeral/big");
        let expected = HugePages {
            guest_path: guest_path.into(),
            page: 2 << 20,
            reserved: 8 << 20,
            options: ["nodev", "mode=777", "uid=0", "gid=5"].map(str::to_owned).to_vec(),
            stays: true,
            part: None,
        };
        assert_eq!(huge_pages(&mut fixture, &mut mounts), [expected]);
        assert_eq!(mounts, [oci("bind", guest_path, "/big", &["rbind", "ro"])]);
        unmount(&volume, UnmountFlags::empty()).unwrap();
        fixture.finish();
    });
}

#[test]
fn a_mount_of_huge_pages_may_say_how_many_itself() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let none = Path::new("none");
        let given = ["nosuid", "pagesize=1G", "size=2G"];
        let mut mounts = [oci("hugetlbfs", none, "/a", &given), oci("hugetlbfs", none, "/b", &[])];
        let found = huge_pages(&mut fixture, &mut mounts);
        let told: Vec<_> = found.iter().map(|pages| (pages.page, pages.reserved, pages.stays)).collect();
        assert_eq!(told, [(1 << 30, 2 << 30, false), (2 << 20, 8 << 20, false)]);
        assert_eq!(found[0].options, ["nosuid", "size=2G"]);
        assert_ne!(found[0].guest_path, found[1].guest_path);
        assert_eq!(mounts[0], oci("bind", &found[0].guest_path, "/a", &["rbind", "nosuid"]));
        fixture.finish();
    });
}

#[test]
fn huge_pages_without_a_number_are_refused() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let refused = fixture.share(&mut oci("hugetlbfs", Path::new("none"), "/huge", &[])).unwrap_err();
        assert!(matches!(refused, VolumeError::HugePages { .. }), "{refused}");
    });
}

#[test]
fn a_directory_that_is_no_memory_keeps_its_files_on_dev_shm() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let data = fixture.host("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("file"), "kept").unwrap();
        if fstatfs(File::open(&data).unwrap()).unwrap().f_type == 0x0102_1994 {
            return;
        }
        let mut mount = oci("bind", &data, "/dev/shm", &["rbind"]);
        assert_eq!(fs::read(fixture.shared(&mut mount).join("file")).unwrap(), b"kept");
        fixture.finish();
    });
}

#[test]
fn errors_name_source_and_destination() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let missing = fixture.share(&mut oci("bind", Path::new("/nonexistent"), "/data", &[])).unwrap_err();
        let text = missing.to_string();
        assert!(text.contains("\"/nonexistent\"") && text.contains("\"/data\""), "{text}");

        let socket = fixture.host("docker.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let refused = fixture.share(&mut oci("bind", &socket, "/run/docker.sock", &[])).unwrap_err();
        assert!(refused.to_string().contains("is a socket"), "{refused}");
        let refused = fixture.share(&mut oci("bind", Path::new("/dev/kmsg"), "/dev/kmsg", &[])).unwrap_err();
        assert!(refused.to_string().contains("character device"), "{refused}");

        let nfs = fixture.share(&mut oci("nfs", Path::new("server:/x"), "/data", &[])).unwrap_err();
        assert!(matches!(nfs, VolumeError::Type { .. }), "{nfs}");
        let mut no_source = oci("bind", Path::new("x"), "/data", &[]);
        no_source.set_source(None);
        assert!(matches!(fixture.share(&mut no_source), Err(VolumeError::NoSource { .. })));
        fixture.finish();
    });
}

#[test]
fn files_of_a_mapped_mount_belong_to_others() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        fs::create_dir(fixture.host("data")).unwrap();
        fs::write(fixture.host("data/file"), "x").unwrap();
        std::os::unix::fs::chown(fixture.host("data/file"), Some(3), Some(4)).unwrap();
        let mut mount = oci("bind", &fixture.host("data"), "/data", &["rbind", "idmap"]);
        let ids = |host: u32| {
            let ids = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(host).size(10_u32);
            Some(vec![ids.build().unwrap()])
        };
        mount.set_uid_mappings(ids(1000)).set_gid_mappings(ids(2000));
        let shared = fixture.shared(&mut mount);
        let seen = fs::metadata(shared.join("file")).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (1003, 2004));
        assert_eq!((mount.uid_mappings(), has_option(&mount, "idmap")), (&None, false));
        let host = fixture.finish();
        assert_eq!(fs::metadata(host.path().join("data/file")).unwrap().uid(), 3);
    });
}

#[test]
fn what_is_not_the_hosts_cannot_be_mapped() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let mut mount = oci("tmpfs", Path::new("tmpfs"), "/tmp", &["idmap"]);
        assert!(matches!(fixture.share(&mut mount), Err(VolumeError::Ids { .. })), "no ids are given");
        let ids =
            LinuxIdMappingBuilder::default().container_id(0_u32).host_id(5_u32).size(1_u32).build().unwrap();
        mount.set_uid_mappings(Some(vec![ids])).set_gid_mappings(Some(vec![ids]));
        assert!(matches!(fixture.share(&mut mount), Err(VolumeError::NoFiles { .. })));
        fixture.finish();
    });
}
