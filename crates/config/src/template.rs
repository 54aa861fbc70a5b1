//! The configuration file that is shipped.

/// The file with `@QEMU@`, `@KERNEL@`, `@INITRD@` and `@VIRTIOFSD@` in place of paths.
pub const TEMPLATE: &str = include_str!("../configuration.toml.in");

/// Where an installation has put things; all absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The QEMU binary.
    pub qemu: String,
    /// The guest kernel.
    pub kernel: String,
    /// The guest's initial RAM disk.
    pub initrd: String,
    /// The virtiofsd binary.
    pub virtiofsd: String,
}

impl Default for Placement {
    /// The places of the built-in defaults.
    fn default() -> Self {
        Self {
            qemu: "/usr/bin/qemu-system-x86_64".to_owned(),
            kernel: "/usr/share/kata-containers/vmlinux.container".to_owned(),
            initrd: "/usr/share/kata-containers/kata-containers-initrd.img".to_owned(),
            virtiofsd: "/usr/libexec/virtiofsd".to_owned(),
        }
    }
}

/// The shipped file for one installation.
#[must_use]
pub fn render_template(placement: &Placement) -> String {
    TEMPLATE
        .replace("@QEMU@", &placement.qemu)
        .replace("@KERNEL@", &placement.kernel)
        .replace("@INITRD@", &placement.initrd)
        .replace("@VIRTIOFSD@", &placement.virtiofsd)
}
