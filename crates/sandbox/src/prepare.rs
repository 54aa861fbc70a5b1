//! A container's files on the host, and what the guest is told of them.

use std::path::{Path, PathBuf};

use kata_config::{EmptyDirMode, SizeLimits};
use kata_protocol::agent::Storage;
use kata_protocol::guest;
use kata_storage::block::DiskImage;
use kata_storage::empty_dir::EmptyDirs;
use kata_storage::huge_pages::{self, HugePages};
use kata_storage::idmap::IdMap;
use kata_storage::image::ImageError;
use kata_storage::memory::{Memory, Part};
use kata_storage::share::ContainerFiles;
use oci_spec::runtime::{RootBuilder, Spec};

use crate::disks::{Wanted, storage};
use crate::host::{BootError, Files, Sources};
use crate::launch::LaunchSpec;
use crate::{ContainerId, pod};

/// Annotations in which managers name a container as its pod does: containerd, CRI-O, the kubelet.
const NAMES: [&str; 3] =
    ["io.kubernetes.cri.container-name", "io.kubernetes.cri-o.ContainerName", "io.kubernetes.container.name"];

/// How the files of a sandbox's containers are prepared.
pub(crate) struct Preparation {
    sandbox: String,
    of_pod: bool,
    seccomp: bool,
    empty_dirs: EmptyDirs,
    layers: SizeLimits,
    layer_dir: PathBuf,
}

impl Preparation {
    pub(crate) fn of(spec: &LaunchSpec) -> Self {
        let runtime = &spec.config.runtime;
        let SizeLimits { default, named } = runtime.emptydir_size_limit.clone();
        Self {
            sandbox: spec.id.to_string(),
            of_pod: spec.pod.is_some(),
            seccomp: !runtime.disable_guest_seccomp,
            empty_dirs: EmptyDirs {
                are_images: runtime.emptydir_mode == EmptyDirMode::BlockPlain,
                limit: default,
                limits: named,
            },
            layers: runtime.writable_layer_size_limit.clone(),
            layer_dir: runtime.writable_layer_dir.clone(),
        }
    }

    /// Mounts the root file system, unless it is on disks, and the volumes into the share, and says where the guest finds
    /// them. Images are added to what is `wanted`.
    pub(crate) fn prepare(
        &self,
        files: &mut ContainerFiles,
        container: &ContainerId,
        sources: Sources,
        mut wanted: Wanted,
    ) -> Result<(Files, Wanted), BootError> {
        let Sources { bundle, rootfs, mut spec } = sources;
        let root = bundle.join(spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path()));
        let layer = self.layer(files, container, &spec)?;
        let mut storages = Vec::new();
        let mut guest_root = match (wanted.image(), wanted.root()) {
            (Some(image), _) => {
                let mount = files.share_image(image)?;
                storages.push(storage(&mount, None));
                mount.target
            }
            (None, Some(root)) => root,
            (None, None) => files.mount_rootfs(&rootfs, &root)?,
        };
        if let Some(layer) = layer {
            guest_root = wanted.limit(container, guest_root, layer);
        }
        set_root(&mut spec, guest_root)?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        files.set_empty_dirs(self.empty_dirs.clone());
        files.set_huge_page_limits(huge_pages::limits(&spec));
        let in_guest = files.share_volumes(&mut mounts, &bundle, &own_ids(&spec))?;
        wanted.add(in_guest.images);
        spec.set_mounts(Some(mounts));
        if !self.seccomp
            && let Some(linux) = spec.linux_mut()
        {
            linux.set_seccomp(None);
        }
        if self.of_pod {
            pod::share_memory(&mut spec)?;
        }
        let huge = in_guest.huge_pages.iter().map(huge_pages_storage);
        storages.extend(in_guest.memories.iter().map(memory).chain(huge));
        Ok((Files { spec, storages, ..Files::default() }, wanted))
    }

    /// The image for what the container writes to its root, if that has a limit.
    fn layer(
        &self,
        files: &mut ContainerFiles,
        container: &ContainerId,
        spec: &Spec,
    ) -> Result<Option<DiskImage>, ImageError> {
        let Some(size) = self.layers.of(name(spec)) else { return Ok(None) };
        files.make_layer(&self.layer_dir, &format!("{}-{container}", self.sandbox), size).map(Some)
    }
}

/// The container's name in its pod.
fn name(spec: &Spec) -> Option<&str> {
    let annotations = spec.annotations().as_ref()?;
    NAMES.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
}

/// A tmpfs; the agent makes it for the first container that names it.
pub(crate) fn memory(memory: &Memory) -> Storage {
    Storage {
        driver: "ephemeral".to_owned(),
        driver_options: memory.part.iter().map(directory).collect(),
        source: if memory.stays { "tmpfs" } else { "shm" }.to_owned(),
        fstype: "tmpfs".to_owned(),
        options: memory.options.iter().cloned().chain([format!("size={}", memory.size)]).collect(),
        mount_point: memory.guest_path.to_string_lossy().into_owned(),
        shared: memory.stays,
        ..Default::default()
    }
}

/// A file system of huge pages, which the guest gets ready for the container.
fn huge_pages_storage(pages: &HugePages) -> Storage {
    let reserved = format!("{}={}", guest::HUGE_PAGES, pages.reserved);
    Storage {
        driver: "ephemeral".to_owned(),
        driver_options: std::iter::once(reserved).chain(pages.part.iter().map(directory)).collect(),
        source: "none".to_owned(),
        fstype: "hugetlbfs".to_owned(),
        options: std::iter::once(format!("pagesize={}", pages.page)).chain(pages.options.clone()).collect(),
        mount_point: pages.guest_path.to_string_lossy().into_owned(),
        shared: pages.stays,
        ..Default::default()
    }
}

/// The option of a storage by which the agent makes a directory in it.
pub(crate) fn directory(part: &Part) -> String {
    let Part { path, mode, group } = part;
    format!("{}={mode:o}:{group}:{}", guest::VOLUME_DIRECTORY, path.display())
}

/// The ids of the container's user namespace.
fn own_ids(spec: &Spec) -> IdMap {
    let linux = spec.linux().as_ref();
    let uids = linux.and_then(|linux| linux.uid_mappings().clone()).unwrap_or_default();
    let gids = linux.and_then(|linux| linux.gid_mappings().clone()).unwrap_or_default();
    IdMap { uids, gids }
}

/// The root's path becomes the guest's; whether it is read-only stays.
fn set_root(spec: &mut Spec, path: PathBuf) -> Result<(), BootError> {
    let readonly = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let root = RootBuilder::default().path(path).readonly(readonly).build()?;
    spec.set_root(Some(root));
    Ok(())
}
