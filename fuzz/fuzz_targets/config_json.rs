//! A client's `config.json`: what the host makes of it, and what the agent makes of that.
#![no_main]

use kata_fuzz::request;
use kata_protocol::{oci, oci_convert};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime;
use protobuf::Message;

fuzz_target!(|config: &[u8]| {
    let Ok(spec) = serde_json::from_slice::<runtime::Spec>(config) else { return };
    let _ = oci_convert::unsupported(&spec);
    let sent = oci_convert::spec_to_grpc(&spec);
    let bytes = sent.write_to_bytes().expect("is data");
    assert_eq!(oci::Spec::parse_from_bytes(&bytes).expect("was written by us"), sent);
    count(&spec, &sent);
    request::container("fuzzed", &sent, &[]);
    if let Some(process) = spec.process() {
        let mut process = oci_convert::process_to_grpc(process);
        assert_eq!(Some(&process), sent.Process.as_ref());
        request::process(&mut process);
    }
});

/// Nothing of a list is lost on the way.
fn count(spec: &runtime::Spec, sent: &oci::Spec) {
    let length = |list: &Option<Vec<_>>| list.as_ref().map_or(0, Vec::len);
    assert_eq!(length(spec.mounts()), sent.Mounts.len());
    let Some(linux) = spec.linux() else { return };
    let devices = linux.devices().as_ref().map_or(0, Vec::len);
    assert_eq!(devices, sent.Linux.Devices.len());
    let Some(resources) = linux.resources() else { return };
    let rules = resources.devices().as_deref().unwrap_or_default();
    assert_eq!(rules.len(), sent.Linux.Resources.Devices.len());
    for (rule, sent) in rules.iter().zip(&sent.Linux.Resources.Devices) {
        assert_eq!((rule.allow(), rule.major().unwrap_or(-1)), (sent.Allow, sent.Major));
        assert_eq!(rule.minor().unwrap_or(-1), sent.Minor);
    }
}
