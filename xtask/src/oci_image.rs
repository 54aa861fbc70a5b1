//! Images of one layer, written as a tar file in OCI layout (image-spec, `image-layout.md`) that `ctr images import`
//! reads. Equal layers give equal images.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Writes the image `name`, which runs `command`, with this uncompressed layer to `to`.
pub(crate) fn write(name: &str, command: &[&str], layer: &Path, to: &Path) -> Result<()> {
    let mut file = File::open(layer).with_context(|| format!("Cannot read {}", layer.display()))?;
    let (layer_digest, layer_size) = digest_of(&mut file)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &hex(&config), config.len() as u64),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer_digest, layer_size)],
    })
    .to_string();
    let mut index =
        described("application/vnd.oci.image.manifest.v1+json", &hex(&manifest), manifest.len() as u64);
    index["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [index] }).to_string();

    let mut image = Archive::create(to)?;
    image.text("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    image.text("index.json", &index)?;
    image.text(&format!("blobs/sha256/{}", hex(&config)), &config)?;
    image.text(&format!("blobs/sha256/{}", hex(&manifest)), &manifest)?;
    image.file(&format!("blobs/sha256/{layer_digest}"), 0o644, File::open(layer)?, layer_size)?;
    image.finish()
}

fn described(media_type: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest_of(file: &mut File) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
    Ok((hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), size))
}

/// A tar file whose entries belong to root and have no time; it gets its name when it is complete.
pub(crate) struct Archive<'a> {
    builder: Builder<tempfile::NamedTempFile>,
    to: &'a Path,
}

impl<'a> Archive<'a> {
    /// Begins the file that will be `to`.
    pub(crate) fn create(to: &'a Path) -> Result<Self> {
        let directory = to.parent().context("A file needs a directory")?;
        Ok(Self { builder: Builder::new(tempfile::NamedTempFile::new_in(directory)?), to })
    }

    /// An empty directory.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(EntryType::Directory, mode, 0);
        Ok(self.builder.append_data(&mut header, path, io::empty())?)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        Ok(self.builder.append_link(&mut header, path, target)?)
    }

    /// A small file.
    pub(crate) fn text(&mut self, path: &str, text: &str) -> Result<()> {
        self.file(path, 0o644, text.as_bytes(), text.len() as u64)
    }

    /// A file of any size.
    pub(crate) fn file(&mut self, path: &str, mode: u32, data: impl Read, size: u64) -> Result<()> {
        Ok(self.builder.append_data(&mut header(EntryType::Regular, mode, size), path, data)?)
    }

    /// Completes the file.
    pub(crate) fn finish(self) -> Result<()> {
        let mut file = self.builder.into_inner()?;
        file.flush()?;
        file.persist(self.to).with_context(|| format!("Cannot write {}", self.to.display()))?;
        Ok(())
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_layers_give_equal_images() {
        let directory = tempfile::tempdir().unwrap();
        let [layer, first, second] = ["layer", "first", "second"].map(|name| directory.path().join(name));
        std::fs::write(&layer, [0; 1024]).unwrap();
        write("localhost/x:1", &["/x"], &layer, &first).unwrap();
        write("localhost/x:1", &["/x"], &layer, &second).unwrap();
        assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());

        let mut names: Vec<String> = Vec::new();
        for entry in tar::Archive::new(File::open(&first).unwrap()).entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names[..2], ["oci-layout", "index.json"]);
        assert_eq!(names.len(), 5);
    }
}
