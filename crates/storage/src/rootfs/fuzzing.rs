//! The options of a root file system's mounts, for fuzz targets.

use super::options::Options;

/// What the kernel is told: flags, the text for the file system, and the directory that its paths are relative to.
#[derive(Debug)]
pub struct RootfsOrders {
    /// `MS_*`.
    pub flags: u32,
    /// It is a bind mount, and with all below its source.
    pub bind: (bool, bool),
    /// The options for the file system, before they were made to fit into a page.
    pub asked: Vec<String>,
    /// What the file system is told, and what its paths are relative to; none if it does not fit into a page.
    pub told: Option<(Option<String>, Option<String>)>,
}

/// The meaning of a mount's options; none if one is refused.
#[must_use]
pub fn rootfs_options(options: &[String]) -> Option<RootfsOrders> {
    let parsed = Options::parse(options).ok()?;
    let told = parsed.data_within_a_page().ok();
    Some(RootfsOrders {
        flags: parsed.flags.bits(),
        bind: (parsed.bind, parsed.recursive),
        asked: parsed.data,
        told,
    })
}
