//! `shared_fs = "virtio-fs-nydus"`: images that nydusd has, which here is a stand-in that writes down each request.

use std::fs::{self, read_to_string};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use kata_e2e::{Bind, Containerd, Process, Recipe, RootMount, fail, kata_test};
use serde_json::{Value, json};

const NYDUSD: &str = env!("CARGO_BIN_EXE_fake-nydusd");

/// The files of VMs come from the stand-in from now on; where that writes down what it is asked for.
fn with_nydusd(containerd: &Containerd) -> PathBuf {
    let record = containerd.directory().join("requests");
    let virtiofsd = containerd.stage.prefix.join("libexec/virtiofsd");
    let extra = format!(
        "virtio_fs_extra_args = [\"--virtiofsd\", \"{}\", \"--record\", \"{}\"]",
        virtiofsd.display(),
        record.display()
    );
    containerd.reconfigure(|text| {
        let lines = text.lines().map(|line| match line.split(" = ").next() {
            Some("shared_fs") => "shared_fs = \"virtio-fs-nydus\"".to_owned(),
            Some("virtio_fs_daemon") => format!("virtio_fs_daemon = \"{NYDUSD}\""),
            Some("virtio_fs_extra_args") => extra.clone(),
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    });
    record
}

/// An image with busybox in it, and a snapshot over it.
struct Image {
    directory: PathBuf,
    metadata: PathBuf,
    snapshot: PathBuf,
}

impl Image {
    fn new(containerd: &Containerd) -> Self {
        let (directory, own) = (containerd.directory_of_busybox(), containerd.directory());
        let image = Self { directory, metadata: own.join("image.boot"), snapshot: own.join("snapshot") };
        fs::write(&image.metadata, "").expect("the test's directory");
        for below in ["fs", "work"] {
            fs::create_dir_all(image.snapshot.join(below)).expect("the test's directory");
        }
        image
    }

    fn config(&self) -> String {
        json!({ "device": { "backend": { "type": "localfs", "config": { "dir": self.directory } } } })
            .to_string()
    }

    /// As nydus-snapshotter returns it; `lower` is where it has the image mounted on the host.
    fn mount(&self, lower: &Path) -> RootMount {
        let Self { metadata, snapshot, .. } = self;
        let extra = json!({
            "source": metadata, "config": self.config(), "snapshotdir": snapshot, "fs_version": "v6",
        });
        let (lower, snapshot) = (lower.display(), snapshot.display());
        let options = [
            format!("lowerdir={lower}"),
            format!("upperdir={snapshot}/fs"),
            format!("workdir={snapshot}/work"),
            format!("extraoption={}", BASE64.encode(extra.to_string().as_bytes())),
        ];
        RootMount::new("fuse.nydus-overlayfs", "overlay", options)
    }
}

/// A member of the pod, for a root that is mounted for it.
fn member<'c>(containerd: &'c Containerd, pod: &str) -> Recipe<'c> {
    let pod = pod.to_owned();
    containerd.container().spec(move |spec| {
        spec["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": pod,
        });
        spec["root"]["path"] = json!("rootfs");
        spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
    })
}

fn requests(record: &Path) -> Vec<Value> {
    let text = read_to_string(record).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect()
}

#[test]
fn a_container_runs_on_an_image_that_nydusd_has() {
    kata_test(|containerd| {
        let record = with_nydusd(containerd);
        let data = containerd.directory();
        fs::write(data.join("file"), "of the host\n").unwrap();
        let pod = containerd.container().bind(&Bind::writable(&data, "/data"));
        let pod = pod.command(["/bin/sleep", "1000"]).start();
        assert_eq!(pod.shell("cat /data/file; echo back > /data/back"), "of the host");
        assert_eq!(read_to_string(data.join("back")).unwrap(), "back\n");

        let image = Image::new(containerd);
        let container = member(containerd, pod.id()).start_on(&[image.mount("/not/used".as_ref())]);
        let line =
            "cat /etc/passwd; echo new > /etc/new; rm /etc/group; mkdir /tmp/d; mv /etc /etc2; ls /etc2";
        assert_eq!(container.shell(line), "root:x:0:0:root:/:/bin/sh\nnew\npasswd");
        let written = image.snapshot.join("fs/etc2");
        assert_eq!(read_to_string(written.join("new")).unwrap(), "new\n");
        let whiteout = fs::metadata(image.snapshot.join("fs/etc")).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
        assert!(image.directory.join("etc/group").exists(), "an image is never written to");

        let mut broken = Image::new(containerd);
        broken.directory = "/no/such/blobs".into();
        let refused = member(containerd, pod.id()).try_create_task_on(&[broken.mount("/not/used".as_ref())]);
        let error = refused.err().unwrap_or_else(|| fail("an image without data is mounted"));
        assert!(error.contains("nydusd has refused `POST") && error.contains("ENOENT"), "{error}");

        let id = container.id().to_owned();
        container.remove();
        pod.remove();
        let asked = requests(&record);
        let lines: Vec<String> = asked
            .iter()
            .map(|one| format!("{} {}", one["method"].as_str().unwrap(), one["target"].as_str().unwrap()))
            .filter(|line| !line.contains("/rafs/") || line.contains(&id))
            .collect();
        assert_eq!(
            lines,
            [
                "GET /api/v1/daemon",
                "GET /api/v1/daemon",
                "POST /api/v1/mount?mountpoint=/containers",
                &format!("POST /api/v1/mount?mountpoint=/rafs/{id}/lowerdir"),
                &format!("DELETE /api/v1/mount?mountpoint=/rafs/{id}/lowerdir"),
            ]
        );
        let body: Value = serde_json::from_str(asked[3]["body"].as_str().unwrap()).unwrap();
        assert_eq!(body, json!({ "source": image.metadata, "fs_type": "rafs", "config": image.config() }));
    });
}

#[test]
fn a_killed_nydusd_ends_all_with_137_and_the_log_says_why() {
    kata_test(|containerd| {
        with_nydusd(containerd);
        let image = Image::new(containerd);
        let container = containerd.container().spec(|spec| {
            spec["root"]["path"] = json!("rootfs");
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = container.start_on(&[image.mount("/not/used".as_ref())]);
        let events = containerd.events();
        containerd.processes_of("fake-nydusd").iter().for_each(Process::kill);
        let exit = events.expect("/tasks/exit", container.id(), Duration::from_secs(10));
        assert_eq!(exit.exit_status(), 137);
        assert_eq!(container.delete(), 137);
        assert!(containerd.log().contains("fake-nydusd, which the VM's files come from, has ended"));
    });
}

#[test]
fn without_nydusd_the_mount_is_the_overlay_that_its_helper_makes() {
    kata_test(|containerd| {
        let image = Image::new(containerd);
        let container = containerd.container().spec(|spec| {
            spec["root"]["path"] = json!("rootfs");
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = container.start_on(&[image.mount(&image.directory)]);
        assert_eq!(container.shell("cat /etc/passwd; echo new > /etc/new"), "root:x:0:0:root:/:/bin/sh");
        assert_eq!(read_to_string(image.snapshot.join("fs/etc/new")).unwrap(), "new\n");
        container.remove();
    });
}
