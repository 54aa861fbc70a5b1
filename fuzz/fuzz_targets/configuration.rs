//! Configuration files of an administrator and annotations of a user: base file, drop-in and annotations
//! (`name=value`), with lines `%%` between them.
#![no_main]

use std::collections::BTreeMap;

use kata_config::fuzzing::load_texts;
use kata_config::{Config, KernelParams, LoadRequest, Origin};
use libfuzzer_sys::fuzz_target;

/// Annotations below `hypervisor` that are permitted where no file says anything.
const PERMITTED: [&str; 5] =
    ["enable_iommu", "kernel_params", "kernel_verity_params", "default_vcpus", "default_memory"];

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.splitn(3, "\n%%\n");
    let [base, drop_in, annotations] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let annotations: BTreeMap<String, String> = annotations.lines().filter_map(pair).collect();
    let request = LoadRequest { annotations, host_cpus: 4, ..LoadRequest::default() };
    match load_texts(base, drop_in, &request) {
        Ok(config) => {
            usable(&config);
            if !format!("{base}{drop_in}").contains("annotations") {
                permitted(&config);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn usable(config: &Config) {
    let vm = &config.hypervisor;
    assert!(vm.default_vcpus >= 1 && vm.default_vcpus <= vm.default_maxvcpus && vm.default_memory_mib > 0);
    let words = vm.kernel_params.to_words();
    assert_eq!(KernelParams::parse(&words.join(" ")).expect("was accepted").to_words(), words);
}

/// A user changes nothing of the VM that the administrator has not permitted.
fn permitted(config: &Config) {
    for (key, setting) in config.sources.iter() {
        let Origin::Annotation { name } = &setting.origin else { continue };
        if let Some(name) = name.strip_prefix("io.katacontainers.config.hypervisor.") {
            assert!(PERMITTED.contains(&name), "{key} was set by {name}");
        }
    }
}
