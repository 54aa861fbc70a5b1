//! Root file systems that a snapshotter describes (`KataVirtualVolume`): images that the guest pulls from a registry on the
//! pod's network, and images on disks.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kata_e2e::{Containerd, Network, Recipe, RootMount, fail, kata_test};
use serde_json::{Value, json};

/// Debian's `docker-registry`, with a storage of its own. It ends with this.
struct Registry {
    process: Child,
    /// `ADDRESS:PORT`.
    address: String,
}

impl Registry {
    /// At an address of the test's own network.
    fn start(containerd: &Containerd, address: &str) -> Self {
        let folder = containerd.directory();
        let storage = folder.join("storage");
        let configuration = format!(
            "version: 0.1\nlog: {{ level: info, formatter: text }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: '{address}:0' }}\n",
            storage.display()
        );
        let file = folder.join("config.yml");
        fs::write(&file, configuration).expect("the folder is writable");
        let mut program = Command::new("docker-registry");
        program.arg("serve").arg(file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = program.spawn().expect("docker-registry is there");
        // It says which port it has got. What it says later must be read, too, lest it waits.
        let mut lines = BufReader::new(process.stderr.take().expect("it is a pipe")).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.expect("it writes text");
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address: address.unwrap_or_else(|| fail("the registry does not say where it listens")),
        }
    }

    /// Pushes the busybox of the tests; its reference.
    fn push_busybox(&self, containerd: &Containerd) -> String {
        containerd.container().command(["/bin/true"]).runtime("io.containerd.runc.v2").run().ok().done();
        let reference = format!("{}/busybox:1", self.address);
        containerd.ctr(["images", "tag", "localhost/kata/busybox:1", &reference]).ok().done();
        containerd.ctr(["images", "push", "--plain-http", &reference]).ok().done();
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As nydus-snapshotter passes a description.
fn described(containerd: &Containerd, volume: &Value) -> RootMount {
    let encoded = base64(containerd, &volume.to_string());
    let options = ["lowerdir=/none".to_owned(), format!("io.katacontainers.volume={encoded}")];
    RootMount::new("fuse.nydus-overlayfs", "overlay", options)
}

fn base64(containerd: &Containerd, text: &str) -> String {
    let file = containerd.directory().join("volume.json");
    fs::write(&file, text).expect("the folder is writable");
    let encoded = Command::new("base64").arg("--wrap=0").arg(file).output().expect("base64 is there");
    String::from_utf8(encoded.stdout).expect("base64 writes text")
}

/// For a root file system that the guest makes; its manager calls the image so.
fn idle<'c>(containerd: &'c Containerd, network: Option<&Network>, image: &str) -> Recipe<'c> {
    containerd.container().spec(|spec| {
        spec["root"]["path"] = json!("rootfs");
        spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        spec["annotations"] = json!({ "io.kubernetes.cri.image-name": image });
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        let its = namespaces.iter_mut().find(|namespace| namespace["type"] == "network");
        if let Some(network) = network {
            its.expect("a network namespace")["path"] = json!(network.path());
        }
    })
}

#[test]
fn a_guest_pulls_its_image_from_a_registry_on_the_pods_network() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let registry = Registry::start(containerd, "10.7.0.1");
        let image = registry.push_busybox(containerd);
        let root = [described(containerd, &json!({ "volume_type": "image_guest_pull", "image_pull": {} }))];

        let refused = idle(containerd, Some(&network), &image).try_create_task_on(&root);
        let refused = refused.err().unwrap_or_else(|| fail("the usual initrd cannot pull"));
        assert!(refused.contains("kata-containers-initrd-guest-pull.img"), "{refused}");

        containerd.reconfigure(|text| {
            let parameter =
                format!("kernel_params = \"agent.image_insecure_registries={}\"", registry.address);
            text.replace("kata-containers-initrd.img", "kata-containers-initrd-guest-pull.img")
                .replace("kernel_params = \"\"", &parameter)
        });
        let container = idle(containerd, Some(&network), &image).start_on(&root);
        assert_eq!(
            container.shell("stat -f -c %T / && echo x > /new && cat /new /etc/passwd | head -2"),
            "tmpfs\nx\nroot:x:0:0:root:/root:/bin/sh"
        );
        container.remove();
    });
}

#[test]
fn an_image_on_a_disk_that_a_snapshotter_describes_is_written_over_in_memory() {
    kata_test(|containerd| {
        let base = containerd.erofs_of_busybox();
        let volume =
            |kind: &str, source: &Path| json!({ "volume_type": kind, "source": source, "fs_type": "erofs" });
        let root = [described(containerd, &volume("image_raw_block", &base))];
        let container = idle(containerd, None, "busybox").start_on(&root);
        assert_eq!(
            container.shell("echo new > /etc/new; cat /etc/new; cat /etc/passwd"),
            "new\nroot:x:0:0:root:/:/bin/sh"
        );
        container.remove();
        let root = [described(containerd, &volume("image_nydus_block", &base))];
        let refused = idle(containerd, None, "busybox").try_create_task_on(&root);
        let refused = refused.err().unwrap_or_else(|| fail("nydus is not there"));
        assert!(refused.contains("image_nydus_block"), "{refused}");
    });
}
