//! The upper layer of a container's root, before anybody has written to it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path};

use kata_protocol::agent::Storage;
use kata_protocol::oci::{Mount, Spec};

use super::OVERLAYFS;
use super::folders::Made;

/// Driver option of our own: a folder of the root that is mounted on.
const PLACE: &str = "io.katacontainers.volume.overlayfs.place=";

/// Notes in the storage that is a container's root where its file systems are mounted, as far as that is directly below the root. Many
/// images have no `/run`, and those from scratch nothing at all: to make a folder by way of an overlay takes ten times as long.
pub(crate) fn note_places(storages: &mut [Storage], spec: &Spec) {
    let is_root =
        |storage: &&mut Storage| storage.driver == OVERLAYFS && storage.mount_point == spec.Root.Path;
    let Some(root) = storages.iter_mut().find(is_root) else { return };
    root.driver_options.extend(spec.Mounts.iter().filter_map(place).map(|name| format!("{PLACE}{name}")));
}

/// The name of the folder that it needs. What is bound may be a file.
fn place(mount: &Mount) -> Option<&str> {
    let is_bound = mount.type_ == "bind"
        || mount.options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    let mut parts = Path::new(&mount.destination).components();
    match (is_bound, parts.next(), parts.next(), parts.next()) {
        (false, Some(Component::RootDir), Some(Component::Normal(name)), None) => name.to_str(),
        _ => None,
    }
}

/// Gives a new upper layer the mode and the owner of what lies below, which are the root's own from now on, and the folders that are
/// mounted on and that no layer has.
pub(super) fn begin(storage: &Storage, made: &mut Made) -> io::Result<()> {
    let value = |name| storage.options.iter().find_map(|option| option.strip_prefix(name));
    let (Some(lower), Some(upper)) = (value("lowerdir="), value("upperdir=")) else { return Ok(()) };
    let (layers, upper) = (lower.split(':').map(Path::new), Path::new(upper));
    let top = fs::metadata(layers.clone().next().unwrap_or(upper))?;
    chown(upper, Some(top.uid()), Some(top.gid()))?;
    fs::set_permissions(upper, top.permissions())?;
    for name in storage.driver_options.iter().filter_map(|option| option.strip_prefix(PLACE)) {
        if layers.clone().all(|layer| is_missing(&layer.join(name))) {
            let folder = upper.join(name);
            made.folder(&folder)?;
            fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// What cannot be looked at is left to the overlay.
fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    /// An overlay that is not mounted: its folder, its upper layer, its storage.
    fn overlay(layers: &[&str]) -> (TempDir, PathBuf, Storage) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = |name: &str| folder.path().join(name);
        for name in layers.iter().chain(&["upper"]) {
            fs::create_dir(path(name)).expect("made");
        }
        let lower: Vec<_> = layers.iter().map(|name| path(name).display().to_string()).collect();
        let options =
            vec![format!("lowerdir={}", lower.join(":")), format!("upperdir={}", path("upper").display())];
        let storage =
            Storage { driver: OVERLAYFS.into(), mount_point: "/root".into(), options, ..Default::default() };
        let upper = path("upper");
        (folder, upper, storage)
    }

    fn mount(type_: &str, destination: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { type_: type_.into(), destination: destination.into(), options, ..Default::default() }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries =
            fs::read_dir(folder).expect("is there").map(|entry| entry.expect("can be read").file_name());
        let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_written_over_a_root_has_the_roots_mode() {
        let (folder, upper, storage) = overlay(&["top", "base"]);
        fs::set_permissions(folder.path().join("top"), Permissions::from_mode(0o1731)).expect("changed");
        begin(&storage, &mut Made::default()).expect("begun");
        assert_eq!(fs::metadata(&upper).expect("is there").permissions().mode() & 0o7777, 0o1731);
    }

    #[test]
    fn folders_that_are_mounted_on_and_no_layer_has_are_there_before_the_mount() {
        let (folder, upper, mut storage) = overlay(&["top", "base"]);
        fs::create_dir(folder.path().join("base/proc")).expect("made");
        std::os::unix::fs::symlink("/elsewhere", folder.path().join("top/tmp")).expect("made");
        let mut spec = Spec::default();
        spec.Root.mut_or_insert_default().Path = "/root".into();
        spec.Mounts = vec![
            mount("proc", "/proc", &[]),
            mount("tmpfs", "/run", &["nosuid"]),
            mount("tmpfs", "/tmp", &[]),
            mount("devpts", "/dev/pts", &[]),
            mount("bind", "/etc", &["ro"]),
            mount("none", "/data", &["rbind"]),
            mount("tmpfs", "/..", &[]),
        ];
        note_places(std::slice::from_mut(&mut storage), &spec);
        begin(&storage, &mut Made::default()).expect("begun");
        assert_eq!(names(&upper), ["run"]);
        assert_eq!(fs::metadata(upper.join("run")).expect("is there").permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn only_the_layers_of_the_root_are_told() {
        let (_folder, _upper, volume) = overlay(&["top"]);
        let disk = Storage { driver: "blk".into(), ..volume.clone() };
        let mut spec = Spec::default();
        spec.Root.mut_or_insert_default().Path = "/root".into();
        spec.Mounts = vec![mount("tmpfs", "/run", &[])];
        let mut storages = [Storage { mount_point: "/volume".into(), ..volume }, disk];
        note_places(&mut storages, &spec);
        assert!(storages.iter().all(|storage| storage.driver_options.is_empty()));
    }
}
