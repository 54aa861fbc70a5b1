//! Time namespaces: `linux.timeOffsets` (OCI `config-linux.md`, "Offset for Time Namespace").

use std::collections::HashMap;
use std::fmt::Write as _;

use kata_protocol::oci;

use super::error::{JailError, Named, Result};
use super::{namespaces, sys};

/// The clocks that may be set off, time_namespaces(7).
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// Lets the processes that this one makes from now on have clocks of their own, if the container does.
pub(super) fn set_off(linux: &oci::Linux) -> Result<()> {
    match (namespaces::is_own(linux, "time"), linux.TimeOffsets.is_empty()) {
        (false, true) => return Ok(()),
        (false, false) => {
            let text = "linux.timeOffsets needs a time namespace; add one to linux.namespaces";
            return Err(JailError::Refused(text.to_owned()));
        }
        (true, _) => {}
    }
    let lines = lines(&linux.TimeOffsets)?;
    sys::unshare(libc::CLONE_NEWTIME).step("make a time namespace")?;
    if lines.is_empty() {
        return Ok(());
    }
    std::fs::write("/proc/self/timens_offsets", lines)
        .step("set linux.timeOffsets; a clock stands between its beginning and 146 years later")
}

fn lines(offsets: &HashMap<String, oci::LinuxTimeOffset>) -> Result<String> {
    let mut lines = String::new();
    for (clock, offset) in offsets {
        if !CLOCKS.contains(&clock.as_str()) {
            let text = format!(
                "The clock {clock:?} cannot be set off; linux.timeOffsets has monotonic and boottime"
            );
            return Err(JailError::Refused(text));
        }
        let _ = writeln!(lines, "{clock} {} {}", offset.Secs, offset.Nanosecs);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::{lines, oci};

    #[test]
    fn an_offset_has_seconds_and_nanoseconds() {
        let offset = oci::LinuxTimeOffset { Secs: -3, Nanosecs: 5, ..Default::default() };
        assert_eq!(lines(&[("boottime".to_owned(), offset)].into()).expect("known"), "boottime -3 5\n");
    }

    #[test]
    fn an_unknown_clock_is_named() {
        let error = lines(&[("realtime".to_owned(), oci::LinuxTimeOffset::default())].into());
        assert!(error.expect_err("unknown").to_string().contains("\"realtime\""));
    }
}
