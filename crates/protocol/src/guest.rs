//! Names inside the guest that both ends must agree on.

/// Where the sandbox's shared directory is mounted.
pub const SHARED_DIR: &str = "/run/kata-containers/shared/containers/";
/// Where the file systems of a daemon that has several are mounted (nydusd), [`SHARED_DIR`] among them.
pub const SHARE_ROOT: &str = "/run/kata-containers/shared";
/// The shared directory in there.
pub const SHARE: &str = "containers";
/// The images in there, one below each container's id.
pub const RAFS: &str = "rafs";
/// Where memory is mounted that the sandbox's containers share.
pub const SHARED_MEMORY_DIR: &str = "/run/kata-containers/sandbox/";
/// Driver option of memory or of a disk that names a directory to be made in it: `<this>=<mode, octal>:<group>:<relative path>`.
pub const VOLUME_DIRECTORY: &str = "io.katacontainers.volume.ephemeral.create_directory";
/// Driver option of huge pages that says how many bytes of them the container may use, which are made ready for it.
pub const HUGE_PAGES: &str = "io.katacontainers.volume.hugepages.reserve";
/// Where containers have directories of their own, for what is mounted from disks.
pub const CONTAINERS_DIR: &str = "/run/kata-containers/";
/// Where the layers of root file systems are mounted from disks.
pub const LAYERS_DIR: &str = "/run/kata-containers/sandbox/layers/";
/// The driver of a root file system that the guest pulls, and its option with JSON about it.
pub const IMAGE_GUEST_PULL: &str = "image_guest_pull";
/// The program that pulls images, in the initrd with guest pull.
pub const IMAGE_PULL_PROGRAM: &str = "/usr/bin/kata-image-pull";
/// The virtio-fs tag of the shared directory.
pub const SHARE_TAG: &str = "kataShared";
/// The virtio-serial port that carries the agent's streams when there is no vsock.
pub const SERIAL_PORT: &str = "org.katacontainers.agent.0";

/// Where the volumes of all containers are, below [`SHARED_DIR`].
pub const VOLUMES: &str = "volumes";
