//! The mount by which nydus-snapshotter names an image: options, one a line; a line that begins with `{` is what one of
//! them has in Base64.
#![no_main]

use data_encoding::BASE64;
use kata_storage::fuzzing::nydus_rootfs;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let option = |line: &str| match line.starts_with('{') {
        true => format!("extraoption={}", BASE64.encode(line.as_bytes())),
        false => line.to_owned(),
    };
    let options: Vec<String> = text.split('\n').map(option).collect();
    let orders = nydus_rootfs(&options);
    if let Some(host) = &orders.host {
        assert!(host.iter().all(|option| !option.starts_with("extraoption=")));
        assert!(host.iter().any(|option| option.starts_with("lowerdir=")));
    }
    if let Some((source, config, snapshot)) = &orders.image {
        assert!(source.starts_with('/') && !source.split('/').any(|part| part == ".."));
        assert!(snapshot.is_absolute());
        assert!(serde_json::from_str::<Value>(config).is_ok_and(|config| config.is_object()));
        // The layers are those that the runtime names, whatever else is asked for.
        for (name, place) in [
            ("lowerdir=", "/run/kata-containers/shared/rafs/c1/lowerdir"),
            ("upperdir=", "/share/c1/snapshotdir/fs"),
            ("workdir=", "/share/c1/snapshotdir/work"),
        ] {
            let mut found = orders.guest.iter().filter_map(|option| option.strip_prefix(name));
            assert!(found.next() == Some(place) && found.next().is_none());
        }
    }
});
