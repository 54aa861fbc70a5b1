//! Giving direct-assigned volumes to a VM: in place of the bind mount of a directory a disk, which the guest mounts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kata_intent::Intents;
use kata_protocol::agent::{FSGroup, Storage};
use kata_protocol::{guest, types};
use kata_storage::block::{DiskImage, Found};
use kata_storage::direct_volume::{ChangePolicy, DirectVolumeError, DirectVolumes, MountInfo};
use kata_vmm::DiskHotplug;
use oci_spec::runtime::Spec;

use super::Assigned;
use crate::ContainerId;
use crate::disks::{DiskFailure, Disks, driver};

/// Where the guest has them mounted, below its directory of what containers share.
const PLACE: &str = "volumes";

/// The direct-assigned volumes of one sandbox.
pub(crate) struct Assigning {
    volumes: DirectVolumes,
    sandbox: String,
    intents: Arc<dyn Intents>,
    /// By their paths on the host. One stays although no container may have it any more.
    known: Mutex<HashMap<PathBuf, Assigned>>,
}

/// One that a container wants, and that the sandbox may have.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) volume: PathBuf,
    pub(crate) guest_path: PathBuf,
    info: MountInfo,
    device: Found,
}

impl Claimed {
    fn image(&self) -> DiskImage {
        let (path, read_only) = (self.info.device.clone(), self.info.is_read_only());
        DiskImage { path, read_only, found: Some(self.device.clone()) }
    }

    /// What the guest mounts.
    fn storage(&self, driver: &str, source: String) -> Storage {
        let group = self.info.fs_group.map(|group_id| FSGroup {
            group_id,
            group_change_policy: match self.info.fs_group_change_policy {
                Some(ChangePolicy::OnRootMismatch) => types::FSGroupChangePolicy::OnRootMismatch.into(),
                Some(ChangePolicy::Always) | None => types::FSGroupChangePolicy::Always.into(),
            },
            ..FSGroup::default()
        });
        Storage {
            driver: driver.to_owned(),
            source,
            fstype: self.info.fs_type.clone(),
            options: self.info.options.clone(),
            mount_point: self.guest_path.to_string_lossy().into_owned(),
            fs_group: group.into(),
            ..Storage::default()
        }
    }
}

impl Assigning {
    pub(crate) fn new(volumes: DirectVolumes, sandbox: &str, intents: Arc<dyn Intents>) -> Self {
        Self { volumes, sandbox: sandbox.to_owned(), intents, known: Mutex::default() }
    }

    /// Those of a container. From now on, and until its intents are undone, they are this sandbox's.
    pub(crate) fn claim(&self, spec: &Spec, bundle: &Path) -> Result<Vec<Claimed>, DirectVolumeError> {
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let mut found = Vec::new();
        for (volume, info) in self.volumes.among(mounts, bundle)? {
            // Who wrote it down saw the device then.
            match info.open_device() {
                Ok(device) => found.push((volume, info, device.file.into())),
                Err(source) => return Err(DirectVolumeError::Info { volume, source }),
            }
        }
        // All of them are there: one that is claimed cannot be put right before the sandbox ends.
        let mut claimed = Vec::new();
        for (volume, info, device) in found {
            self.volumes.claim(&volume, &self.sandbox, &self.intents)?;
            let guest_path = self.place(&volume);
            claimed.push(Claimed { volume, guest_path, info, device });
        }
        Ok(claimed)
    }

    /// Has the VM take the disks; what the guest must mount. What a failure leaves is taken out by [`Disks::detach`].
    pub(crate) async fn attach(
        &self,
        container: &ContainerId,
        claimed: &[Claimed],
        disks: &Disks,
        vm: Option<&dyn DiskHotplug>,
    ) -> Result<Vec<Storage>, DiskFailure> {
        let mut storages = Vec::new();
        for volume in claimed {
            let vm = vm.ok_or(DiskFailure::NoHotplug)?;
            let image = volume.image();
            let address = disks.attach(container, &image, vm).await?;
            let disk = disks.name(&image).await;
            if let Some(known) = self.known().get_mut(&volume.volume) {
                known.disk = disk;
            }
            storages.push(volume.storage(driver(&address), address.to_string()));
        }
        Ok(storages)
    }

    /// The volume that is at this path on the host, if the VM has it.
    pub(crate) fn assigned(&self, volume: &Path) -> Option<Assigned> {
        // Slashes in a row or at the end mean nothing.
        let found = self.known().get(&volume.components().collect::<PathBuf>()).cloned();
        found.filter(|assigned| assigned.disk.is_some())
    }

    fn place(&self, volume: &Path) -> PathBuf {
        let mut known = self.known();
        let number = known.len();
        let new = || Assigned {
            disk: None,
            guest_path: Path::new(guest::SHARED_MEMORY_DIR).join(PLACE).join(number.to_string()),
        };
        known.entry(volume.components().collect()).or_insert_with(new).guest_path.clone()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Assigned>> {
        // Every change is complete before anything can panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use kata_vmm::{Disk, DiskAddress, VmmError};
    use serde_json::json;

    use super::*;
    use crate::direct::direct_volumes_below;
    use crate::disks::Manner;
    use crate::intent_log::IntentLog;

    /// A VM that holds the disks.
    #[derive(Default)]
    struct Vm(Mutex<Vec<Disk>>);

    #[async_trait]
    impl DiskHotplug for Vm {
        async fn add_disk(&self, disk: Disk) -> Result<DiskAddress, VmmError> {
            self.0.lock().unwrap().push(disk);
            Ok(DiskAddress::Pci("02/00".to_owned()))
        }

        async fn remove_disk(&self, _: &str) -> Result<(), VmmError> {
            Ok(())
        }

        async fn resize_disk(&self, _: &str, _: u64) -> Result<(), VmmError> {
            Ok(())
        }

        fn disk_address(&self, _: &str) -> Option<DiskAddress> {
            None
        }
    }

    struct Scene {
        dir: tempfile::TempDir,
        intents: Arc<IntentLog>,
        spec: Spec,
    }

    impl Scene {
        /// A volume on an image, twice in a container.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("image"), "x").unwrap();
            fs::create_dir_all(dir.path().join("state/mine")).unwrap();
            let intents = Arc::new(IntentLog::open(&dir.path().join("state/mine")).unwrap());
            intents.own(None).unwrap();
            let mount = |to: &str, from: &str| json!({ "destination": to, "type": "bind", "source": from });
            let mounts = [mount("/a", "/volume"), mount("/b", "/volume/"), mount("/etc", "/etc")];
            let spec = serde_json::from_value(json!({ "ociVersion": "1.1.0", "mounts": mounts })).unwrap();
            let scene = Self { dir, intents, spec };
            let device = scene.dir.path().join("image");
            let info = json!({
                "volume-type": "block", "device": device, "fstype": "ext4", "options": ["noatime"],
                "metadata": { "fsGroup": "5", "fsGroupChangePolicy": "OnRootMismatch" },
            });
            let info = MountInfo::parse(info.to_string().as_bytes()).unwrap();
            scene.volumes().add("/volume".as_ref(), &info).unwrap();
            scene
        }

        fn volumes(&self) -> DirectVolumes {
            direct_volumes_below(self.dir.path(), &self.dir.path().join("state"))
        }

        fn assigning(&self, sandbox: &str) -> Assigning {
            Assigning::new(self.volumes(), sandbox, Arc::<IntentLog>::clone(&self.intents))
        }
    }

    #[tokio::test]
    async fn a_volume_is_a_disk_that_the_guest_mounts() {
        let (scene, vm) = (Scene::new(), Vm::default());
        let disks = Disks::new(Manner::default());
        let assigning = scene.assigning("mine");
        assert_eq!(assigning.assigned("/volume".as_ref()), None);
        let claimed = assigning.claim(&scene.spec, "/bundle".as_ref()).unwrap();
        let container = "c".parse().unwrap();
        let storages = assigning.attach(&container, &claimed, &disks, Some(&vm)).await.unwrap();
        let [storage]: [Storage; 1] = storages.try_into().unwrap();
        let path = "/run/kata-containers/sandbox/volumes/0";
        assert_eq!((storage.driver.as_str(), storage.source.as_str()), ("blk", "02/00"));
        assert_eq!((storage.fstype.as_str(), storage.mount_point.as_str()), ("ext4", path));
        assert_eq!(storage.options, ["noatime"]);
        let group = storage.fs_group.unwrap();
        assert_eq!((group.group_id, group.group_change_policy.value()), (5, 1));
        let disk = vm.0.lock().unwrap()[0].id.clone();
        let assigned = Assigned { disk: Some(disk), guest_path: path.into() };
        assert_eq!(assigning.assigned("/volume/".as_ref()), Some(assigned));
        assert_eq!(scene.volumes().user("/volume".as_ref()).unwrap().as_deref(), Some("mine"));
    }

    /// The path was looked up once more for the VM, links and all: who may rename the image could have it given a disk of the
    /// host's.
    #[tokio::test]
    async fn the_vm_has_the_device_that_was_looked_at() {
        let (scene, vm) = (Scene::new(), Vm::default());
        let (image, moved) = (scene.dir.path().join("image"), scene.dir.path().join("moved"));
        let assigning = scene.assigning("mine");
        let claimed = assigning.claim(&scene.spec, "/bundle".as_ref()).unwrap();
        fs::rename(&image, &moved).unwrap();
        fs::write(scene.dir.path().join("other"), "another's").unwrap();
        std::os::unix::fs::symlink("other", &image).unwrap();
        let disks = Disks::new(Manner::default());
        assigning.attach(&"c".parse().unwrap(), &claimed, &disks, Some(&vm)).await.unwrap();
        let given = fs::File::from(vm.0.lock().unwrap()[0].file.try_clone().unwrap());
        assert_eq!(given.metadata().unwrap().ino(), fs::metadata(&moved).unwrap().ino());
        let attached = assigning.assigned("/volume".as_ref());
        assert!(attached.is_some(), "by what it is, too");
    }

    #[tokio::test]
    async fn a_device_in_use_is_told_by_its_own_path() {
        let (scene, vm) = (Scene::new(), Vm::default());
        let assigning = scene.assigning("mine");
        let claimed = assigning.claim(&scene.spec, "/bundle".as_ref()).unwrap();
        let image = scene.dir.path().join("image");
        let user = DiskImage::at(image.clone(), false);
        let _used = user.open().unwrap();
        let disks = Disks::new(Manner::default());
        let refused = assigning.attach(&"c".parse().unwrap(), &claimed, &disks, Some(&vm)).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(image.to_str().unwrap()), "{text}");
    }

    #[test]
    fn a_volume_of_another_sandbox_is_not_given() {
        let scene = Scene::new();
        scene.assigning("mine").claim(&scene.spec, "/bundle".as_ref()).unwrap();
        let refused = scene.assigning("other").claim(&scene.spec, "/bundle".as_ref());
        assert!(matches!(refused, Err(DirectVolumeError::InUse { sandbox, .. }) if sandbox == "mine"));
    }

    #[test]
    fn a_device_that_has_gone_is_told_with_its_volume() {
        let scene = Scene::new();
        fs::remove_file(scene.dir.path().join("image")).unwrap();
        let refused = scene.assigning("mine").claim(&scene.spec, "/bundle".as_ref()).unwrap_err();
        assert!(refused.to_string().contains("\"/volume\""), "{refused}");
        let user = scene.volumes().user("/volume".as_ref()).unwrap();
        assert_eq!(user, None, "what is wrong about it could not be put right");
    }
}
