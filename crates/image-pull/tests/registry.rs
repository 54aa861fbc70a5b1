//! Images pulled from a real registry (Debian's `docker-registry`), which runs for itself on loopback.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_GZIP_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE, OciImageManifest,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A registry with a storage of its own. It ends with this.
struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    address: String,
    folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let storage = folder.path().join("storage");
        let configuration = format!(
            "version: 0.1\nlog: {{ level: info, formatter: text }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: '127.0.0.1:0' }}\n",
            storage.display()
        );
        let file = folder.path().join("config.yml");
        fs::write(&file, configuration).expect("the folder is writable");
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry starts; `cargo xtask test` installs it");
        // It says which port it has got. What it says later must be read, too, lest it waits.
        let mut lines = BufReader::new(process.stderr.take().expect("it is a pipe")).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.expect("it writes text");
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address: address.expect("the registry says where it listens"), folder }
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Pushes layers, lowest first; the digest of the manifest.
    fn push(&self, name: &str, archives: &[Archive]) -> String {
        let diff_ids: Vec<_> = archives.iter().map(|archive| digest(&archive.plain)).collect();
        let config = serde_json::json!({ "os": "linux", "architecture": "amd64", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config =
            Config::new(serde_json::to_vec(&config).expect("JSON"), IMAGE_CONFIG_MEDIA_TYPE.into(), None);
        let layers: Vec<_> = archives.iter().map(Archive::layer).collect();
        let mut manifest = OciImageManifest::build(&layers, &config, None);
        manifest.media_type = Some("application/vnd.oci.image.manifest.v1+json".into());
        // Whoever comes second finds the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..Default::default() });
        let reference: Reference = self.reference(name).parse().expect("a reference");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let pushed = client.push(&reference, &layers, config, &RegistryAuth::Anonymous, Some(manifest));
        let url = runtime.block_on(pushed).expect("pushed").manifest_url;
        url.rsplit_once('/').expect("its last part is the digest").1.to_owned()
    }

    /// Where it keeps a blob.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        let blobs = self.folder.path().join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Changes one byte of a blob; its digest stays what the registry says.
    fn tamper(&self, digest: &str, at: usize) {
        let mut bytes = fs::read(self.blob(digest)).expect("is there");
        bytes[at] ^= 1;
        fs::write(self.blob(digest), bytes).expect("is there");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A layer.
struct Archive {
    plain: Vec<u8>,
    is_compressed: bool,
}

impl Archive {
    /// Files by name and text; a text that begins with `->` is a link's target.
    fn new(files: &[(&str, &str)]) -> Self {
        let mut builder = Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1234);
            header.as_gnu_mut().expect("is GNU's").name[..name.len()].copy_from_slice(name.as_bytes());
            let contents = match text.strip_prefix("->") {
                Some(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.as_gnu_mut().expect("is GNU's").linkname[..target.len()]
                        .copy_from_slice(target.as_bytes());
                    ""
                }
                None => text,
            };
            header.set_size(contents.len() as u64);
            header.set_cksum();
            builder.append(&header, contents.as_bytes()).expect("memory");
        }
        Self { plain: builder.into_inner().expect("memory"), is_compressed: false }
    }

    fn gzip(self) -> Self {
        Self { is_compressed: true, ..self }
    }

    fn layer(&self) -> ImageLayer {
        if !self.is_compressed {
            return ImageLayer::new(self.plain.clone(), IMAGE_LAYER_MEDIA_TYPE.into(), None);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&self.plain).expect("memory");
        ImageLayer::new(encoder.finish().expect("memory"), IMAGE_LAYER_GZIP_MEDIA_TYPE.into(), None)
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn pull(root: &Path, arguments: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kata-image-pull"));
    program.arg("--root").arg(root).args(arguments).output().expect("it starts")
}

/// Without TLS. The digest, or what it says.
fn pull_plain(registry: &Registry, root: &Path, name: &str) -> Result<String, String> {
    let output = pull(root, &["--plain-http", &registry.address, &registry.reference(name)]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn an_image_is_unpacked_layer_over_layer() {
    let (registry, root) = (Registry::start(), tempfile::tempdir().unwrap());
    let lower = Archive::new(&[
        ("etc/name", "lower"),
        ("etc/gone", ""),
        ("dir/a", ""),
        ("big", &"x".repeat(300_000)),
    ]);
    let upper =
        Archive::new(&[("etc/name", "upper"), ("etc/.wh.gone", ""), ("dir/.wh..wh..opq", ""), ("dir/b", "")]);
    let pushed = registry.push("team/app:1", &[lower.gzip(), upper]);
    assert_eq!(pull_plain(&registry, root.path(), "team/app:1").unwrap(), pushed);
    let read = |name: &str| fs::read_to_string(root.path().join(name)).map_err(|error| error.kind());
    assert_eq!(read("etc/name").unwrap(), "upper");
    assert_eq!(read("big").unwrap().len(), 300_000);
    let gone = Err(std::io::ErrorKind::NotFound);
    assert_eq!((read("etc/gone"), read("dir/a"), read("dir/b")), (gone.clone(), gone, Ok(String::new())));
    let root = tempfile::tempdir().unwrap();
    let by_digest = format!("team/app@{pushed}");
    assert_eq!(pull_plain(&registry, root.path(), &by_digest).unwrap(), pushed);
}

#[test]
fn what_has_another_digest_is_refused_manifest_configuration_and_layers() {
    let registry = Registry::start();
    let pushed =
        registry.push("app:1", &[Archive::new(&[("a", "text")]), Archive::new(&[("b", "text")]).gzip()]);
    let manifest = fs::read(registry.blob(&pushed)).unwrap();
    let parsed: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let named = |part: &serde_json::Value| part["digest"].as_str().unwrap().to_owned();
    let layers = parsed["layers"].as_array().unwrap();
    // The contents of a file; the time in the header of gzip, which nothing else would notice; a name in the configuration.
    let blobs = [(named(&layers[0]), 512), (named(&layers[1]), 4), (named(&parsed["config"]), 3)];
    for (blob, at) in blobs {
        let root = tempfile::tempdir().unwrap();
        registry.tamper(&blob, at);
        let refused = pull_plain(&registry, root.path(), "app:1").unwrap_err();
        assert!(refused.contains("digest") && refused.contains(&blob), "{blob}: {refused}");
        registry.tamper(&blob, at);
    }
    let root = tempfile::tempdir().unwrap();
    pull_plain(&registry, root.path(), "app:1").expect("all is as it was");
    // Another manifest, which is good, under this one's name.
    let other = registry.push("app:2", &[Archive::new(&[("c", "text")])]);
    fs::copy(registry.blob(&other), registry.blob(&pushed)).unwrap();
    let root = tempfile::tempdir().unwrap();
    pull_plain(&registry, root.path(), &format!("app@{pushed}")).expect_err("another manifest");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_hostile_layer_reaches_nothing_outside() {
    let registry = Registry::start();
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir(&root).unwrap();
    let there = outside.path().to_str().unwrap();
    registry.push("up:1", &[Archive::new(&[("../up", "theirs")])]);
    let refused = pull_plain(&registry, &root, "up:1").unwrap_err();
    assert!(refused.contains("\"../up\"") && refused.contains("leads out"), "{refused}");
    let links =
        [("out", &*format!("->{there}")), ("out/abs", "theirs"), ("rel", "->../.."), ("rel/rel", "theirs")];
    registry.push("link:1", &[Archive::new(&links)]);
    // Where the links lead in the image there is nothing, or the image's root.
    let _ = pull_plain(&registry, &root, "link:1");
    let names: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["root"]);
}

#[test]
fn a_registry_without_tls_must_be_named() {
    let (registry, root) = (Registry::start(), tempfile::tempdir().unwrap());
    registry.push("app:1", &[Archive::new(&[("a", "")])]);
    let output = pull(root.path(), &[&registry.reference("app:1")]);
    assert!(!output.status.success());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let (registry, root) = (Registry::start(), tempfile::tempdir().unwrap());
    let refused = pull_plain(&registry, root.path(), "no/such:1").unwrap_err();
    assert!(refused.contains("no/such:1 cannot be pulled"), "{refused}");
}
