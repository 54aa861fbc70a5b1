//! Texts that are shown or searched: the guest's console and metrics, QEMU's standard error, lines of the kernel's files.
#![no_main]

use kata_agent::fuzzing::{kernel_command_line, mount_point};
use kata_fuzz::is_printable;
use kata_metrics::{Selection, admit};
use kata_sandbox::fuzzing::{console, ids};
use kata_transport::fuzzing::hybrid_reply;
use kata_vmm::qemu::fuzzing::{diagnosis, version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    assert!(is_printable(&console(&text)));
    let (cause, _) = diagnosis(&text);
    assert!(cause.is_none_or(|cause| text.contains(&cause)));
    let _ = version(&text);
    let _ = kernel_command_line(&text);
    if let Some(port) = hybrid_reply(&text) {
        assert_eq!(text.trim_start_matches("OK ").trim_start_matches('0').parse().unwrap_or(0), port);
    }
    if ids(&text).contains(&true) {
        let path = std::path::Path::new("/run").join(&*text);
        assert_eq!(path.parent(), Some("/run".as_ref()));
    }
    let _ = mount_point(&text);
    mounted(&text);
    told(&text);
});

/// A guest tells its own families only, and what was taken of them is well-formed.
fn told(text: &str) {
    let own = ["kata_agent_", "kata_guest_"];
    for selection in [Selection::brief(), Selection::all()] {
        let taken = admit(text, &selection);
        for line in taken.lines() {
            let name = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
            assert!(own.iter().any(|own| name.starts_with(own)), "{line:?}");
        }
        assert_eq!(admit(&taken, &selection), taken);
    }
}

/// The kernel escapes what would end a field.
fn mounted(path: &str) {
    let escaped: String = path
        .chars()
        .map(|c| match c {
            ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    let line = format!("30 23 0:26 / {escaped} rw,nosuid shared:4 - cgroup2 cgroup2 rw");
    assert_eq!(mount_point(&line).as_deref(), Some(path.as_ref()), "{line:?}");
}
