//! What the shim is given by containerd, and through it by a client. The first byte says what.
#![no_main]

use containerd_shim_kata_v2::fuzzing::{
    command_line, destination, pod_annotations, role, start_request, subject,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((kind, body)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(body);
    match kind % 5 {
        0 => {
            if let Ok(request) = start_request(body, "default", "web") {
                let only_options = request.ttrpc_address.is_none() && request.socket_dir.is_none();
                assert!(request.protobuf || only_options);
            }
        }
        1 => {
            let words: Vec<String> = text.split('\n').map(str::to_owned).collect();
            for serving in [false, true] {
                if let Some((namespace, id)) = command_line(words.clone(), serving) {
                    assert!(!namespace.is_empty() && !id.is_empty());
                }
            }
        }
        2 => {
            if let Ok((annotations, Some(sandbox))) = role(body) {
                assert!(!sandbox.is_empty() && annotations.values().any(|value| *value == sandbox));
            }
        }
        3 => {
            drop(subject("Kill", body));
            let annotations = pod_annotations(body).unwrap_or_default();
            assert!(annotations.iter().all(|name| name.starts_with("io.katacontainers.")));
        }
        _ => {
            if let Some(path) = destination(&text) {
                assert!(path.is_absolute() || !text.contains("://"));
            }
        }
    }
});
