//! Extended attributes, and among them POSIX access control lists.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr, listxattr, lsetxattr, removexattr, setxattr};

use super::{Checks, outcome};
use crate::sys::as_user;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

pub(super) const CHECKS: Checks = &[
    ("user attributes are set, listed and removed", |dir| {
        let path = file(dir)?;
        set(&path, "user.test", b"value")?;
        let listed = names(&path)?;
        removexattr(&path, "user.test")?;
        Ok(format!("{listed} {}", outcome(get(&path, "user.test").map(drop))))
    }),
    ("an attribute is made or replaced as asked for", |dir| {
        let path = file(dir)?;
        let replaced = outcome(setxattr(&path, "user.a", b"x", XattrFlags::REPLACE));
        set(&path, "user.a", b"x")?;
        Ok(format!("{replaced} {}", outcome(setxattr(&path, "user.a", b"x", XattrFlags::CREATE))))
    }),
    ("an empty attribute", |dir| {
        let path = file(dir)?;
        set(&path, "user.empty", b"")?;
        Ok(format!("{:?}", get(&path, "user.empty")?))
    }),
    ("an attribute of 2,000 bytes", |dir| {
        let path = file(dir)?;
        set(&path, "user.long", &[7; 2000])?;
        Ok(get(&path, "user.long")?.len().to_string())
    }),
    ("a buffer that is too small", |dir| {
        let path = file(dir)?;
        set(&path, "user.a", b"value")?;
        Ok(outcome(getxattr(&path, "user.a", &mut [0_u8; 2]).map(drop)))
    }),
    ("attributes of a folder", |dir| Ok(outcome(set(dir, "user.folder", b"x")))),
    ("user attributes of a symbolic link", |dir| {
        symlink("nowhere", dir.join("a"))?;
        Ok(outcome(lsetxattr(dir.join("a"), "user.a", b"x", XattrFlags::empty())))
    }),
    ("trusted attributes", |dir| Ok(outcome(set(&file(dir)?, "trusted.a", b"x")))),
    ("attributes without a known family", |dir| Ok(outcome(set(&file(dir)?, "other.a", b"x")))),
    ("file capabilities", |dir| {
        let path = file(dir)?;
        let done = outcome(set(&path, "security.capability", &CAPABILITY));
        Ok(format!("{done} {:?}", get(&path, "security.capability").unwrap_or_default()))
    }),
    ("file capabilities go with a write", |dir| {
        let path = file(dir)?;
        set(&path, "security.capability", &CAPABILITY)?;
        fs::write(&path, "new")?;
        Ok(outcome(get(&path, "security.capability").map(drop)))
    }),
    ("user attributes need the right to write", |dir| {
        let path = file(dir)?;
        as_user(9, 9, || set(&path, "user.a", b"x"))
    }),
    ("an access list is kept and is the mode", |dir| {
        let path = file(dir)?;
        set(&path, ACCESS, &list(6))?;
        let kept = get(&path, ACCESS)? == list(6);
        Ok(format!("{kept} {:o}", fs::metadata(&path)?.mode() & 0o777))
    }),
    ("an access list lets the user in it read", |dir| {
        let path = file(dir)?;
        fs::set_permissions(dir, PermissionsExt::from_mode(0o777))?;
        set(&path, ACCESS, &list(4))?;
        let open = |user| as_user(user, 9, || File::open(&path).map(drop));
        Ok(format!("{} {}", open(1000)?, open(9)?))
    }),
    ("a folder's default list is that of new files", |dir| {
        set(dir, DEFAULT, &list(7))?;
        fs::write(dir.join("a"), "")?;
        Ok(format!(
            "{} {:o}",
            get(&dir.join("a"), ACCESS)?.len(),
            fs::metadata(dir.join("a"))?.mode() & 0o777
        ))
    }),
];

/// `cap_net_raw` permitted and effective, second version of the format.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn file(dir: &Path) -> io::Result<PathBuf> {
    let path = dir.join("file");
    fs::write(&path, "content")?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    Ok(path)
}

fn set(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(setxattr(path, name, value, XattrFlags::empty())?)
}

fn get(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let length = getxattr(path, name, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Those of users' own; the host may have labels.
fn names(path: &Path) -> io::Result<String> {
    let mut buffer = vec![0_u8; 4096];
    let length = listxattr(path, &mut buffer)?;
    let all = buffer[..length].split(|byte| *byte == 0).map(String::from_utf8_lossy);
    Ok(all.filter(|name| name.starts_with("user.")).collect::<Vec<_>>().join(" "))
}

/// Read and write for the owner, `rights` for user 1000, nothing for the rest.
fn list(rights: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, NOBODY), (2, rights, 1000), (4, 0, NOBODY), (16, rights, NOBODY), (32, 0, NOBODY)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (kind, rights, id) in entries {
        bytes.extend(kind.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(id.to_le_bytes()));
    }
    bytes
}
