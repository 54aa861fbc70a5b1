//! Lists of mounts as snapshotters pass them, and what the guest mounts for each.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BlockRootfs, BlockRootfsError, GuestMount, What};
use crate::block::DiskImage;
use crate::rootfs::RootfsMount;
use crate::virtual_volume::{GuestPull, VirtualVolume, VolumeDisk};

const GUEST: &str = "/run/kata-containers/c";

fn mount(fs_type: &str, source: impl Into<PathBuf>, options: &[&str]) -> RootfsMount {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    RootfsMount { fs_type: fs_type.to_owned(), source: source.into(), options, ..Default::default() }
}

fn of(mounts: &[RootfsMount]) -> Result<Option<BlockRootfs>, BlockRootfsError> {
    BlockRootfs::of(mounts, Path::new(GUEST), &Path::new(GUEST).join("layers"))
}

/// One line for each mount.
fn told(rootfs: &BlockRootfs) -> Vec<String> {
    let line = |mount: &GuestMount| {
        let what = match &mount.what {
            What::Disk { image, fs_type } => {
                let access = if image.read_only { "ro" } else { "rw" };
                format!("{fs_type} {access} {}", image.path.display())
            }
            What::Memory => "memory".to_owned(),
            What::Overlay { folders } => {
                let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
                format!("overlay +{}", folders.join(" +"))
            }
            What::Folder => "folder".to_owned(),
            What::Image { reference, .. } => format!("pull {reference}"),
        };
        let text = format!("{what} [{}] on {}", mount.options.join(","), mount.target.display());
        text.replace(GUEST, "~")
    };
    rootfs.mounts.iter().map(line).collect()
}

#[test]
fn directories_of_the_host_are_no_disks() {
    let lists = [
        vec![],
        vec![mount("bind", "/var", &["rbind", "ro"])],
        vec![mount("overlay", "overlay", &["lowerdir=/a:/b", "upperdir=/c", "workdir=/d"])],
        vec![mount("tmpfs", "tmpfs", &[])],
        vec![mount("ext4", "/no/such/device", &[])],
    ];
    for list in lists {
        assert_eq!(of(&list).unwrap(), None, "{list:?}");
    }
}

#[test]
fn an_image_with_loop_is_a_disk_on_the_root() {
    let rootfs = of(&[mount("ext4", "/s/1.img", &["loop", "noatime", "X-mount.x=y"])]).unwrap().unwrap();
    assert_eq!(rootfs.root, Path::new(GUEST).join("rootfs"));
    assert_eq!(told(&rootfs), ["ext4 rw /s/1.img [noatime] on ~/rootfs"]);
    let rootfs = of(&[mount("ext4", "/s/1.img", &["loop", "rw", "ro"])]).unwrap().unwrap();
    assert_eq!(told(&rootfs), ["ext4 ro /s/1.img [ro] on ~/rootfs"]);
}

#[test]
fn a_block_device_is_a_disk_on_the_root() {
    let nodes = fs::read_dir("/dev").unwrap().flatten().map(|entry| entry.path());
    let is_device = |path: &PathBuf| {
        use std::os::unix::fs::FileTypeExt;
        fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
    };
    let Some(device) = nodes.into_iter().find(is_device) else {
        eprintln!("skipped: there is no block device");
        return;
    };
    let rootfs = of(&[mount("xfs", &device, &["nouuid"])]).unwrap().unwrap();
    assert_eq!(told(&rootfs), [format!("xfs rw {} [nouuid] on ~/rootfs", device.display())]);
}

#[test]
fn layers_of_erofs_get_memory_to_write_to() {
    let layers = [
        mount("erofs", "/s/3/layer.erofs", &["ro", "loop"]),
        mount("erofs", "/s/2/layer.erofs", &["ro", "loop"]),
        mount(
            "format/overlay",
            "overlay",
            &["workdir=/s/4/work", "upperdir=/s/4/fs", "lowerdir={{ overlay 0 1 }}", "index=off"],
        ),
    ];
    let rootfs = of(&layers).unwrap().unwrap();
    assert_eq!(
        told(&rootfs),
        [
            "erofs ro /s/3/layer.erofs [ro] on ~/layers/0",
            "erofs ro /s/2/layer.erofs [ro] on ~/layers/1",
            "memory [mode=0755] on ~/writable",
            "overlay +~/writable/upper +~/writable/work [lowerdir=~/layers/0:~/layers/1,index=off,\
             upperdir=~/writable/upper,workdir=~/writable/work] on ~/rootfs",
        ]
    );
}

#[test]
fn an_image_as_upper_layer_is_written_to() {
    let layers = [
        mount("ext4", "/s/4/rwlayer.img", &["rw", "loop"]),
        mount("erofs", "/s/3/layer.erofs", &["ro", "loop"]),
        mount("erofs", "/s/2/layer.erofs", &["ro", "loop"]),
        mount(
            "format/mkdir/overlay",
            "overlay",
            &[
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
                "workdir={{ mount 0 }}/work",
                "upperdir={{ mount 0 }}/upper",
                "lowerdir={{ overlay 2 1 }}",
            ],
        ),
    ];
    let rootfs = of(&layers).unwrap().unwrap();
    assert_eq!(
        told(&rootfs),
        [
            "ext4 rw /s/4/rwlayer.img [] on ~/layers/0",
            "erofs ro /s/3/layer.erofs [ro] on ~/layers/1",
            "erofs ro /s/2/layer.erofs [ro] on ~/layers/2",
            "overlay +~/layers/0/work +~/layers/0/upper [lowerdir=~/layers/2:~/layers/1,\
             workdir=~/layers/0/work,upperdir=~/layers/0/upper] on ~/rootfs",
        ]
    );
}

#[test]
fn a_single_layer_of_erofs_can_be_written_over() {
    let rootfs = of(&[mount("erofs", "/s/1/layer.erofs", &["ro", "loop"])]).unwrap().unwrap();
    assert_eq!(rootfs.mounts.len(), 3);
    assert!(told(&rootfs)[2].contains("lowerdir=~/layers/0,upperdir=~/writable/upper"), "{rootfs:?}");
}

#[test]
fn a_directory_of_an_image_can_be_the_root() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let list = [
        mount("mkfs/ext4", image.path(), &["X-containerd.mkfs.fs=ext4", "rw", "loop"]),
        mount(
            "format/mkdir/bind",
            "{{ mount 0 }}/upper",
            &["X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "rw", "rbind"],
        ),
    ];
    assert!(matches!(of(&list), Err(BlockRootfsError::NoImage { .. })));
    fs::write(image.path(), "x").unwrap();
    let rootfs = of(&list).unwrap().unwrap();
    assert_eq!(rootfs.root, Path::new(GUEST).join("layers/0/upper"));
    assert_eq!(told(&rootfs)[1], "folder [] on ~/layers/0/upper");
}

#[test]
fn what_is_not_understood_is_refused_with_its_name() {
    let layer = || mount("erofs", "/s/1", &["ro", "loop"]);
    let at = |target: &str, mut mount: RootfsMount| {
        mount.target = target.into();
        mount
    };
    let cases: Vec<(Vec<RootfsMount>, &str)> = vec![
        (vec![mount("magic/erofs", "/s/1", &[])], "magic/erofs"),
        (vec![mount("loop", "/s/1", &["loop"])], "loop"),
        (vec![mount("erofs", "/s/1", &["device=/s/2"])], "max_unmerged_layers"),
        (vec![mount("erofs", "/s/1", &["X-containerd.dmverity=/s/2"])], "dm-verity"),
        (vec![layer(), layer()], "erofs"),
        (vec![layer(), mount("format/overlay", "overlay", &["lowerdir={{ mount 1 }}"])], "{{ mount 1 }}"),
        (vec![layer(), mount("overlay", "overlay", &["lowerdir=/host/dir"])], "/host/dir"),
        (vec![layer(), mount("bind", "/host/dir", &["rbind"])], "bind"),
        (vec![mount("bind", "/host", &["rbind"]), layer()], "bind"),
        (vec![layer(), at("/etc", mount("format/overlay", "overlay", &[]))], "/etc"),
    ];
    for (list, named) in cases {
        let error = of(&list).unwrap_err().to_string();
        assert!(error.contains(named), "{list:?}: {error}");
    }
}

#[test]
fn without_disks_only_what_the_host_mounts_by_itself_is_taken() {
    BlockRootfs::refuse_images(&[mount("ext4", "/dev/mapper/x", &[])]).unwrap();
    let error = BlockRootfs::refuse_images(&[mount("ext4", "/s/1.img", &["loop"])]).unwrap_err().to_string();
    assert!(error.contains("disable_block_device_use"), "{error}");
}

/// What is written to an image of eight megabytes.
fn limited(rootfs: BlockRootfs) -> BlockRootfs {
    rootfs.written_to(DiskImage::at("/l/i".into(), false), Path::new(GUEST))
}

#[test]
fn layers_with_a_limit_get_an_image_in_place_of_memory() {
    let layers = [mount("erofs", "/s/1.erofs", &["ro", "loop"])];
    let rootfs = limited(of(&layers).unwrap().unwrap());
    assert_eq!(
        told(&rootfs)[1..],
        [
            "ext4 rw /l/i [discard,noinit_itable] on ~/writable",
            "overlay +~/writable/upper +~/writable/work \
             [lowerdir=~/layers/0,upperdir=~/writable/upper,workdir=~/writable/work] on ~/rootfs",
        ]
    );
}

#[test]
fn a_disk_or_a_shared_root_with_a_limit_is_only_read() {
    let disk = limited(of(&[mount("ext4", "/s/1.img", &["loop"])]).unwrap().unwrap());
    let image = "ext4 rw /l/i [discard,noinit_itable] on ~/writable";
    let overlay = |lower: &str| {
        format!(
            "overlay +~/writable/upper +~/writable/work \
             [lowerdir={lower}/.,upperdir=~/writable/upper,workdir=~/writable/work] on ~/limited"
        )
    };
    assert_eq!(told(&disk), ["ext4 rw /s/1.img [] on ~/rootfs", image, &overlay("~/rootfs")]);
    assert_eq!(disk.root, Path::new(GUEST).join("limited"));
    let image_of = DiskImage::at("/l/i".into(), false);
    let shared = BlockRootfs::over("/share/c/rootfs".into(), image_of, Path::new(GUEST));
    assert_eq!(told(&shared), [image, &overlay("/share/c/rootfs")]);
}

fn described(volume: VirtualVolume, image: Option<&str>) -> Result<BlockRootfs, BlockRootfsError> {
    BlockRootfs::of_volume(volume, image, Path::new(GUEST), Some(&Path::new(GUEST).join("layers")))
}

fn volume_disk(fs_type: &str, options: &[&str]) -> VolumeDisk {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    VolumeDisk { source: "/s/1.img".into(), fs_type: fs_type.to_owned(), options }
}

#[test]
fn a_described_disk_is_the_root() {
    let rootfs = described(VirtualVolume::DirectBlock(volume_disk("ext4", &["noatime"])), None).unwrap();
    assert_eq!(told(&rootfs), ["ext4 rw /s/1.img [noatime] on ~/rootfs"]);
}

#[test]
fn a_described_image_is_read_and_memory_takes_what_is_written() {
    let rootfs = described(VirtualVolume::RawBlock(volume_disk("ext4", &["rw"])), None).unwrap();
    let lines = told(&rootfs);
    assert_eq!(lines[0], "ext4 ro /s/1.img [ro] on ~/layers/0");
    assert_eq!(lines[1], "memory [mode=0755] on ~/writable");
    assert!(lines[2].starts_with("overlay ") && lines[2].ends_with(" on ~/rootfs"), "{lines:?}");
}

#[test]
fn a_described_disk_is_refused_where_disks_are_not_to_be_used() {
    let volume = VirtualVolume::RawBlock(volume_disk("ext4", &[]));
    let refused = BlockRootfs::of_volume(volume, None, Path::new(GUEST), None).unwrap_err();
    assert!(matches!(refused, BlockRootfsError::Disabled { .. }), "{refused}");
}

#[test]
fn what_a_described_disks_options_ask_of_the_host_is_refused() {
    let volume = VirtualVolume::DirectBlock(volume_disk("ext4", &["device=/dev/x"]));
    assert!(matches!(described(volume, None), Err(BlockRootfsError::Option { .. })));
}

#[test]
fn an_image_is_pulled_by_the_name_that_the_manager_gives() {
    let pull = |reference: Option<&str>| {
        let reference = reference.map(str::to_owned);
        VirtualVolume::GuestPull(GuestPull { reference, ..Default::default() })
    };
    assert_eq!(told(&described(pull(Some("a/b:1")), Some("c/d:2")).unwrap()), ["pull c/d:2 [] on ~/rootfs"]);
    assert_eq!(told(&described(pull(Some("a/b:1")), None).unwrap()), ["pull a/b:1 [] on ~/rootfs"]);
    for image in [None, Some("-x"), Some("")] {
        assert!(matches!(described(pull(None), image), Err(BlockRootfsError::NoImageName)), "{image:?}");
    }
}
