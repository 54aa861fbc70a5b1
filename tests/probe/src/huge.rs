//! Huge pages: `kata-probe huge FILE BYTES` maps so much of a file and tells the size of its pages.

use std::fs::{self, OpenOptions};
use std::io;

use crate::report::Report;
use crate::sys::Mapping;

/// Makes the file, maps it and writes to it.
pub(crate) fn tell(report: &mut Report, path: &str, bytes: &str) -> io::Result<()> {
    let length: usize = bytes.parse().map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    file.set_len(length as u64)?;
    let map = Mapping::shared(&file, length)?;
    for at in (0..length).step_by(4096) {
        map.set(at, 7);
    }
    report.tell("written", map.byte(length - 4096));
    let maps = fs::read_to_string("/proc/self/smaps")?;
    let own = maps.lines().skip_while(|line| !line.ends_with(path));
    let page = own.filter_map(|line| line.strip_prefix("KernelPageSize:")).next();
    report.tell("page", page.unwrap_or_default().trim());
    Ok(())
}
