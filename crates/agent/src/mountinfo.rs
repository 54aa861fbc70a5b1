//! Lines of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::path::PathBuf;

/// The fifth field of a line of mountinfo, in which space, tab, line end and backslash stand as `\\040` and their kind.
pub(crate) fn mount_point(line: &str) -> Option<PathBuf> {
    let mut parts = line.split(' ').nth(4)?.split('\\');
    let mut path = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(3)?;
        path.push(char::from(u8::from_str_radix(code, 8).ok()?));
        path.push_str(rest);
    }
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::mount_point;

    #[test]
    fn mount_points_are_read_from_mountinfo() {
        let line = "30 24 0:26 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(mount_point(line), Some("/sys/fs/cgroup/uni fied".into()));
    }

    /// Only spaces were read back from their codes.
    #[test]
    fn every_code_in_a_mount_point_is_read() {
        let line = r"30 24 0:26 / /a\011b\012c\134040 rw - cgroup2 cgroup2 rw";
        assert_eq!(mount_point(line), Some("/a\tb\nc\\040".into()));
        assert_eq!(mount_point(r"30 24 0:26 / /a\9 rw - cgroup2 cgroup2 rw"), None);
    }
}
