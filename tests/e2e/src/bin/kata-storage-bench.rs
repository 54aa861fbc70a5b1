//! Figures of storage for `cargo xtask bench`: each line of standard input names one, a line of JSON is the answer.
//!
//! | request | answer |
//! |---|---|
//! | `share DIRECTORY` | seconds that a container takes for each kind of work in the directory, a volume of it: `write`, `read` (the file `read`), `small` |
//! | `block IMAGE` | seconds for reads at random of the file `data` in a container whose root is this image of ext4 |
//! | `start share`, `start erofs` | seconds until a container runs, from the beginning of its shim. Its image has two layers: directories, with the mount that containerd's overlayfs snapshotter passes for them; images of EROFS, with the mounts of its erofs snapshotter |
//! | `cache` | pages of an image of EROFS: how many it has (`image`), how many are in the host's page cache after one pod has read all of it (`first`) and after a second one has (`second`) |
//!
//! The work is done by `kata-probe storage`, which says what it is. The runtime is that of `KATA_E2E_RUNTIME`, as in the
//! tests.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use kata_e2e::{Container, Containerd, Recipe, RootMount, answer_lines, eventually, fail, test, with_probe};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};

/// The request that starts the workload, as the sandbox's timeline names it.
const LAST_PHASE: &str = "container started";
/// What the image of [`cache`] holds, in bytes.
const IMAGE_BYTES: usize = 64 << 20;

fn main() -> ExitCode {
    let mut served = false;
    test(|containerd| {
        served = true;
        let image = OnceCell::new();
        answer_lines(|request| answer(containerd, &image, request));
    });
    if served { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn answer(containerd: &Containerd, image: &OnceCell<Image>, request: &str) -> Value {
    let image = || image.get_or_init(|| Image::new(containerd));
    match request.split(' ').collect::<Vec<_>>()[..] {
        ["share", directory] => json!(share(containerd, Path::new(directory))),
        ["block", image] => json!(block(containerd, Path::new(image))),
        ["start", "share"] => json!(start(containerd, &[image().as_directories(containerd)])),
        ["start", "erofs"] => json!(start(containerd, &image().as_disks())),
        ["cache"] => cache(containerd),
        _ => fail(format_args!(
            "Unknown request {request:?}; the first lines of this program's source tell them"
        )),
    }
}

fn share(containerd: &Containerd, directory: &Path) -> BTreeMap<String, f64> {
    let container = with_probe(containerd, &containerd.stage.runtime, (directory, "/data", "rw"));
    let took = work(&container, &["write", "/data", "read", "/data/read", "small", "/data"]);
    container.remove();
    took
}

fn block(containerd: &Containerd, image: &Path) -> f64 {
    let container = idle(containerd).start_on(&[RootMount::new("ext4", image, ["loop"])]);
    let took = work(&container, &["random", "/data"]);
    container.remove();
    took["random"]
}

/// Seconds for each.
fn work(container: &Container<'_>, what: &[&str]) -> BTreeMap<String, f64> {
    let words = ["/bin/kata-probe", "storage"].iter().chain(what).copied();
    let told = container.exec(words).run().ok().text();
    let lines = told.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(what, took)| (what.to_owned(), took.parse().expect("a number of seconds"))).collect()
}

/// For a root file system that is mounted for it.
fn idle(containerd: &Containerd) -> Recipe<'_> {
    containerd.container().spec(|spec| {
        spec["root"]["path"] = json!("rootfs");
        spec["process"]["args"] = json!(["/bin/sleep", "3600"]);
    })
}

/// The top one first, as containerd's snapshotter passes them.
fn layers(images: &[&Path]) -> Vec<RootMount> {
    let layer = |image: &&Path| RootMount::new("erofs", *image, ["ro", "loop"]);
    let last = images.len() - 1;
    let options = [format!("lowerdir={{{{ overlay 0 {last} }}}}")];
    images.iter().map(layer).chain([RootMount::new("format/overlay", "overlay", options)]).collect()
}

/// An image of two layers, unpacked as each of containerd's snapshotters does it.
struct Image {
    /// The top one first.
    directories: [PathBuf; 2],
    disks: [PathBuf; 2],
}

impl Image {
    /// busybox, and a file above it.
    fn new(containerd: &Containerd) -> Self {
        let directories = [containerd.directory(), containerd.directory_of_busybox()];
        fs::write(directories[0].join("file"), "of the top layer").expect("the test's directory is writable");
        let disks = directories.each_ref().map(|directory| containerd.erofs_of(directory));
        Self { directories, disks }
    }

    /// With a new upper layer.
    fn as_directories(&self, containerd: &Containerd) -> RootMount {
        let own = containerd.directory();
        let [upper, work] = ["fs", "work"].map(|name| own.join(name));
        for made in [&upper, &work] {
            fs::create_dir(made).expect("the test's directory is writable");
        }
        let lower = self.directories.each_ref().map(|layer| layer.display().to_string()).join(":");
        let [upper, work] = [upper, work].map(|path| path.display().to_string());
        let options = [("lowerdir", lower), ("upperdir", upper), ("workdir", work)];
        RootMount::new("overlay", "overlay", options.map(|(name, value)| format!("{name}={value}")))
    }

    fn as_disks(&self) -> Vec<RootMount> {
        layers(&self.disks.each_ref().map(PathBuf::as_path))
    }
}

/// As the sandbox itself has it in its timeline: `ctr` and the test's own work are not counted.
fn start(containerd: &Containerd, mounts: &[RootMount]) -> f64 {
    let container = idle(containerd).start_on(mounts);
    let file = Path::new("/run/kata").join(container.id()).join("timeline.json");
    let mut end = None;
    eventually("the timeline is complete", Duration::from_secs(10), || {
        let timeline: Value =
            fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let spans = timeline["spans"].as_array().cloned().unwrap_or_default();
        end = spans.iter().find(|span| span["name"] == LAST_PHASE).and_then(|span| span["end_us"].as_f64());
        end.is_some()
    });
    container.remove();
    end.unwrap_or_default() / 1e6
}

fn cache(containerd: &Containerd) -> Value {
    let tree = containerd.directory();
    let bytes = kata_e2e::Pattern::new(1, IMAGE_BYTES as u64).bytes();
    fs::write(tree.join("data"), bytes).expect("the test's directory is writable");
    let (base, top) = (containerd.erofs_of_busybox(), containerd.erofs_of(&tree));
    let image = File::open(&top).expect("it was just made");
    let gone = image.sync_all().and_then(|()| Ok(fadvise(&image, 0, None, Advice::DontNeed)?));
    gone.expect("a file can be written back and forgotten");
    let pod = || {
        let container = idle(containerd).start_on(&layers(&[&top, &base]));
        container.shell("cat /data > /dev/null");
        container
    };
    let first = pod();
    let after_first = pages_in_cache(&top);
    let second = pod();
    let after_second = pages_in_cache(&top);
    first.remove();
    second.remove();
    let length = image.metadata().expect("it was just made").len();
    json!({ "image": length.div_ceil(4096), "first": after_first, "second": after_second })
}

/// Counted by the kernel (`mincore`), so it is exact.
fn pages_in_cache(file: &Path) -> u64 {
    let told = Command::new("fincore").args(["--noheadings", "--output", "PAGES"]).arg(file).output();
    let told = told.expect("util-linux is installed").stdout;
    String::from_utf8_lossy(&told).trim().parse().expect("fincore tells a number")
}
