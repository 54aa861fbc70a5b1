//! What a container writes to its root file system, where that has a limit: an image of that size, which the guest lays over
//! the root.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::block::DiskImage;
use crate::image::{self, ImageError, Use};
use crate::share::ContainerFiles;
use crate::trail::StepError;

impl ContainerFiles {
    /// Makes the image in `dir`, under `name`. The root file system is only read from then on.
    ///
    /// # Errors
    /// It cannot be made. What was made is taken back by [`ContainerFiles::remove`].
    pub fn make_layer(&mut self, dir: &Path, name: &str, size: u64) -> Result<DiskImage, ImageError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        // The clean-up follows no links.
        let real = made.and_then(|()| fs::canonicalize(dir));
        let path = real.map_err(|source| ImageError::File { path: dir.to_owned(), source })?.join(name);
        let layer = self.layer.insert(self.trail.branch());
        image::make(layer, &path, size, Use::Once)?;
        Ok(DiskImage::at(path, false))
    }

    /// Takes the image's name away, once the VMM has it: it ends with the container and leaves nothing, even if the host fails.
    ///
    /// # Errors
    /// Its name cannot be removed.
    pub fn forget_layer(&mut self) -> Result<(), StepError> {
        self.layer.as_mut().map_or(Ok(()), crate::trail::Trail::undo)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::share::SharedDirectory;
    use crate::testing::{MemoryLog, in_private_mounts};

    #[test]
    fn a_root_below_a_limited_layer_is_only_read_and_the_image_loses_its_name() {
        in_private_mounts(|| {
            let temp = tempfile::tempdir().unwrap();
            let log = MemoryLog::new();
            let mut share = SharedDirectory::create(temp.path(), "sandbox", log.clone()).unwrap();
            let mut files = share.container("c1").unwrap();
            let (root, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            // The clean-up, which follows no links, could not remove it.
            std::os::unix::fs::symlink(images.path(), temp.path().join("link")).unwrap();
            let image = files.make_layer(&temp.path().join("link/a/b"), "sandbox-c1", 8 << 20).unwrap();
            assert_eq!(fs::metadata(&image.path).unwrap().len(), 8 << 20);
            files.mount_rootfs(&[], root.path()).unwrap();
            assert!(fs::write(share.exported_dir().join("passthrough/c1/rootfs/new"), "").is_err());
            files.forget_layer().unwrap();
            assert!(!image.path.exists());
            files.remove().unwrap();
            assert!(files.is_removed());
            share.remove().unwrap();
            assert!(log.open().is_empty());
        });
    }

    #[test]
    fn an_image_that_no_vm_got_goes_with_its_container() {
        in_private_mounts(|| {
            let temp = tempfile::tempdir().unwrap();
            let share = SharedDirectory::create(temp.path(), "sandbox", MemoryLog::new()).unwrap();
            let mut files = share.container("c1").unwrap();
            let image = files.make_layer(temp.path(), "image", 8 << 20).unwrap();
            files.remove().unwrap();
            assert!(!image.path.exists());
        });
    }
}
